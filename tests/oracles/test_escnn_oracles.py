"""Group and steerable convolutions held against escnn: dimensions of bases, filters and outputs.

The numbers were written by freeze_escnn.py, which says how escnn installs. Its filters are of single
precision, hence the tolerance. escnn measures angles from the same axis and in the same sense; its flip is
that of the other axis, which is ours followed by half a turn.
"""

import json
from pathlib import Path

import pytest
import torch

from layerlab.equivariance.group_conv import GroupConv2d
from layerlab.equivariance.groups import cyclic, dihedral
from layerlab.equivariance.steerable import SteerableGroupConv, SteerableLifting, circular_harmonics
from layerlab.equivariance.steerable_so2 import so2_basis

GROUPS = {"C4": cyclic(4), "C8": cyclic(8), "D4": dihedral(4), "D8": dihedral(8)}
TOLERANCE = 2e-6


@pytest.fixture(scope="module")
def golden():
    return json.loads((Path(__file__).parent / "golden" / "escnn.json").read_text())


@pytest.fixture(scope="module")
def harmonics(golden):
    return circular_harmonics(golden["kernel"], None, golden["radii"], golden["sigma"], cut=golden["cut"])


@pytest.mark.parametrize("name", GROUPS)
def test_dimensions_of_regular_fields(golden, harmonics, name):
    options = {"harmonics": harmonics, "bias": False}
    lifting = SteerableLifting(1, 1, golden["kernel"], GROUPS[name], **options)
    group = SteerableGroupConv(1, 1, golden["kernel"], GROUPS[name], **options)
    expected = golden["regular"][name]
    assert {"lifting": lifting.weight.numel(), "group": group.weight.numel()} == expected


def test_dimensions_of_fields_of_so2(golden):
    options = {"radii": golden["radii"], "sigma": golden["sigma"], "cut": golden["cut"]}
    assert len(golden["so2"]) == 16
    for k_out, k_in, count in golden["so2"]:
        basis = so2_basis(k_out, k_in, golden["kernel"], **options)
        assert len(basis) == count
        assert torch.linalg.matrix_rank(basis.flatten(1)) == count


def test_c4_layer_given_the_same_filters(golden):
    bank = torch.tensor(golden["c4"]["filters"], dtype=torch.float64).view(2, 4, 1, 4, 3, 3)
    conv = GroupConv2d(1, 2, 3, cyclic(4), bias=False).double()
    conv.weight.data = bank[:, 0].clone()  # the filters of the identity determine the others
    assert (conv.filters() - bank).abs().max() < TOLERANCE
    x = torch.tensor(golden["c4"]["x"], dtype=torch.float64)
    y = conv(x.view(1, 1, 4, 4, 4)).flatten(1, 2)
    expected = torch.tensor(golden["c4"]["y"], dtype=torch.float64)
    assert expected.abs().max() > 0.5
    assert (y - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", ["C8", "D8"])
def test_steered_filters(golden, harmonics, name):
    group = GROUPS[name]
    expected = torch.tensor(golden[name]["filters"], dtype=torch.float64).flatten(1)
    assert expected.abs().max() > 0.3
    samples = harmonics.basis.flatten(1)
    found = torch.linalg.lstsq(samples.T, expected[0]).solution
    assert (found @ samples - expected[0]).abs().max() < TOLERANCE  # escnn's filter is among ours
    lift = SteerableLifting(1, 1, golden["kernel"], group, harmonics=harmonics, bias=False).double()
    lift.weight.data = found.view(1, 1, 1, -1)
    bank = lift.filters().flatten(0, 3).flatten(1)
    order = list(range(8)) + ([8 + (r + 4) % 8 for r in range(8)] if name == "D8" else [])
    assert (bank[order] - expected).abs().max() < TOLERANCE
