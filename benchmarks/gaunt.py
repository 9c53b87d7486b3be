"""Time products of features of degree L: Gaunt products in three ways, full Clebsch–Gordan products, and
e3nn's.

Both inputs and the result have one feature of each degree 0 … L. All run in this process, on one thread and
in turns, so that whatever else the machine does slows all; the best of several rounds counts. Prints Markdown
tables: milliseconds, slopes of a straight line through log time against log(L + 1), and multiplications that
the method needs. e3nn (extra `oracles`) is left out where it is not installed, and the benchmark says so.
"""

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from layerlab.equivariance.gaunt import gaunt_product, multiply_adds
from layerlab.equivariance.irreps import paths, spherical_product
from layerlab.equivariance.so3 import clebsch_gordan

Call = Callable[[Tensor, Tensor], Tensor]


def dense(degree: int) -> Call:
    """The full product as one table, which knows of no zeros."""
    table = torch.zeros(3 * [(degree + 1) ** 2], dtype=torch.float64)
    for l1, l2, l3 in paths(degree, degree, degree):
        a, b, c = (slice(ell**2, (ell + 1) ** 2) for ell in (l1, l2, l3))
        table[a, b, c] = clebsch_gordan(l1, l2, l3)
    flat = table.float().flatten(0, 1)
    return lambda x, y: (x[:, :, None] * y[:, None, :]).flatten(1) @ flat


def theirs(degree: int) -> Call | None:
    """The full product by e3nn, one weight per path; None where e3nn is missing."""
    try:
        from e3nn import o3
    except ImportError:
        return None
    features = o3.Irreps([(1, (ell, 1)) for ell in range(degree + 1)])
    routes = [(*path, "uuu", True) for path in paths(degree, degree, degree)]
    product = o3.TensorProduct(features, features, features, routes, internal_weights=False)
    weights = torch.ones(product.weight_numel)
    return lambda x, y: product(x, y, weights)


def calls(degree: int) -> dict[str, Call | None]:
    """What is timed, by the name in the table."""
    ones = torch.ones(len(paths(degree, degree, degree)))
    return {
        "Gaunt, Fourier": gaunt_product,
        "Gaunt, grid": lambda x, y: gaunt_product(x, y, how="grid"),
        "Gaunt, table": lambda x, y: gaunt_product(x, y, how="direct"),
        "full, table": dense(degree),
        "full, by path": lambda x, y: spherical_product(x, y, degree, ones),
        "full, e3nn": theirs(degree),
    }


def measure(degree: int, batch: int, rounds: int) -> dict[str, float]:
    """Best time of each call, in seconds per call."""
    x, y = torch.randn(2, batch, (degree + 1) ** 2, generator=torch.Generator().manual_seed(degree))
    found = {}
    with torch.no_grad():
        timed = {name: call for name, call in calls(degree).items() if call is not None}
        for name, call in timed.items():
            for _ in range(2):  # e3nn compiles on its first calls
                call(x, y)
            found[name] = math.inf
        for _ in range(rounds):
            for name, call in timed.items():
                start = time.process_time()
                call(x, y)
                found[name] = min(found[name], time.process_time() - start)
    return found


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--degrees", type=int, nargs="+", default=[1, 2, 3, 4, 6, 8, 10])
    parser.add_argument("--batch", type=int, default=256, help="products at once")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    times = {degree: measure(degree, options.batch, options.rounds) for degree in options.degrees}
    names = list(times[options.degrees[0]])
    if "full, e3nn" not in names:
        print("e3nn is not installed (extra `oracles`): its column is left out.\n")
    print(f"ms per call, {options.batch} products, float32:\n")
    print("| L | " + " | ".join(names) + " |\n| ---: |" + " ---: |" * len(names))
    for degree, row in times.items():
        print(f"| {degree} | " + " | ".join(f"{1e3 * row[name]:.2f}" for name in names) + " |")
    large = [degree for degree in options.degrees if degree >= 4]
    if len(large) > 1:
        logs = np.log([degree + 1 for degree in large])
        slopes = [np.polyfit(logs, np.log([times[degree][name] for degree in large]), 1)[0] for name in names]
        print(f"| slope from L = {large[0]} | " + " | ".join(f"{slope:.1f}" for slope in slopes) + " |")
    print("\nmultiplications of one product:\n\n| L | Fourier | Gaunt, nonzero | full, nonzero | table |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for degree in options.degrees:
        counts = [multiply_adds(degree, how) for how in ("fourier", "gaunt", "full", "dense")]
        print(f"| {degree} | " + " | ".join(f"{count:,}" for count in counts) + " |")


if __name__ == "__main__":
    main()
