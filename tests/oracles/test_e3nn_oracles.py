"""Harmonics, Wigner matrices, Clebsch–Gordan coefficients and edge products, held against e3nn and SciPy.

The convention is e3nn's, order of coordinates and signs included, so nothing is turned or reordered here;
only `wigner_3j` is normalised to length 1, where `clebsch_gordan` keeps the length of features. What e3nn
0.6.0 gave is frozen in golden/e3nn.json (`freeze_e3nn.py`), and compared with an e3nn that is installed
(extra `oracles`).
"""

import json
import math
from pathlib import Path

import pytest
import torch
from scipy.special import sph_harm_y

from layerlab.equivariance.gaunt import gaunt_product, gaunt_weight
from layerlab.equivariance.irreps import Irreps, paths
from layerlab.equivariance.so2 import EdgeTensorProduct
from layerlab.equivariance.so3 import clebsch_gordan, random_rotation, spherical_harmonics, wigner_d

GOLDEN = json.loads((Path(__file__).parent / "golden" / "e3nn.json").read_text())


def close(ours, theirs, tolerance=1e-12):
    torch.testing.assert_close(
        ours, torch.as_tensor(theirs, dtype=torch.float64), rtol=0, atol=tolerance, check_device=False
    )


@pytest.fixture
def o3():
    o3 = pytest.importorskip("e3nn.o3", reason="e3nn is in the extra `oracles`")
    torch.set_default_dtype(torch.float64)  # the precision of e3nn's Wigner matrices, whatever goes in
    yield o3
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("degree", GOLDEN["spherical_harmonics"])
def test_harmonics_are_those_that_e3nn_gave(degree):
    directions = torch.tensor(GOLDEN["directions"], dtype=torch.float64)
    close(spherical_harmonics(int(degree), directions), GOLDEN["spherical_harmonics"][degree])


@pytest.mark.parametrize("degree", GOLDEN["wigner_D"])
def test_wigner_matrices_are_those_that_e3nn_gave(degree):
    rotations = torch.tensor(GOLDEN["rotations"], dtype=torch.float64)
    close(wigner_d(int(degree), rotations), GOLDEN["wigner_D"][degree])


def test_coefficients_are_those_that_e3nn_gave():
    assert len(GOLDEN["wigner_3j"]) == len(paths(3, 3, 3))
    for name, theirs in GOLDEN["wigner_3j"].items():
        degrees = tuple(int(part) for part in name.split())
        close(clebsch_gordan(*degrees) / math.sqrt(2 * degrees[2] + 1), theirs)


@pytest.mark.parametrize("degree", [1, 2, 5, 9])
def test_harmonics_are_real_parts_of_those_of_scipy(degree):
    """SciPy's are complex, with z for axis and the Condon–Shortley phase: our (x, y, z) is its (y, z, x)."""
    directions = torch.randn(20, 3, generator=torch.Generator().manual_seed(degree), dtype=torch.float64)
    x, y, z = (directions / directions.norm(dim=-1, keepdim=True)).T.numpy()
    theta, phi = (
        torch.arccos(torch.from_numpy(y)).numpy(),
        torch.atan2(*map(torch.from_numpy, (x, z))).numpy(),
    )
    columns = []
    for m in range(-degree, degree + 1):
        value = torch.from_numpy(sph_harm_y(degree, abs(m), theta, phi)) * (-1) ** m * math.sqrt(2)
        columns.append(value.real / math.sqrt(2) if m == 0 else value.real if m > 0 else value.imag)
    close(spherical_harmonics(degree, directions), torch.stack(columns, -1))


@pytest.mark.parametrize("degree", [0, 1, 4, 8, 11])
def test_e3nn_here_has_the_same_harmonics_and_matrices(o3, degree):
    generator = torch.Generator().manual_seed(degree)
    directions = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    theirs = o3.spherical_harmonics(degree, directions, normalize=True, normalization="integral")
    close(spherical_harmonics(degree, directions), theirs)
    rotation = random_rotation(generator, 3)
    close(wigner_d(degree, rotation), o3.Irrep(degree, 1).D_from_matrix(rotation))


def test_e3nn_here_has_the_same_coefficients(o3):
    for path in paths(5, 5, 5):
        theirs = o3.wigner_3j(*path, dtype=torch.float64)
        close(clebsch_gordan(*path) / math.sqrt(2 * path[2] + 1), theirs)


def test_products_of_lists_hold_what_those_of_e3nn_hold(o3):
    ours, theirs = Irreps("2x0 + 1x1 + 1x2"), o3.Irreps("2x0e + 1x1e + 1x2e")
    product = o3.FullTensorProduct(theirs, theirs).irreps_out
    found = ours.product(ours)
    for degree in range(6):
        assert product.count(o3.Irrep(degree, 1)) == sum(n for n, ell in found.terms if ell == degree)


def test_edge_products_are_those_of_e3nn_with_the_same_weights(o3):
    degree = 2
    ours = EdgeTensorProduct(2, 3, degree, degree, degree_edge=degree).double()
    first = o3.Irreps([(2, (ell, 1)) for ell in range(degree + 1)])
    second = o3.Irreps([(1, (ell, 1)) for ell in range(degree + 1)])
    last = o3.Irreps([(3, (ell, 1)) for ell in range(degree + 1)])
    routes = [(l1, l2, l3, "uvw", True) for l1, l2, l3 in ours.paths]
    theirs = o3.TensorProduct(
        first,
        second,
        last,
        routes,
        irrep_normalization="none",
        path_normalization="none",
        internal_weights=False,
    ).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 2, 9, generator=generator, dtype=torch.float64)
    edges = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    harmonics = o3.spherical_harmonics(second, edges, normalize=True, normalization="integral")
    scale = torch.tensor(
        [math.sqrt(2 * l3 + 1) for _, _, l3 in ours.paths]
    )  # from wigner_3j to clebsch_gordan
    weights = (ours.weight.detach() * scale[:, None, None]).mT[:, :, None]  # (paths, in, 1, out)
    blocks = [slice(ell**2, (ell + 1) ** 2) for ell in range(degree + 1)]
    flat = torch.cat([x[..., block].flatten(1) for block in blocks], 1)
    found = theirs(flat, harmonics, weights.flatten())
    mine = torch.cat([ours(x, edges)[..., block].flatten(1) for block in blocks], 1)
    torch.testing.assert_close(mine, found)


def test_a_gaunt_product_is_a_tensor_product_of_e3nn_with_gaunt_weights(o3):
    degree = 3
    spherical = o3.Irreps([(1, (ell, 1)) for ell in range(degree + 1)])
    routes = paths(degree, degree, degree)
    theirs = o3.TensorProduct(
        spherical,
        spherical,
        spherical,
        [(*route, "uuu", True) for route in routes],
        irrep_normalization="none",
        path_normalization="none",
        internal_weights=False,
    ).double()
    weights = torch.tensor([gaunt_weight(*route) * math.sqrt(2 * route[2] + 1) for route in routes])
    x, y = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(gaunt_product(x, y), theirs(x, y, weights.double()))
