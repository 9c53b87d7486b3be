"""Time forward and backward of group convolutions for C8 and C4, of escnn's, and of a plain convolution.

All take turns in this process; the best of several rounds counts, of CPU time on one thread. The layers for
C8 have the same rings and frequencies here and in escnn, so as many weights, and the plain convolution has as
many channels, so the same multiply-adds without the building of filters. Where escnn is not installed, its
column says so: tests/oracles/freeze_escnn.py tells how it installs. Prints a Markdown table.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from layerlab.equivariance.group_conv import GroupConv2d
from layerlab.equivariance.group_nets import count_parameters
from layerlab.equivariance.groups import cyclic
from layerlab.equivariance.steerable import SteerableGroupConv, circular_harmonics

RADII, SIGMA, CUT = [0.0, 0.75, 1.5], 0.5, 2.0


def escnn_modules() -> tuple | None:
    """Its gspaces and nn, or None where it is not installed."""
    sys.path.append(str(Path(__file__).parents[1] / "tests" / "oracles"))
    try:
        from freeze_escnn import import_escnn

        return import_escnn()
    except ImportError as error:
        print(f"escnn is left out, for it is not installed ({error})\n")
        return None


def step(layer: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], None]:
    """Forward and backward, with gradients of the weights and the input."""

    def run() -> None:
        x.grad = None
        layer(x).sum().backward()

    return run


def best(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Best CPU time of each call in ms, in turns; a round before the first warms up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(1e3 * (time.process_time() - start))
    return {name: min(taken[1:]) for name, taken in times.items()}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, nargs="*", default=[64], help="maps: fields times |G|")
    parser.add_argument("--size", type=int, default=32, help="side of the pictures, in pixels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=25, help="rounds, of which the best counts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    escnn = escnn_modules()
    harmonics = circular_harmonics(5, None, RADII, SIGMA, cut=CUT)
    print("| layer | maps | weights | layerlab, ms | escnn | plain | escnn / layerlab | layerlab / plain |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for maps in options.channels:
        for n, kernel in ((8, 5), (4, 3)):
            fields = maps // n
            if n == 8:
                ours = SteerableGroupConv(fields, fields, kernel, cyclic(n), bias=False, harmonics=harmonics)
            else:
                ours = GroupConv2d(fields, fields, kernel, cyclic(n), bias=False)
            x = torch.randn(options.batch, fields, n, options.size, options.size, requires_grad=True)
            flat = x.detach().flatten(1, 2).requires_grad_()
            plain = nn.Conv2d(maps, maps, kernel, padding=kernel // 2, bias=False)
            calls = {"layerlab": step(ours, x), "plain": step(plain, flat)}
            if escnn is not None:
                gspaces, enn = escnn
                space = gspaces.rot2dOnR2(n)
                kind = enn.FieldType(space, [space.regular_repr] * fields)
                extra = {"rings": RADII, "sigma": SIGMA, "frequencies_cutoff": CUT} if n == 8 else {}
                theirs = enn.R2Conv(kind, kind, kernel, padding=kernel // 2, bias=False, **extra)
                if n == 8 and count_parameters(theirs) != count_parameters(ours):
                    raise RuntimeError(f"{count_parameters(theirs)} weights against {count_parameters(ours)}")
                calls["escnn"] = step(lambda v, f=theirs, k=kind: f(k(v)).tensor, flat)
            taken = best(calls, options.rounds)
            other = taken.get("escnn", float("nan"))
            print(
                f"| C{n}, {kernel}×{kernel} | {maps} | {count_parameters(ours)} "
                f"| {taken['layerlab']:.1f} | {other:.1f} | {taken['plain']:.1f} "
                f"| {other / taken['layerlab']:.2f} | {taken['layerlab'] / taken['plain']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
