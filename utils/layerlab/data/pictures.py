"""Pictures that come inside scikit-image: whole, or cut into patches of three textures. No download."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ._checks import at_least
from .types import Dataset, Split

_PHOTOS = ("astronaut", "camera", "cat", "coffee", "hubble_deep_field", "rocket")
_TEXTURES = ("brick", "grass", "gravel")
_TRAIN_ROWS = 352  # of 512: training patches lie above, test patches below


def photos(size: int | None = None) -> dict[str, Tensor]:
    """Photographs by name, each float32 (C, H, W) in [0, 1]; "camera" has one channel, the others three.

    With `size`, the middle square of each, resampled to `size` × `size` pixels (at least 8) without aliasing.

    >>> {name: tuple(photo.shape) for name, photo in photos(64).items() if name in ("camera", "cat")}
    {'camera': (1, 64, 64), 'cat': (3, 64, 64)}
    """
    if size is not None:
        at_least(8, size=size)
    pictures = {name: _read(name) for name in _PHOTOS}
    return pictures if size is None else {name: _square(picture, size) for name, picture in pictures.items()}


def textures(size: int = 32, per_class: int = 200, test_per_class: int = 50, seed: int = 0) -> Dataset:
    """Square patches of a brick wall, grass and gravel, grey; X is (N, 1, size, size).

    Training patches come from the upper 352 rows of each 512 × 512 picture and test patches from the 160 rows
    below, so that no pixel is in both. Patches within a split may overlap. The first 3 × k examples hold k of
    each class.

    Raises ValueError for a `size` outside 8 to 128, fewer than one patch per class, or a negative `seed`.

    >>> textures(size=16, per_class=4, test_per_class=2)
    Dataset('textures': train (12, 1, 16, 16), test (6, 1, 16, 16), 3 classes)
    """
    if not 8 <= size <= 128:
        raise ValueError(f"size: expected 8 to 128 pixels, got {size}")
    at_least(1, per_class=per_class, test_per_class=test_per_class)
    at_least(0, seed=seed)
    pictures = [_read(name) for name in _TEXTURES]
    train = _cut([p[:, :_TRAIN_ROWS] for p in pictures], per_class, size, np.random.default_rng([seed, 0]))
    test = _cut(
        [p[:, _TRAIN_ROWS:] for p in pictures], test_per_class, size, np.random.default_rng([seed, 1])
    )
    return Dataset("textures", train, test, classes=_TEXTURES)


def _read(name: str) -> Tensor:
    """One of scikit-image's pictures as float32 (C, H, W) in [0, 1]."""
    import skimage.data

    pixels = np.atleast_3d(getattr(skimage.data, name)())  # (H, W, C), uint8
    return torch.from_numpy(pixels.astype(np.float32) / 255).movedim(-1, 0).contiguous()


def _square(picture: Tensor, size: int) -> Tensor:
    """The middle square, resampled to (C, size, size)."""
    height, width = picture.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = picture[None, :, top : top + side, left : left + side]
    return interpolate(middle, (size, size), mode="bilinear", antialias=True, align_corners=False)[0].clamp(
        0, 1
    )


def _cut(regions: list[Tensor], count: int, size: int, rng: np.random.Generator) -> Split:
    """`count` patches from each region, one class after the other in turn."""
    height, width = regions[0].shape[1:]
    corners = rng.integers(0, (height - size + 1, width - size + 1), size=(count, len(regions), 2))
    X = torch.stack(
        [
            region[:, top : top + size, left : left + size]
            for row in corners
            for region, (top, left) in zip(regions, row, strict=True)
        ]
    )
    return Split(X, torch.arange(len(regions)).repeat(count))
