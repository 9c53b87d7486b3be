"""The container that all classification data sets return."""

import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest
import torch

from layerlab.data import Dataset, Split


def example(channels: int = 2) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    X = torch.rand(30, channels, 4, 4, generator=generator) * torch.tensor([3.0, 0.1])[:channels, None, None]
    y = torch.arange(30) % 3
    return Dataset("example", Split(X[:20], y[:20]), Split(X[20:], y[20:]), ("a", "b", "c"))


def test_a_split_unpacks_and_says_its_shapes():
    split = example().train
    X, y = split
    assert X is split.X
    assert y is split.y
    assert repr(split) == "Split(X=(20, 2, 4, 4) torch.float32, y=(20,) torch.int64)"
    assert repr(example()) == "Dataset('example': train (20, 2, 4, 4), test (10, 2, 4, 4), 3 classes)"


def test_it_cannot_be_changed_by_assignment():
    with pytest.raises(FrozenInstanceError):
        example().train.X = torch.zeros(1)
    with pytest.raises(FrozenInstanceError):
        example().name = "other"


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="X and y: expected equal lengths, got 3 and 2"):
        Split(torch.zeros(3, 1, 2, 2), torch.zeros(2))


def test_standardized_uses_the_training_split_channel_by_channel():
    data = example()
    before = data.train.X.clone()
    scaled = data.standardized()
    torch.testing.assert_close(scaled.train.X.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.train.X.std((0, 2, 3)), torch.ones(2), atol=1e-5, rtol=0)
    mean, std = before.mean((0, 2, 3), keepdim=True), before.std((0, 2, 3), keepdim=True)
    torch.testing.assert_close(scaled.test.X * std + mean, data.test.X)
    assert torch.equal(data.train.X, before)
    assert torch.equal(scaled.test.y, data.test.y)
    assert scaled.classes == data.classes


def test_standardized_survives_a_constant_channel():
    flat = Split(torch.full((4, 1, 2, 2), 0.5), torch.zeros(4, dtype=torch.int64))
    assert torch.equal(Dataset("flat", flat, flat, ("a",)).standardized().train.X, torch.zeros(4, 1, 2, 2))


def test_importing_the_data_sets_imports_none_of_their_sources():
    code = (
        "import sys, layerlab.data; "
        "print([m for m in ('torchvision', 'skimage', 'sklearn', 'matplotlib', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
