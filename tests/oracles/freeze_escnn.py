"""Write golden/escnn.json: dimensions, filters and outputs of escnn that test_escnn_oracles.py compares with.

escnn (BSD-3-Clause-Clear) wants packages that do not install with a current numpy, and needs none of them
for the plane. In an environment of its own:

    python3 -m venv /tmp/escnn
    /tmp/escnn/bin/pip install torch numpy scipy scikit-learn joblib pymanopt autograd
    /tmp/escnn/bin/pip install --no-deps escnn==1.0.11
    /tmp/escnn/bin/python tests/oracles/freeze_escnn.py
"""

import json
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import torch

KERNEL, RADII, SIGMA, CUT = 5, [0.0, 0.75, 1.5], 0.5, 2.0


def import_escnn():
    """Import it without lie_learn, which only rotations in space use; mend its call of scikit-learn."""
    for name in ("lie_learn", "lie_learn.representations", "lie_learn.representations.SO3"):
        sys.modules[name] = types.ModuleType(name)
    wigner = types.ModuleType("lie_learn.representations.SO3.wigner_d")
    wigner.wigner_D_matrix = None
    sys.modules[wigner.__name__] = wigner
    warnings.simplefilter("ignore")
    import escnn.group._numerical as numerical

    null = numerical.null
    numerical.null = lambda matrix, *args, **options: null(np.asarray(matrix), *args, **options)
    from escnn import gspaces, nn

    return gspaces, nn


def rounded(x):
    """Nested lists, to nine decimals: escnn's filters are of single precision."""
    return np.round(x.detach().double().numpy(), 9).tolist()


def main():
    """Write the file."""
    gspaces, nn = import_escnn()
    options = {"bias": False, "rings": RADII, "sigma": SIGMA, "frequencies_cutoff": CUT}

    def conv(space, reps_in, reps_out, kernel=KERNEL, **extra):
        fields = nn.FieldType(space, reps_in), nn.FieldType(space, reps_out)
        return nn.R2Conv(*fields, kernel, **{**options, **extra})

    golden = {"escnn": "1.0.11", "kernel": KERNEL, "radii": RADII, "sigma": SIGMA, "cut": CUT}
    spaces = {f"C{n}": gspaces.rot2dOnR2(n) for n in (4, 8)}
    spaces |= {f"D{n}": gspaces.flipRot2dOnR2(n) for n in (4, 8)}
    golden["regular"] = {
        name: {
            "lifting": len(conv(s, [s.trivial_repr], [s.regular_repr]).weights),
            "group": len(conv(s, [s.regular_repr], [s.regular_repr]).weights),
        }
        for name, s in spaces.items()
    }

    so2 = gspaces.rot2dOnR2(-1, maximum_frequency=3)
    golden["so2"] = [
        [k, m, len(conv(so2, [so2.irrep(m)], [so2.irrep(k)]).weights)] for k in range(4) for m in range(4)
    ]

    torch.manual_seed(0)
    c4 = spaces["C4"]
    # rings to the rim, so that filters fill the square
    layer = conv(c4, [c4.regular_repr], [c4.regular_repr] * 2, 3, rings=[0.0, 1.0], padding=1).eval()
    x = torch.randn(1, 4, 4, 4)
    golden["c4"] = {
        "filters": rounded(layer.expand_parameters()[0]),
        "x": rounded(x),
        "y": rounded(layer(nn.FieldType(c4, [c4.regular_repr])(x)).tensor),
    }

    for name in ("C8", "D8"):
        space = spaces[name]
        layer = conv(space, [space.trivial_repr], [space.regular_repr]).eval()
        golden[name] = {"filters": rounded(layer.expand_parameters()[0])}

    path = Path(__file__).parent / "golden" / "escnn.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(golden) + "\n")
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
