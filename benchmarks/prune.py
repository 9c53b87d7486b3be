"""Prune 50 million weights with `layerlab.pruning` and with torch; sparse weights against dense ones.

First the time and the memory of scoring and masking a whole model by one threshold, with `layerlab.pruning`
and with `torch.nn.utils.prune.global_unstructured`, each in a process of its own, in turns; the best of
several rounds counts for time, the largest for memory. Then the forward pass of one linear layer, with a
dense weight full of zeros and with a sparse one (CSR), over sparsity. One thread; prints Markdown tables.
"""

import argparse
import itertools
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

from timing import in_turns

# This process starts the others and must stay small: on Linux a child's peak memory begins with its parent's.

WIDTH, DEPTH, SHARE = 512, 16, 0.9  # the linear layers of 16 transformer blocks: 50.3 million weights
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
SIZES = ((256, 256), (1024, 1024), (4096, 1024))  # outputs, inputs
BATCHES = (1, 64, 512)


def peak() -> float:
    """Peak memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def mask_model(job: str) -> dict[str, float]:
    """Score and mask the model with one library; seconds, MB above the model, and what is left."""
    import torch
    from torch import nn
    from torch.nn.utils import prune

    from layerlab.pruning.masks import apply, prunable, unstructured
    from layerlab.pruning.scores import lamp, magnitude

    torch.manual_seed(0)
    sides = [(WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)] * DEPTH
    model = nn.ModuleList(nn.Linear(i, o, bias=False) for i, o in sides)
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.02)  # one scale, so that the threshold empties no layer
    apply(nn.Linear(2, 2), {"weight": torch.eye(2, dtype=torch.bool)})  # what is loaded at the first use
    prune.l1_unstructured(nn.Linear(2, 2), "weight", 0.5)
    before, start = peak(), time.perf_counter()
    if job == "torch":
        layers = [(layer, "weight") for layer in model]
        prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=SHARE)
    else:
        weights = prunable(model)
        score = magnitude if job == "layerlab" else lamp
        apply(model, unstructured(score(weights), SHARE, per="model"))
    seconds, above = time.perf_counter() - start, peak() - before
    zeros = [int((layer.weight == 0).sum()) for layer in model]
    first = model[0].weight.detach()
    return {
        "seconds": seconds,
        "above": above,
        "weights": sum(layer.weight.numel() for layer in model),
        "zeros": sum(zeros),
        "layers": hash(tuple(zeros)),
        "sum": float(first.double().sum()),
    }


def forward_times(rounds: int) -> list[dict[str, float]]:
    """Best milliseconds of a dense and a sparse forward pass, in turns, by size, batch and sparsity."""
    import warnings

    import torch
    import torch.nn.functional as F

    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
    generator, found = torch.Generator().manual_seed(0), []
    for (outputs, inputs), batch, sparsity in itertools.product(SIZES, BATCHES, SPARSITIES):
        weight = torch.randn(outputs, inputs, generator=generator)
        weight[torch.rand(outputs, inputs, generator=generator) < sparsity] = 0
        x, sparse = torch.randn(batch, inputs, generator=generator), weight.to_sparse_csr()
        torch.testing.assert_close((sparse @ x.T).T, F.linear(x, weight), atol=1e-3, rtol=1e-3)
        dense_ms, sparse_ms = in_turns(
            [lambda x=x, w=weight: F.linear(x, w), lambda x=x, w=sparse: (w @ x.T).T], rounds
        )
        found.append(
            {
                "outputs": outputs,
                "inputs": inputs,
                "batch": batch,
                "sparsity": sparsity,
                "dense": dense_ms,
                "sparse": sparse_ms,
            }
        )
    return found


def break_even(sparsities: Sequence[float], ratios: Sequence[float]) -> float:
    """The sparsity from which on sparse / dense stays below 1; NaN where it never does.

    Between two measured points both the density and the ratio are taken to be straight lines on log scales.

    >>> round(break_even([0.5, 0.9, 0.99], [5.0, 1.0, 0.1]), 6)
    0.9
    """
    slower = [i for i, ratio in enumerate(ratios) if ratio >= 1]
    if not slower:
        return sparsities[0]
    i = slower[-1]
    if i == len(ratios) - 1:
        return math.nan
    part = math.log(ratios[i]) / (math.log(ratios[i]) - math.log(ratios[i + 1]))
    density = (1 - part) * math.log(1 - sparsities[i]) + part * math.log(1 - sparsities[i + 1])
    return 1 - math.exp(density)


def child(*arguments: object) -> object:
    """What one job prints, run in a process of its own."""
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: failed with {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def print_masking(rounds: int) -> None:
    """The first table: one threshold over 50 million weights."""
    jobs = {"layerlab": "layerlab, magnitude", "torch": "torch, magnitude", "lamp": "layerlab, LAMP"}
    runs: dict[str, list[dict[str, float]]] = {job: [] for job in jobs}
    for _ in range(rounds):
        for job in jobs:
            runs[job].append(child("--job", job))
    one, other = runs["layerlab"][0], runs["torch"][0]
    if any(one[key] != other[key] for key in ("zeros", "layers", "sum")):
        raise SystemExit(f"the two libraries remove different weights: {one} and {other}")
    best = {
        job: (min(r["seconds"] for r in found), max(r["above"] for r in found)) for job, found in runs.items()
    }
    print(f"{one['zeros'] / 1e6:.1f} of {one['weights'] / 1e6:.1f} million weights go, the same in both\n")
    print("| | time, s | peak memory above the model, MB |\n| --- | ---: | ---: |")
    for job in ("layerlab", "torch"):
        print(f"| {jobs[job]} | {best[job][0]:.2f} | {best[job][1]:.0f} |")
    ratio = [ours / theirs for ours, theirs in zip(best["layerlab"], best["torch"], strict=True)]
    print(f"| ratio | {ratio[0]:.2f} | {ratio[1]:.2f} |")
    print(f"| {jobs['lamp']} | {best['lamp'][0]:.2f} | {best['lamp'][1]:.0f} |\n", flush=True)


def print_forward(rounds: int) -> None:
    """The second table: sparse / dense time by sparsity, and where it is 1."""
    found = child("--job", "forward", "--rounds", rounds)
    titles = " | ".join(f"{100 * s:g} %" for s in SPARSITIES)
    print(f"| layer | batch | dense, ms | {titles} | break-even |")
    print("| --- | ---: | ---: |" + " ---: |" * len(SPARSITIES) + " ---: |")
    for (outputs, inputs), batch in itertools.product(SIZES, BATCHES):
        rows = [r for r in found if (r["outputs"], r["inputs"], r["batch"]) == (outputs, inputs, batch)]
        ratios = [row["sparse"] / row["dense"] for row in rows]
        at = break_even(SPARSITIES, ratios)
        dense = sorted(row["dense"] for row in rows)[len(rows) // 2]
        cells = " | ".join(f"{ratio:.2f}" for ratio in ratios)
        where = "never" if math.isnan(at) else f"{100 * at:.1f} %"
        print(f"| {inputs} to {outputs} | {batch} | {dense:.3f} | {cells} | {where} |", flush=True)


def main() -> None:
    """Do one job for the parent process, or measure everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="runs of each, a quarter of those of a layer")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if options.job == "forward":
        print(json.dumps(forward_times(options.rounds)))
    elif options.job:
        print(json.dumps(mask_model(options.job)))
    else:
        print_masking(options.rounds)
        print_forward(4 * options.rounds)


if __name__ == "__main__":
    main()
