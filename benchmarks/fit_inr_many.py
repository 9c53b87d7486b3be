"""Time steps of many small coordinate networks, `fit` in a loop against `fit_many`, and of each activation.

All run in this process and in turns, so that whatever else the machine does slows all; the best of several
rounds counts. Times are of the CPU on one thread, and of the clock on two. Prints two Markdown tables.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from layerlab.data.pictures import photos
from layerlab.inr.activations import ACTIVATIONS, CoordinateNet, count
from layerlab.inr.fit import coordinates, fit
from layerlab.inr.learnable import ChebyshevNet
from layerlab.inr.many import fit_many
from layerlab.inr.polynomial import PolynomialNet
from layerlab.inr.siren import Siren
from layerlab.models import seeded


def seconds(call: Callable[[], object]) -> float:
    """Time of a call: of the CPU, so less what other programs take, or on several threads of the clock."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    call()
    return clock() - start


def best(calls: list[Callable[[], object]], rounds: int) -> list[float]:
    """Best time of each call, in turns; a round before the first warms up."""
    times = [[seconds(call) for call in calls] for _ in range(rounds + 1)][1:]
    return [min(column) for column in zip(*times, strict=True)]


def signals(size: int, number: int) -> Tensor:
    """Photos and their mirror images and rotations, (number, size², 1)."""
    pictures = [photo.mean(0) for photo in photos(size).values()]
    turned = [p.rot90(k) for p in pictures for k in range(4)]
    turned += [p.flip(0) for p in turned]
    return torch.stack([turned[i % len(turned)].flatten()[:, None] for i in range(number)])


def main() -> None:
    """Measure both and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=64)
    parser.add_argument("--size", type=int, default=64, help="side of the pictures, in pixels")
    parser.add_argument("--width", type=int, default=32, help="of both hidden layers")
    parser.add_argument("--batches", type=int, nargs="*", default=[1024, 256], help="pixels per step")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--steps", type=int, default=20, help="of each fit; three times as many with batches")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the best counts")
    options = parser.parse_args()
    size, width = options.size, options.width
    X, Y = coordinates(size, size), signals(size, options.models)

    print(f"{options.models} networks of two hidden layers of {width}, pictures of {size}×{size}\n")
    print("| network | pixels per step | threads | loop of `fit`, ms per step | `fit_many` | speed-up |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    networks = {
        "SIREN": lambda: Siren(2, [width] * 2, 1),
        "ReLU": lambda: CoordinateNet(2, 1, width, 2, "relu"),
        "Gabor, complex": lambda: CoordinateNet(2, 1, width, 2, "gabor"),
    }
    for name, make in networks.items():
        # mapped networks, where `fit_many` maps them; SIRENs everywhere
        for batch in [None, *options.batches] if name == "SIREN" else options.batches[-1:]:
            for threads in options.threads:
                torch.set_num_threads(threads)
                steps = options.steps if batch is None else 3 * options.steps
                settings = {"steps": steps, "lr": 1e-4, "batch_size": batch}

                def loop(make=make, settings=settings) -> None:
                    for seed, y in enumerate(Y):
                        fit(seeded(make, seed), X, y, **settings)

                def together(make=make, settings=settings) -> None:
                    fit_many([seeded(make, seed) for seed in range(len(Y))], X, Y, **settings)

                one, all_at_once = (1e3 * t / steps for t in best([loop, together], options.rounds))
                print(
                    f"| {name} | {batch or 'all'} | {threads} | {one:.1f} | {all_at_once:.1f} "
                    f"| {one / all_at_once:.2f} |",
                    flush=True,
                )

    torch.set_num_threads(1)
    print("\nOne network at a time, all pixels, one thread\n\n| activation | numbers | steps per second |")
    print("| --- | ---: | ---: |")
    kinds: dict[str, Callable[[], nn.Module]] = {
        name: lambda name=name: CoordinateNet(2, 1, width, 2, name) for name in ACTIVATIONS
    }
    kinds["Chebyshev, degree 64"] = lambda: ChebyshevNet(2, 1, width, 2, degree=64)
    kinds["Poly-INR, 6 levels"] = lambda: PolynomialNet(2, 1, width, 6)
    calls = [
        lambda make=make: fit(seeded(make, 0), X, Y[0], steps=options.steps, lr=1e-4)
        for make in kinds.values()
    ]
    for (name, make), taken in zip(kinds.items(), best(calls, options.rounds), strict=True):
        print(f"| {name} | {count(make())} | {options.steps / taken:.0f} |")


if __name__ == "__main__":
    main()
