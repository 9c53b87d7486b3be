"""What JPEG and WebP make of the same picture, in bytes and error: honest peers of a network in a file."""

import io
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from .fit import psnr

QUALITIES = (1, 3, 5, 8, 12, 20, 30, 40, 50, 60, 70, 80, 90, 95)


def jpeg_curve(
    picture: Tensor, qualities: Iterable[int] = QUALITIES, *, headers: bool = True
) -> list[tuple[float, float]]:
    """Bits per pixel and PSNR in dB of Pillow's JPEG, with optimized Huffman tables, one pair per quality.

    Args:
        picture: (H, W) or (H, W, 3), values in [0, 1]; the codec is given it rounded to 8 bits, the PSNR is
            to the picture as it is.
        qualities: Pillow's, 1 to 95.
        headers: whether the tables and markers in front of the coded pixels count: some hundreds of bytes,
            which for a small picture are most of the file.

    Raises:
        ValueError: another rank, no pixels, values that are NaN or outside [0, 1], or a quality out of range.

    >>> for bpp, db in jpeg_curve(torch.eye(64), [10, 90]):
    ...     print(0 < bpp < 8, db > 10)
    True True
    True True
    """
    pixels = check_picture(picture)
    return [
        _point(picture, pixels, q, headers, format="JPEG", optimize=True) for q in _checked(qualities, 95)
    ]


def webp_curve(picture: Tensor, qualities: Iterable[int] = QUALITIES) -> list[tuple[float, float]]:
    """Bits per pixel and PSNR in dB of Pillow's lossy WebP at its slowest setting, one pair per quality.

    Arguments and errors are those of `jpeg_curve`; qualities may be 0 to 100.
    """
    pixels = check_picture(picture)
    return [_point(picture, pixels, q, True, format="WEBP", method=6) for q in _checked(qualities, 100)]


def check_picture(picture: Tensor) -> np.ndarray:
    """The picture in 8 bits, (H, W) or (H, W, 3).

    Raises:
        ValueError: another rank, no pixels, or values that are NaN or outside [0, 1].
    """
    if picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] != 3) or not picture.numel():
        raise ValueError(f"picture: expected (H, W) or (H, W, 3), not empty, got {tuple(picture.shape)}")
    if not ((picture >= 0) & (picture <= 1)).all():
        raise ValueError(
            f"picture: expected values from 0 to 1, got {picture.min().item():g} to {picture.max().item():g}"
        )
    return (picture.detach().double() * 255).round().to(torch.uint8).cpu().numpy()


def _checked(qualities: Iterable[int], most: int) -> list[int]:
    found = list(qualities)
    for quality in found:
        if isinstance(quality, bool) or not isinstance(quality, int) or not 0 <= quality <= most:
            raise ValueError(f"qualities: expected integers from 0 to {most}, got {quality!r}")
    return found


def _point(picture: Tensor, pixels: np.ndarray, quality: int, headers: bool, **options):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, quality=quality, **options)
    coded = file.getvalue()
    counted = len(coded) if headers else len(coded) - _before_scan(coded)
    with Image.open(io.BytesIO(coded)) as image:
        # A grey WebP is a colour picture of three equal channels.
        decoded = np.asarray(image.convert("L" if pixels.ndim == 2 else "RGB"))
    error = psnr(torch.from_numpy(decoded.astype(np.float64) / 255), picture.detach().double().cpu())
    return 8 * counted / (pixels.shape[0] * pixels.shape[1]), error


def _before_scan(coded: bytes) -> int:
    """Bytes of a JPEG before the coded pixels: the segments, each with its length, up to start of scan."""
    at = 2
    while True:
        marker, size = coded[at + 1], int.from_bytes(coded[at + 2 : at + 4], "big")
        at += 2 + size
        if marker == 0xDA:
            return at
