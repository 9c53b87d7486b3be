"""Time one training step of ten models: `fit` on each in turn, against `fit_many` on all of them.

Both run in this process, on one thread and in turns, so that whatever else the machine does slows both; the
best of several rounds counts. Prints a Markdown table.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from layerlab import train
from layerlab.models import MLP, ConvNet, TinyViT, seeded
from layerlab.train import fit, fit_many

train.STACK_BELOW = float("inf")  # to see what stacking would cost where `fit_many` does not do it

WIDTHS = (16, 32, 64, 128, 256, 512)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{f"MLP 784-{w}-{w}-10": lambda w=w: MLP(784, [w, w], 10) for w in WIDTHS},
    "MLP 784-64-64-10, BatchNorm": lambda: MLP(784, [64, 64], 10, norm="batch"),
    "ConvNet 8-16, BatchNorm": lambda: ConvNet(1, 10, widths=(8, 16)),
    "ConvNet 8-16, LayerNorm": lambda: ConvNet(1, 10, widths=(8, 16), norm="layer"),
    "TinyViT 32, 2 blocks, patch 7": lambda: TinyViT(28, 7, 1, 10),
}


def seconds(train: Callable[[], object]) -> float:
    """Wall-clock time of a call."""
    start = time.perf_counter()
    train()
    return time.perf_counter() - start


def compare(
    make: Callable[[], nn.Module], X: Tensor, y: Tensor, *, count: int, rounds: int, batch_size: int
) -> tuple[float, float]:
    """Best time of a step of `count` models, in seconds: with `fit` in a loop, and with `fit_many`."""
    settings = {"epochs": 1, "batch_size": batch_size}
    models = [seeded(make, seed) for seed in range(count)]
    steps = len(X) // batch_size

    def one_by_one() -> None:
        for seed, model in enumerate(models):
            fit(model, X, y, seed=seed, **settings)

    def together() -> None:
        fit_many(models, X, y, seeds=range(count), **settings)

    times = [(seconds(one_by_one), seconds(together)) for _ in range(rounds + 1)][1:]  # the first warms up
    loop, many = (min(column) / steps for column in zip(*times, strict=True))
    return loop, many


def main() -> None:
    """Measure all networks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--steps", type=int, default=10, help="steps per round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the best counts")
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    count = options.steps * options.batch_size
    X, y = (
        torch.randn(count, 1, 28, 28, generator=generator),
        torch.randint(10, (count,), generator=generator),
    )
    print(f"{options.models} models, batches of {options.batch_size} pictures of 28×28, Adam, one thread\n")
    print("| network | `fit` in a loop, ms per step | `fit_many`, ms per step | speed-up |")
    print("| --- | ---: | ---: | ---: |")
    for name, make in NETWORKS.items():
        loop, many = compare(
            make, X, y, count=options.models, rounds=options.rounds, batch_size=options.batch_size
        )
        print(f"| {name} | {1e3 * loop:.1f} | {1e3 * many:.1f} | {loop / many:.2f}× |", flush=True)


if __name__ == "__main__":
    main()
