"""Multiply by maps that O(n), SO(n) and Sp(n) keep: by Brauer diagrams, and by their matrices.

As `diagrams.py` does for permutations: first single diagrams, by n and order, with the slope of both on log
scales; then whole layers with channels, forward and backward: `BrauerLinear` by its diagrams, the diagrams
one by one, and `BrauerLinear` by its matrix, which each step makes of the weights. Results are compared
before they are timed. One thread; best of several rounds in turns; prints Markdown tables.
"""

import argparse
import math
from collections.abc import Callable

import torch
from diagrams import BATCHES, CHANNELS, LAYER_BATCH, MOST_ENTRIES, slope
from timing import in_turns
from torch import Tensor

from layerlab.equivariance.brauer import brauer_cost, matchings
from layerlab.equivariance.brauer_counts import group_apply, group_diagrams, group_matrix
from layerlab.equivariance.brauer_linear import BrauerLinear
from layerlab.equivariance.groups import MatrixGroup, Orthogonal, SpecialOrthogonal, Symplectic

SIZES = {2: (4, 8, 16, 32, 64, 96, 128, 180), 3: (4, 6, 8, 12, 16, 24, 32)}  # n, by k = l
LAYERS = [
    *[(Orthogonal, k, n) for k, n in ((1, 3), (2, 3), (2, 6), (2, 12), (3, 3), (3, 6))],
    *[(SpecialOrthogonal, k, n) for k, n in ((2, 4), (3, 3), (3, 4))],
    *[(Symplectic, k, n) for k, n in ((2, 4), (2, 12), (3, 4), (3, 6))],
]


def single(group: MatrixGroup, k: int, batch: int, rounds: int) -> tuple[float, float]:
    """Milliseconds of one fast product, averaged over diagrams, and of one dense product or NaN."""
    n, found = group.n, group_diagrams(group, k, k)
    x = torch.randn((batch, *(n,) * k), generator=torch.Generator().manual_seed(0))
    # Lines that all go through only name the axes anew; `contiguous` moves the numbers too.
    calls = [lambda: [group_apply(diagram, x, group, k, k).contiguous() for diagram in found]]
    if n ** (2 * k) <= MOST_ENTRIES:
        matrix, flat = group_matrix(found[1], group, k, k).float(), x.flatten(1)
        fast = group_apply(found[1], x, group, k, k).flatten(1)
        torch.testing.assert_close(fast, flat @ matrix.T, atol=1e-2, rtol=1e-3)
        calls.append(lambda: flat @ matrix.T)
    times = in_turns(calls, rounds)
    return times[0] / len(found), times[1] if len(times) > 1 else math.nan


def layer(group: MatrixGroup, k: int, rounds: int) -> tuple[int, list[float]]:
    """The number of maps; milliseconds forward and backward: by diagrams, one by one, by the matrix."""
    n = group.n
    torch.manual_seed(0)
    module = BrauerLinear(k, k, CHANNELS, CHANNELS, group, bias=False, dense=False)
    small = BrauerLinear(k, k, CHANNELS, CHANNELS, group, bias=False, dense=True)
    small.load_state_dict(module.state_dict())
    x = torch.randn((LAYER_BATCH, CHANNELS, *(n,) * k))

    def one_by_one(x: Tensor) -> Tensor:
        mixed = torch.einsum("poc,nc...->pno...", module.weight, x)
        return sum(group_apply(d, y, group, k, k) for d, y in zip(module.diagrams, mixed, strict=True))

    torch.testing.assert_close(module(x), small(x), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(module(x), one_by_one(x), atol=1e-3, rtol=1e-3)

    def step(f: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        def call() -> None:
            module.weight.grad = small.weight.grad = None
            f(x).square().sum().backward()

        return call

    return len(module.diagrams), in_turns([step(module), step(one_by_one), step(small)], rounds)


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="rounds in turns (default: %(default)s)")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)

    columns = " | ".join(f"diagram, {b} at once, ms | dense / diagram" for b in BATCHES)
    print(f"| group | k = l | n | {columns} | the same, operations |")
    print("| --- | ---: | ---: |" + " ---: | ---: |" * len(BATCHES) + " ---: |")
    slopes = []
    for make in (Orthogonal, Symplectic):
        for k, sizes in SIZES.items():
            times: dict[int, list[tuple[float, float]]] = {batch: [] for batch in BATCHES}
            for n in sizes:
                costs = [brauer_cost(matching, n, k, k) for matching in matchings(2 * k)]
                work = sum(c["additions"] + c["copies"] for c in costs) / len(costs)
                cells = []
                for batch in BATCHES:
                    fast, dense = single(make(n), k, batch, rounds)
                    times[batch].append((fast, dense))
                    cells.append(f"{fast:.4f} | {'' if math.isnan(dense) else f'{dense / fast:.2f}'} |")
                print(
                    f"| {make.__name__} | {k} | {n} | {' '.join(cells)} {n ** (2 * k) / work:.0f} |",
                    flush=True,
                )
            for batch, found in times.items():
                fast, dense = zip(*found, strict=True)
                fits = sum(not math.isnan(ms) for ms in dense)
                slopes.append(
                    f"| {make.__name__} | {k} | {batch} | {slope(sizes[-3:], fast[-3:]):.2f} | "
                    f"{slope(sizes[fits - 3 : fits], dense[fits - 3 : fits]):.2f} |"
                )
    print("\n| group | k = l | batch | slope of diagram | slope of dense |")
    print("| --- | ---: | ---: | ---: | ---: |")
    print("\n".join(slopes))

    print("\n| group | k = l | n | maps | diagrams, ms | one by one / diagrams | matrix / diagrams |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for make, k, n in LAYERS:
        maps, (whole, singly, small) = layer(make(n), k, rounds)
        print(
            f"| {make.__name__} | {k} | {n} | {maps} | {whole:.3f} | {singly / whole:.2f} | "
            f"{small / whole:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
