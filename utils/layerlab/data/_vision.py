"""The standard small picture sets, read by torchvision from files that the reader has or lets it download."""

import os
from pathlib import Path

import torch

from ._torchvision import torchvision
from .types import Dataset, Split

_CLASSES = {"MNIST": "MNIST", "Fashion-MNIST": "FashionMNIST", "KMNIST": "KMNIST", "CIFAR-10": "CIFAR10"}


def vision(name: str, root: str | os.PathLike | None = None, *, download: bool = False) -> Dataset:
    """MNIST, Fashion-MNIST, KMNIST (each N, 1, 28, 28) or CIFAR-10 (N, 3, 32, 32), in their makers' splits.

    `name` is read without regard to case, hyphens and underscores. `root` is the folder that torchvision
    keeps its files in, by default the one that the environment variable `BOOK_DATA` names. Nothing is fetched
    unless `download` is true; then files that are there already, packed or unpacked, are used and the rest is
    fetched.

    Raises ValueError for an unknown name or no folder, ModuleNotFoundError without torchvision,
    FileNotFoundError when files are missing or differ from the published ones, and OSError when they cannot
    be read or fetched. Each says what to do.
    """
    known = {_plain(title): title for title in _CLASSES}
    if _plain(name) not in known:
        raise ValueError(f"name: expected one of {', '.join(_CLASSES)}, got {name!r}")
    title = known[_plain(name)]
    source = getattr(torchvision().datasets, _CLASSES[title])
    root = root or os.environ.get("BOOK_DATA")
    if not root:
        advice = _advice(title, source, Path("<folder>"))
        raise ValueError(f"root: expected a folder, as an argument or in the variable BOOK_DATA. {advice}")
    root = Path(root).expanduser()
    try:
        parts = [source(root, train=train, download=download) for train in (True, False)]
        splits = [_split(part.data, part.targets) for part in parts]
    except Exception as error:  # torchvision passes on whatever opening, parsing or fetching a file raises
        kind = FileNotFoundError if "not found" in str(error) else OSError
        reason = f"{type(error).__name__}: {error}"
        raise kind(
            f"{title}: no complete, readable files in {root}. {_advice(title, source, root)}\n({reason})"
        ) from error
    return Dataset(title, *splits, classes=tuple(parts[0].classes))


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _split(pixels, targets) -> Split:
    """Pixels of 0 to 255, (N, H, W) or (N, H, W, C), and labels, in the library's form."""
    X = torch.as_tensor(pixels)
    X = X[:, None] if X.ndim == 3 else X.movedim(-1, 1)
    return Split(X.contiguous().float().div_(255), torch.as_tensor(targets).long())


def _advice(title: str, source: type, root: Path) -> str:
    """What to download, from where, and where to put it."""
    if hasattr(source, "url"):
        addresses, folder = [source.url], root
    else:
        addresses = [source.mirrors[0] + file for file, _ in source.resources]
        folder = root / source.__name__ / "raw"
    return (
        f"Call vision({title!r}, {str(root)!r}, download=True) to fetch them; or put the files below into "
        f"{folder} and make the same call, which then checks and unpacks them and fetches nothing.\n  "
        + "\n  ".join(addresses)
    )
