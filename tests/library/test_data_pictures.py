"""Photographs and textures from scikit-image."""

import numpy as np
import pytest
import skimage.data
import torch

from layerlab.data import photos, textures


def test_photos_are_channels_first_in_the_unit_range():
    pictures = photos()
    assert set(pictures) == {"astronaut", "camera", "cat", "coffee", "hubble_deep_field", "rocket"}
    for name, picture in pictures.items():
        assert picture.dtype == torch.float32
        assert picture.shape[0] == (1 if name == "camera" else 3)
        assert 0 <= picture.min() < picture.max() <= 1
    expected = skimage.data.cat()
    assert np.array_equal(
        (pictures["cat"] * 255).round().numpy().astype(np.uint8), expected.transpose(2, 0, 1)
    )


@pytest.mark.parametrize("size", [8, 50])
def test_photos_can_be_made_small_squares_without_aliasing(size):
    full, small = photos(), photos(size)
    for name, picture in small.items():
        assert picture.shape == (full[name].shape[0], size, size)
        assert 0 <= picture.min() < picture.max() <= 1
        height, width = full[name].shape[1:]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        middle = full[name][:, top : top + side, left : left + side]
        assert picture.mean().item() == pytest.approx(middle.mean().item(), abs=0.01)


def test_photos_refuse_tiny_sizes():
    with pytest.raises(ValueError, match="size: expected a whole number of at least 8, got 4"):
        photos(4)


def test_no_picture_is_fetched(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("asked for the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    photos(8)
    textures(8, 1, 1)


def test_textures_are_balanced_and_typed():
    data = textures(size=16, per_class=5, test_per_class=2)
    X, y = data.train
    assert X.shape == (15, 1, 16, 16)
    assert X.dtype == torch.float32
    assert y.tolist() == [0, 1, 2] * 5
    assert data.classes == ("brick", "grass", "gravel")
    assert 0 <= X.min() < X.max() <= 1


def test_train_and_test_patches_come_from_disjoint_regions():
    size = 32
    data = textures(size=size, per_class=40, test_per_class=40)
    bottom_of_train, top_of_test = [], []
    for label, name in enumerate(data.classes):
        picture = getattr(skimage.data, name)()
        windows = np.lib.stride_tricks.sliding_window_view(picture, (size, size))
        for split, rows in ((data.train, bottom_of_train), (data.test, top_of_test)):
            for patch in split.X[split.y == label][:, 0]:
                pixels = (patch * 255).round().numpy().astype(np.uint8)
                candidates = np.argwhere((windows[:, :, 0] == pixels[0]).all(-1))
                found = [row for row, column in candidates if (windows[row, column] == pixels).all()]
                assert len(found) == 1
                rows.append(found[0] + (size if split is data.train else 0))
    assert max(bottom_of_train) <= min(top_of_test)
    assert max(bottom_of_train) > 300  # and both use most of their region
    assert min(top_of_test) < 370


def test_textures_follow_the_seed():
    first, again, other = textures(seed=3), textures(seed=3), textures(seed=4)
    assert torch.equal(first.train.X, again.train.X)
    assert torch.equal(first.test.X, again.test.X)
    assert not torch.equal(first.train.X, other.train.X)
    assert not torch.equal(first.test.X, other.test.X)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 7}, "size: expected 8 to 128 pixels, got 7"),
        ({"size": 129}, "size: expected 8 to 128 pixels, got 129"),
        ({"per_class": 0}, "^per_class: expected a whole number of at least 1, got 0"),
        ({"test_per_class": -1}, "^test_per_class: expected a whole number of at least 1, got -1"),
        ({"seed": -1}, "seed: expected a whole number of at least 0, got -1"),
    ],
)
def test_textures_refuse_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        textures(**arguments)
