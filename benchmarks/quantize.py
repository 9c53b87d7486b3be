"""Round a layer by GPTQ with `layerlab.quantization` and plainly; products of int8 against those of float32.

First the time of `gptq` on a layer of 1024 inputs and 1024 outputs at 4 bits, against the same method written
column by column and against one linear solve of that size; all must leave the same error. Then one linear
layer with float32 weights and with torch's kernels for int8, by size and batch, and which kernels those were.
One thread, all in turns; prints Markdown tables.
"""

import argparse
import itertools
import os
import subprocess
import sys
import warnings

os.environ["OMP_NUM_THREADS"] = "1"

import torch
import torch.nn.functional as F
from timing import in_turns
from torch import Tensor

from layerlab.quantization.affine import Scheme, decode, encode, fit
from layerlab.quantization.gptq import gptq, output_error

SIDE, DAMP = 1024, 0.01
SCHEMES = {"one scale per unit": Scheme(4), "one per 128 inputs": Scheme(4, group=128)}
SIZES = ((256, 256), (1024, 1024), (4096, 4096))  # outputs, inputs
BATCHES = (1, 8, 64, 512)


def draw(*shape: int, seed: int) -> Tensor:
    """Standard Gaussian values in float32."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer() -> tuple[Tensor, Tensor]:
    """A weight, and the Gram matrix of correlated inputs whose variances fall a hundredfold."""
    turn = torch.linalg.qr(draw(SIDE, SIDE, seed=1).double())[0]
    X = draw(4 * SIDE, SIDE, seed=2).double() * torch.logspace(0, -1, SIDE, dtype=torch.float64) @ turn
    return draw(SIDE, SIDE, seed=3), X.T @ X


def plain(weight: Tensor, gram: Tensor, scheme: Scheme) -> Tensor:
    """GPTQ as its idea reads: one inverse, of which an input is eliminated once its column is rounded.

    No triangular factor, no blocks: each column changes all later ones, and all that is left of the inverse.
    """
    W, H = weight.double(), gram.clone()
    H.diagonal().add_(DAMP * H.diagonal().mean())
    inverse, rounded = torch.linalg.inv(H), torch.empty_like(W)
    width = scheme.group if isinstance(scheme.group, int) else len(H)
    grid = Scheme(scheme.bits)
    for j in range(len(H)):
        if j % width == 0:
            scale = fit(W[:, j : j + width], grid).scale.double()
        rounded[:, j] = (W[:, j] / scale).round().clamp(grid.low, grid.high) * scale
        error = (W[:, j] - rounded[:, j]) / inverse[0, 0]
        W[:, j:] -= torch.outer(error, inverse[0])
        inverse = inverse[1:, 1:] - torch.outer(inverse[1:, 0], inverse[0, 1:] / inverse[0, 0])
    return rounded.to(weight.dtype)


def solve(weight: Tensor, gram: Tensor) -> Tensor:
    """The least that a method with that Hessian can do: factor it, and solve once for the whole layer."""
    H = gram.clone()
    H.diagonal().add_(DAMP * H.diagonal().mean())
    return torch.cholesky_solve(weight.double().T, torch.linalg.cholesky(H))


def print_gptq(rounds: int) -> None:
    """The first table: one layer by GPTQ, plainly, and one linear solve."""
    weight, gram = layer()
    print(f"GPTQ of {SIDE} inputs and {SIDE} outputs at 4 bits, in float64, s\n")
    titles = (
        "layerlab",
        "layerlab, block=1",
        "plain",
        "linear solve",
        "plain / layerlab",
        "layerlab / solve",
        "errors differ by",
        "weights that differ",
    )
    print(f"| scales | {' | '.join(titles)} |")
    print("| --- |" + " ---: |" * len(titles))
    for name, scheme in SCHEMES.items():
        calls = (
            lambda s=scheme: gptq(weight, gram, s, damp=DAMP).w_hat,
            lambda s=scheme: gptq(weight, gram, s, damp=DAMP, block=1).w_hat,
            lambda s=scheme: plain(weight, gram, s),
        )
        ours, _, other = (call() for call in calls)
        errors = [output_error(weight, w_hat, gram) for w_hat in (ours, other)]
        difference = abs(errors[0] - errors[1]) / errors[1]
        if difference > 1e-4:
            raise SystemExit(f"{name}: expected errors that agree to 1e-4, got {errors}")
        best = in_turns([*calls, lambda: solve(weight, gram)], rounds)
        cells = [f"{ms / 1e3:.3f}" for ms in best] + [f"{best[2] / best[0]:.1f}", f"{best[0] / best[3]:.1f}"]
        cells += [f"{difference:.0e}", str(int((ours != other).sum()))]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def int8_layer(outputs: int, inputs: int, batch: int) -> tuple[list, list[float]]:
    """The float32 layer and three of int8 as calls, and how far the outputs of the latter are from exact."""
    w, x = draw(outputs, inputs, seed=0), draw(batch, inputs, seed=1)
    scheme, one = Scheme(8), Scheme(8, symmetric=False, group="tensor")
    (scale, zero), (x_scale, x_zero) = parameters, about_x = fit(w, scheme), fit(x, one)
    codes = encode(w, scheme, parameters)
    packed = torch.ops.quantized.linear_prepack(
        torch.quantize_per_channel(w, scale.double(), zero.long(), 0, torch.qint8), None
    )
    x8 = torch.quantize_per_tensor(x, float(x_scale), int(x_zero), torch.quint8)
    signed = encode(x, Scheme(8, group="tensor"), fit(x, Scheme(8, group="tensor")))
    exact = F.linear(x, w)
    out = fit(exact, one)

    def static() -> Tensor:
        return torch.ops.quantized.linear(x8, packed, float(out.scale), int(out.zero))

    if not torch.equal(torch._int_mm(signed, codes.T).double(), signed.double() @ codes.double().T):
        raise SystemExit("torch._int_mm: expected the sums of products, got others")
    rounded = F.linear(decode(encode(x, one, about_x), one, about_x), decode(codes, scheme, parameters))
    found = (static().dequantize(), torch.ops.quantized.linear_dynamic(x, packed, False))
    off = [float((each - rounded).abs().max() / rounded.abs().max()) for each in found]
    if max(off) > 0.02:
        raise SystemExit(f"int8: expected outputs within 2 % of those of the decoded codes, got {off}")
    calls = [
        lambda: F.linear(x, w),
        lambda: torch._int_mm(signed, codes.T),
        static,
        lambda: torch.ops.quantized.linear_dynamic(x, packed, False),
    ]
    return calls, [float((each - exact).norm() / exact.norm()) for each in found]


def print_int8(rounds: int) -> None:
    """The second table: time with int8 over that with float32."""
    print(f"\n{kernels()}\n")
    titles = (
        "float32, ms",
        "`_int_mm`",
        "`linear`",
        "`linear_dynamic`",
        "error of `linear`",
        "of `_dynamic`",
    )
    print(f"| layer | batch | {' | '.join(titles)} |")
    print("| --- | ---: |" + " ---: |" * len(titles))
    for (outputs, inputs), batch in itertools.product(SIZES, BATCHES):
        calls, errors = int8_layer(outputs, inputs, batch)
        dense, *others = in_turns(calls, rounds)
        cells = [
            f"{dense:.3f}",
            *(f"{ms / dense:.2f}" for ms in others),
            *(f"{100 * e:.1f} %" for e in errors),
        ]
        print(f"| {inputs} to {outputs} | {batch} | {' | '.join(cells)} |", flush=True)


def kernels() -> str:
    """What computed: the processor's vectors, torch's engine, and what oneDNN says that it ran."""
    command = [sys.executable, __file__, "--job", "kernels"]
    environment = os.environ | {"ONEDNN_VERBOSE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    said: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        if line.startswith("call "):
            said[line.removeprefix("call ")] = []
        elif ",exec," in line and ",reorder," not in line and said:
            parts = line[line.index(",exec,") :].split(",")
            said[list(said)[-1]].append(" ".join(part for part in parts[3:5] if part))
    ran = ", ".join(
        f"{name}: {'oneDNN ' + found[0] if found else 'not oneDNN'}" for name, found in said.items()
    )
    capability = torch.backends.cpu.get_cpu_capability()
    return f"CPU {capability}, quantized engine {torch.backends.quantized.engine}; {ran}"


def say_kernels() -> None:
    """One call of each product, in a process whose oneDNN says what it runs."""
    calls, _ = int8_layer(1024, 1024, 64)
    for name, call in zip(("float32", "_int_mm", "linear", "linear_dynamic"), calls, strict=True):
        print(f"call {name}", flush=True)
        call()


def main() -> None:
    """Measure both and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="runs of each, a quarter of those of a product")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*quantiz.*deprecated")
    if options.job == "kernels":
        say_kernels()
        return
    print_gptq(options.rounds)
    print_int8(4 * options.rounds)


if __name__ == "__main__":
    main()
