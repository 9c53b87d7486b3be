"""Multiply by permutation-equivariant maps: by diagrams, and by the matrix that they stand for.

First single diagrams: `layerlab.equivariance.diagrams.apply_diagram` over all partitions of k + l points,
against the product with one dense matrix (n^l, n^k), by n and order, and the slope of both on log scales;
from some n on there is no room for the matrix. Then whole layers with channels, forward and backward:
`PermutationLinear`, which shares what its diagrams have in common, against its diagrams one by one and
against its matrix. Results are compared before they are timed. One thread; best of several rounds in turns;
prints Markdown tables.
"""

import argparse
import math
from collections.abc import Callable, Sequence

import torch
from timing import in_turns
from torch import Tensor

from layerlab.equivariance.diagrams import apply_diagram, cost
from layerlab.equivariance.partitions import bell, diagram_matrix, set_partitions
from layerlab.equivariance.permutation_layers import PermutationLinear

SIZES = {  # n, by k = l
    1: (16, 64, 256, 1024, 4096, 8192, 16384, 32768),
    2: (4, 8, 16, 32, 64, 96, 128, 180),
    3: (3, 4, 6, 8, 12, 16, 24, 32),
}
MOST_ENTRIES = 2**24  # of the dense matrix: 64 MB
BATCHES = (1, 16)
LAYERS = ((1, 16), (1, 256), (2, 6), (2, 12), (2, 20), (3, 4), (3, 6))  # k = l, n
CHANNELS, LAYER_BATCH = 4, 8


def slope(sizes: Sequence[float], times: Sequence[float]) -> float:
    """Slope of a straight line through the logarithms, by least squares.

    >>> round(slope([1, 2, 4], [5.0, 20.0, 80.0]), 6)
    2.0
    """
    x, y = torch.tensor(sizes).double().log(), torch.tensor(times).double().log()
    x = x - x.mean()
    return float((x * (y - y.mean())).sum() / (x * x).sum())


def single(k: int, n: int, batch: int, rounds: int) -> tuple[float, float]:
    """Milliseconds of one fast product, averaged over diagrams, and of one dense product or NaN."""
    few = set_partitions(2 * k)[:: 1 if k < 3 else 8]  # 26 of 203 for k = 3
    x = torch.randn((batch, *(n,) * k), generator=torch.Generator().manual_seed(0))
    calls = [lambda: [apply_diagram(partition, x, k, k) for partition in few]]
    if n ** (2 * k) <= MOST_ENTRIES:
        matrix, flat = diagram_matrix(few[-2], n, k, k, torch.float32), x.flatten(1)
        fast = apply_diagram(few[-2], x, k, k).flatten(1)
        torch.testing.assert_close(fast, flat @ matrix.T, atol=1e-2, rtol=1e-3)
        calls.append(lambda: flat @ matrix.T)
    times = in_turns(calls, rounds)
    return times[0] / len(few), times[1] if len(times) > 1 else math.nan


def layer(k: int, n: int, rounds: int) -> list[float]:
    """Milliseconds forward and backward: the layer, its diagrams one by one, its matrix."""
    torch.manual_seed(0)
    module = PermutationLinear(k, k, CHANNELS, CHANNELS, bias=False)
    x = torch.randn((LAYER_BATCH, CHANNELS, *(n,) * k)) / n**k
    with torch.no_grad():
        matrix = module.matrix(n)
    matrix.requires_grad_()

    def one_by_one(x: Tensor) -> Tensor:
        mixed = torch.einsum("poc,nc...->pno...", module.weight, x)
        return sum(apply_diagram(p, y, k, k) for p, y in zip(module.partitions, mixed, strict=True))

    def dense(x: Tensor) -> Tensor:
        return (x.flatten(1) @ matrix.T).reshape(LAYER_BATCH, CHANNELS, *(n,) * k)

    torch.testing.assert_close(module(x), dense(x), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(module(x), one_by_one(x), atol=1e-4, rtol=1e-3)

    def step(f: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        def call() -> None:
            module.weight.grad = matrix.grad = None
            f(x).square().sum().backward()

        return call

    return in_turns([step(module), step(one_by_one), step(dense)], rounds)


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="rounds in turns (default: %(default)s)")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)

    columns = " | ".join(f"diagram, {b} at once, ms | dense, ms | dense / diagram" for b in BATCHES)
    print(f"| k = l | n | {columns} | the same, operations |")
    print("| ---: | ---: |" + " ---: | ---: | ---: |" * len(BATCHES) + " ---: |")
    times: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for k, sizes in SIZES.items():
        for n in sizes:
            costs = [cost(partition, n, k, k) for partition in set_partitions(2 * k)]
            work = sum(c["additions"] + c["copies"] for c in costs) / len(costs)
            cells = []
            for batch in BATCHES:
                fast, dense = single(k, n, batch, rounds)
                times.setdefault((k, batch), []).append((fast, dense))
                against = "no room | |" if math.isnan(dense) else f"{dense:.4f} | {dense / fast:.2f} |"
                cells.append(f"{fast:.4f} | {against}")
            print(f"| {k} | {n} | {' '.join(cells)} {n ** (2 * k) / work:.0f} |", flush=True)
    print("\n| k = l | batch | slope of diagram | slope of dense |")
    print("| ---: | ---: | ---: | ---: |")
    for (k, batch), found in times.items():
        fast, dense = zip(*found, strict=True)
        fits = sum(not math.isnan(ms) for ms in dense)
        print(
            f"| {k} | {batch} | {slope(SIZES[k][-3:], fast[-3:]):.2f} | "
            f"{slope(SIZES[k][fits - 3 : fits], dense[fits - 3 : fits]):.2f} |"
        )
    print(
        "\n| k = l | n | maps | layer, ms | one by one, ms | dense, ms | one by one / layer | dense / layer |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for k, n in LAYERS:
        whole, single_steps, dense = layer(k, n, rounds)
        print(
            f"| {k} | {n} | {bell(2 * k)} | {whole:.3f} | {single_steps:.3f} | {dense:.3f} | "
            f"{single_steps / whole:.2f} | {dense / whole:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
