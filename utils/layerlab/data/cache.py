"""Arrays kept on disk under a name that says what made them, and never believed without their checksum.

The folder is `LAYERLAB_CACHE`, else `layerlab` in `XDG_CACHE_HOME` or `~/.cache`. It may be deleted at any
time. Where it cannot be written, arrays are made anew each time.
"""

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]
_DIGEST = hashlib.sha256().digest_size


def folder() -> Path:
    """Where the arrays are kept; the folder need not exist."""
    if named := os.environ.get("LAYERLAB_CACHE"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "layerlab"


def cached(name: str, key: Mapping[str, object], make: Callable[[], Arrays]) -> Arrays:
    """What `make()` returns, read from disk when it was made before with an equal `key`.

    `key` is whatever the arrays depend on, as JSON: settings, the source that makes them, hashes of its
    inputs. The versions of numpy, scipy and matplotlib are added, since they draw and filter. A file that is
    damaged, cut short or unreadable is made again and replaced.
    """
    libraries = {package: version(package) for package in ("numpy", "scipy", "matplotlib")}
    text = json.dumps([name, dict(key), libraries], sort_keys=True)
    try:
        place = folder()
    except RuntimeError:  # a user without a home
        return make()
    path = place / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz.sum"
    try:
        content = path.read_bytes()
        digest, packed = content[:_DIGEST], content[_DIGEST:]
        if hashlib.sha256(packed).digest() == digest:
            with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
                return dict(arrays)
    except OSError:
        pass
    arrays = make()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    _write(path, hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue())
    return arrays


def _write(path: Path, content: bytes) -> None:
    """Puts a whole file in place at once, or nothing where the folder does not allow it."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
