"""torchvision's data sets, read from small files in the real formats."""

import gzip
import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from layerlab.data import vision
from layerlab.data._torchvision import torchvision

RNG = np.random.default_rng(0)
IMAGES = {
    "train": RNG.integers(0, 256, (20, 28, 28), dtype=np.uint8),
    "t10k": RNG.integers(0, 256, (7, 28, 28), dtype=np.uint8),
}
LABELS = {"train": np.arange(20, dtype=np.uint8) % 10, "t10k": np.arange(7, dtype=np.uint8)}


def idx(array: np.ndarray) -> bytes:
    """The IDX format: two zero bytes, 8 for unsigned bytes, the number of axes, each length, the values."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


def idx_files() -> dict[str, bytes]:
    files = {}
    for part in ("train", "t10k"):
        files[f"{part}-images-idx3-ubyte"] = idx(IMAGES[part])
        files[f"{part}-labels-idx1-ubyte"] = idx(LABELS[part])
    return files


def write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def check(data, name):
    assert data.name == name
    assert data.train.X.shape == (20, 1, 28, 28)
    assert data.test.X.shape == (7, 1, 28, 28)
    assert data.train.X.dtype == torch.float32
    assert data.train.y.dtype == torch.int64
    assert np.array_equal((data.train.X[:, 0] * 255).round().numpy(), IMAGES["train"])
    assert np.array_equal((data.test.X[:, 0] * 255).round().numpy(), IMAGES["t10k"])
    assert data.test.y.tolist() == list(range(7))
    assert data.train.X.max() <= 1
    assert len(data.classes) == 10


@pytest.mark.parametrize(
    ("asked", "name", "folder"),
    [
        ("MNIST", "MNIST", "MNIST"),
        ("fashion_mnist", "Fashion-MNIST", "FashionMNIST"),
        ("FashionMNIST", "Fashion-MNIST", "FashionMNIST"),
        ("kmnist", "KMNIST", "KMNIST"),
    ],
)
def test_unpacked_idx_files_are_read(tmp_path, asked, name, folder):
    write(tmp_path / folder / "raw", idx_files())
    check(vision(asked, tmp_path), name)


def test_the_variable_names_the_folder(tmp_path, monkeypatch):
    write(tmp_path / "MNIST" / "raw", idx_files())
    monkeypatch.setenv("BOOK_DATA", str(tmp_path))
    check(vision("mnist"), "MNIST")


def test_packed_files_put_in_place_are_unpacked_and_nothing_is_fetched(tmp_path, monkeypatch):
    packed = {f"{name}.gz": gzip.compress(content) for name, content in idx_files().items()}
    write(tmp_path / "KMNIST" / "raw", packed)
    # torchvision knows the checksums of the published files; these small ones have others
    sums = [(name, hashlib.md5(content).hexdigest()) for name, content in packed.items()]
    monkeypatch.setattr(torchvision().datasets.KMNIST, "resources", sums)
    with pytest.raises(FileNotFoundError):
        vision("KMNIST", tmp_path)
    check(vision("KMNIST", tmp_path, download=True), "KMNIST")
    check(vision("KMNIST", tmp_path), "KMNIST")


def cifar_files() -> dict[str, bytes]:
    rng = np.random.default_rng(1)
    files = {}
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        pixels = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        files[name] = pickle.dumps({"data": pixels, "labels": [0, 1, 2, 9]}, protocol=2)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    files["batches.meta"] = pickle.dumps({"label_names": names}, protocol=2)
    return files


def know(monkeypatch, files: dict[str, bytes]) -> None:
    """Gives torchvision the checksums of these files in the place of the published ones'."""
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    source = torchvision().datasets.CIFAR10
    monkeypatch.setattr(
        source, "train_list", [[f"data_batch_{i}", sums[f"data_batch_{i}"]] for i in range(1, 6)]
    )
    monkeypatch.setattr(source, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": sums["batches.meta"]})


def test_cifar_batches_are_read_channels_first(tmp_path, monkeypatch):
    files = cifar_files()
    write(tmp_path / "cifar-10-batches-py", files)
    know(monkeypatch, files)
    data = vision("cifar10", tmp_path)
    assert data.name == "CIFAR-10"
    assert data.train.X.shape == (20, 3, 32, 32)
    assert data.test.X.shape == (4, 3, 32, 32)
    assert data.train.X.is_contiguous()
    assert data.train.y.tolist() == [0, 1, 2, 9] * 5
    assert data.classes[9] == "truck"
    pixels = pickle.loads(files["data_batch_1"])["data"]  # a row is 1024 red, 1024 green, 1024 blue values
    assert np.array_equal((data.train.X[0] * 255).round().numpy().reshape(-1), pixels[0])


def test_other_files_under_cifars_names_are_not_believed(tmp_path):
    write(tmp_path / "cifar-10-batches-py", cifar_files())
    with pytest.raises(FileNotFoundError, match="CIFAR-10: no complete, readable files"):
        vision("CIFAR-10", tmp_path)


@pytest.mark.parametrize(
    ("name", "address", "folder"),
    [
        ("MNIST", "mnist/train-images-idx3-ubyte.gz", "MNIST/raw"),
        (
            "Fashion-MNIST",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/t10k",
            "FashionMNIST/raw",
        ),
        ("KMNIST", "http://codh.rois.ac.jp/kmnist/dataset/kmnist/train-labels", "KMNIST/raw"),
        ("CIFAR-10", "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", ""),
    ],
)
def test_missing_files_say_what_to_get_from_where_and_where_to_put_it(tmp_path, name, address, folder):
    with pytest.raises(FileNotFoundError) as caught:
        vision(name, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert address in message
    assert f"into {tmp_path / folder} " in message
    assert f"vision({name!r}, {str(tmp_path)!r}, download=True)" in message
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_told_from_a_missing_one(tmp_path):
    files = idx_files()
    files["train-images-idx3-ubyte"] = files["train-images-idx3-ubyte"][:-100]
    write(tmp_path / "MNIST" / "raw", files)
    with pytest.raises(OSError, match="MNIST: no complete, readable files") as caught:
        vision("MNIST", tmp_path)
    assert not isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("name", ["MNIST", "CIFAR-10"])
def test_a_download_that_fails_says_so(tmp_path, monkeypatch, name):
    from urllib.error import URLError

    def no_network(*args, **kwargs):
        raise URLError("no network here")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(OSError, match=r"no network here") as caught:
        vision(name, tmp_path, download=True)
    assert "download=True" in str(caught.value)


def test_bad_arguments(monkeypatch):
    with pytest.raises(
        ValueError, match="name: expected one of MNIST, Fashion-MNIST, KMNIST, CIFAR-10, got 'svhn'"
    ):
        vision("svhn", "/tmp")
    monkeypatch.delenv("BOOK_DATA", raising=False)
    with pytest.raises(
        ValueError, match="root: expected a folder, as an argument or in the variable BOOK_DATA"
    ) as caught:
        vision("CIFAR-10")
    assert "cifar-10-python.tar.gz" in str(caught.value)


def test_without_torchvision_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ModuleNotFoundError, match="pip install torchvision"):
        vision("MNIST", "/tmp")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_torchvision_imports_whether_its_operators_load_or_not():
    code = (
        "import sys, torch\n"
        "from layerlab.data._torchvision import torchvision, _declared\n"
        "first = torchvision()\n"
        "assert torchvision() is first and sys.modules['torchvision'] is first\n"
        "assert len(_declared) == (0 if first.extension._has_ops() else 1), _declared\n"
        "assert hasattr(torch.ops.torchvision, 'nms')\n"
        "print(first.datasets.MNIST.__name__)"
    )
    assert run(code) == "MNIST"


FAILING = """
import sys, types, importlib.abc, importlib.machinery
tries = []
class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name == 'torchvision' else None
    def exec_module(self, module):
        tries.append(module)
        if len(tries) == 1:
            sys.modules['torchvision.left'] = types.ModuleType('left')
        {body}
sys.meta_path.insert(0, Finder())
from layerlab.data._torchvision import torchvision, _declared
"""


def test_the_mend_is_made_only_for_the_missing_operator_and_once():
    mended = FAILING.format(
        body="import torch; torch.ops.torchvision.nms if len(tries) > 1 else "
        "(_ for _ in ()).throw(RuntimeError('operator torchvision::nms does not exist'))"
    )
    report = "print(len(tries), len(_declared), 'torchvision.left' in sys.modules)"
    assert run(mended + "torchvision(); torchvision(); " + report) == "2 1 False"
    other = FAILING.format(body="raise RuntimeError('out of luck')")
    code = "\ntry: torchvision()\nexcept RuntimeError as error: print(error, len(tries), len(_declared))"
    assert run(other + code) == "out of luck 1 0"
