"""Write golden/e3nn.json: what e3nn computes at small sizes, so that the comparison needs no e3nn.

Run where e3nn is installed (0.6.0 wrote the file that is committed):

    python tests/oracles/freeze_e3nn.py

Harmonics are those of `normalization="integral"`; directions and Euler angles are drawn from a seed and
written too.
"""

import json
from pathlib import Path

import torch

DEGREES = range(6)


def rounded(x: torch.Tensor) -> list:
    """Nested lists of floats with 15 digits."""
    return json.loads(json.dumps(x.tolist()), parse_float=lambda text: float(f"{float(text):.15g}"))


def main() -> None:
    """Compute, and write beside this file."""
    import e3nn  # here, since doctests import this module where e3nn is missing
    from e3nn import o3

    torch.set_default_dtype(torch.float64)
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(4, 3, generator=generator)
    quaternions = torch.randn(2, 4, generator=generator)
    rotations = o3.quaternion_to_matrix(quaternions / quaternions.norm(dim=-1, keepdim=True))
    golden = {
        "e3nn": e3nn.__version__,
        "directions": rounded(directions),
        "rotations": rounded(rotations),
        "spherical_harmonics": {
            str(ell): rounded(
                o3.spherical_harmonics(ell, directions, normalize=True, normalization="integral")
            )
            for ell in DEGREES
        },
        "wigner_D": {
            str(ell): rounded(o3.Irrep(ell, (-1) ** ell).D_from_matrix(rotations)) for ell in DEGREES[:5]
        },
        "wigner_3j": {
            f"{l1} {l2} {l3}": rounded(o3.wigner_3j(l1, l2, l3))
            for l1 in range(4)
            for l2 in range(4)
            for l3 in range(abs(l1 - l2), min(l1 + l2, 3) + 1)
        },
    }
    path = Path(__file__).parent / "golden" / "e3nn.json"
    path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
