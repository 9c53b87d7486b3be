"""JPEG and WebP: bytes and errors as Pillow has them, and pictures that are none."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from layerlab.data import photos
from layerlab.inr.fit import psnr
from layerlab.inr.peers import jpeg_curve, webp_curve


@pytest.fixture(scope="module")
def grey():
    return photos(64)["camera"][0]


@pytest.fixture(scope="module")
def colour():
    return photos(64)["cat"].movedim(0, -1)


@pytest.mark.parametrize("curve", [jpeg_curve, webp_curve])
@pytest.mark.parametrize("kind", ["grey", "colour"])
def test_more_bits_less_error(curve, kind, request):
    picture = request.getfixturevalue(kind)
    points = curve(picture, [5, 30, 60, 90])
    bpp, db = zip(*points, strict=True)
    assert sorted(bpp) == list(bpp)
    assert sorted(db) == list(db)
    assert bpp[0] < 4
    assert db[0] > 15
    assert db[-1] > 30


def test_points_are_those_of_a_file(grey):
    file = io.BytesIO()
    Image.fromarray((grey.numpy() * 255).round().astype(np.uint8)).save(
        file, "JPEG", quality=40, optimize=True
    )
    decoded = torch.from_numpy(np.asarray(Image.open(file)) / 255.0)
    ((bpp, db),) = jpeg_curve(grey, [40])
    assert bpp == 8 * len(file.getvalue()) / 4096
    assert db == pytest.approx(psnr(decoded, grey.double()))


def test_bits_without_the_headers(grey, colour):
    ((all_, db),) = jpeg_curve(grey, [50])
    ((bare, same),) = jpeg_curve(grey, [50], headers=False)
    assert db == same
    # a quantization table of 64 bytes, two Huffman tables, and markers
    assert 64 + 2 * 17 < (all_ - bare) * 4096 / 8 < 400
    # one colour everywhere: next to nothing is left beside the headers
    ((flat, _),) = jpeg_curve(torch.full((64, 64), 0.5), [50], headers=False)
    assert 0 < flat * 4096 / 8 < 40
    assert jpeg_curve(colour, [50], headers=False)[0][0] < jpeg_curve(colour, [50])[0][0]


@pytest.mark.parametrize("curve", [jpeg_curve, webp_curve])
@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (torch.zeros(1, 8, 8), r"picture: expected \(H, W\) or \(H, W, 3\), not empty, got \(1, 8, 8\)"),
        (torch.zeros(8), r"picture: .*got \(8,\)"),
        (torch.zeros(1, 8, 8, 3), r"picture: .*\(1, 8, 8, 3\)"),
        (torch.zeros(8, 8, 4), r"picture: .*\(8, 8, 4\)"),
        (torch.zeros(0, 8), r"picture: .*\(0, 8\)"),
        (torch.full((8, 8), 1.5), "picture: expected values from 0 to 1, got 1.5 to 1.5"),
        (torch.full((8, 8), torch.nan), "picture: expected values from 0 to 1"),
    ],
)
def test_bad_pictures(curve, picture, message):
    with pytest.raises(ValueError, match=message):
        curve(picture, [50])


def test_bad_qualities(grey):
    with pytest.raises(ValueError, match="qualities: expected integers from 0 to 95, got 96"):
        jpeg_curve(grey, [96])
    with pytest.raises(ValueError, match=r"from 0 to 100, got 0\.5"):
        webp_curve(grey, [0.5])
