"""One bit: signs with a gradient, scales that fit them, and products of packed signs by counting bits.

Signs are −1 and +1, and the sign of zero is +1, so that one bit says all.
"""

import math

import torch
from torch import Tensor

from layerlab.quantization._values import check_floating, check_integer, check_positive, check_values

WORD = 64  # signs in an int64
CHUNK = 1 << 20  # words of the largest temporary that `xnor_matmul` makes


class _Signs(torch.autograd.Function):
    """The signs forward; backward, the gradient times a slope that stands for the missing derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, slope: Tensor) -> Tensor:
        return bipolar(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (slope,) = ctx.saved_tensors
        return gradient * slope, None


def bipolar(x: Tensor) -> Tensor:
    """−1 where x is negative, +1 elsewhere, zero included; NaN stays NaN. No gradient: see the estimators.

    >>> bipolar(torch.tensor([-2.0, 0.0, 3.0]))
    tensor([-1.,  1.,  1.])
    """
    check_floating(x)
    x = x.detach()
    return torch.where(x < 0, -1.0, torch.where(x >= 0, 1.0, x)).to(x.dtype)


def sign_ste(x: Tensor, clip: float | None = 1.0) -> Tensor:
    """Signs, with the straight-through gradient: 1 where |x| ≤ clip, else 0; with None, 1 everywhere.

    The identity stands for the sign (Courbariaux et al., 2016). Without the clip, values that the loss pushes
    outward grow for ever and hardly ever flip again.

    Raises:
        TypeError, ValueError: x is not floating point; `clip` is not positive.

    >>> x = torch.tensor([-2.0, 0.5], requires_grad=True)
    >>> sign_ste(x).sum().backward(); x.grad
    tensor([0., 1.])
    """
    check_floating(x)
    values = x.detach()
    if clip is None:
        return _Signs.apply(x, torch.ones_like(values))
    check_positive(clip, "clip")
    return _Signs.apply(x, (values.abs() <= clip).to(x.dtype))


def reste(x: Tensor, o: float = 3.0, *, near: float = 0.1, clip: float = 1.5) -> Tensor:
    """Signs, with the gradient of sign(x) · |x|^(1/o), tamed near zero and cut off far from it: ReSTE.

    The slope is |x|^(1/o − 1) / o for near < |x| ≤ clip; the chord's, near^(1/o − 1), for |x| ≤ near, where
    the power's would go to infinity; and 0 beyond. With o = 1 it is `sign_ste` with that clip; the larger o,
    the closer the power is to the sign and the more uneven the gradient, so o is raised while a model
    trains (Wu et al., 2023; the defaults of `near` and `clip` are those of its authors' code).

    Args:
        x: any shape; the gradient has it too.
        o: 1 or more.
        near: positive, below `clip`.
        clip: positive.

    Raises:
        TypeError, ValueError: x is not floating point; a number is out of its range.

    >>> x = torch.tensor([0.0, 0.25, 2.0], requires_grad=True)
    >>> reste(x, 2.0, near=0.04).sum().backward(); x.grad
    tensor([5., 1., 0.])
    """
    check_floating(x)
    for value, name in ((o, "o"), (near, "near"), (clip, "clip")):
        check_positive(value, name)
    if o < 1:
        raise ValueError(f"o: expected 1 or more, got {o}")
    if near >= clip:
        raise ValueError(f"near: expected less than clip={clip}, got {near}")
    size = x.detach().abs()
    slope = torch.where(size > near, size.clamp(min=near) ** (1 / o - 1) / o, near ** (1 / o - 1))
    return _Signs.apply(x, slope * (size <= clip))


def biper(x: Tensor, frequency: float) -> Tensor:
    """The square wave sign(sin(frequency · x)), with the sine's gradient, frequency · cos(frequency · x).

    BiPer (Vargas et al., 2024), its second stage; in the first, a model trains with `torch.sin` itself.
    A latent weight is never more than half a period, π / frequency, from a flip.

    Raises:
        TypeError, ValueError: x is not floating point; `frequency` is not positive.

    >>> x = torch.tensor([0.0, 0.2, 0.4], requires_grad=True)
    >>> y = biper(x, 10.0); y.sum().backward(); y.detach(), x.grad
    (tensor([ 1.,  1., -1.]), tensor([10.0000, -4.1615, -6.5364]))
    """
    check_floating(x)
    check_positive(frequency, "frequency")
    return sign_ste(torch.sin(frequency * x), clip=None)


def binarize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The signs and one scale per output unit that come closest to a weight in squared error.

    The scale is the unit's mean |entry| (XNOR-Net, Rastegari et al., 2016).

    Args:
        weight: (out, in, …).

    Returns:
        signs, ±1, of the weight's shape and dtype; scale (out, 1, …), of its dtype: `signs * scale`.

    Raises:
        TypeError, ValueError: not floating point, less than two axes, empty, NaN or infinity.

    >>> binarize(torch.tensor([[1.0, -3.0], [0.5, 0.5]]))
    (tensor([[ 1., -1.],
            [ 1.,  1.]]), tensor([[2.0000],
            [0.5000]]))
    """
    rows = _rows(weight)
    scale = rows.abs().mean(1).view(-1, *[1] * (weight.ndim - 1))
    return bipolar(weight), scale.to(weight.dtype)


def onebit(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A weight's signs times the best rank-one fit of its absolute values: `signs * a * b`.

    OneBit's start (sign-value independent decomposition, Xu et al., 2024). The fit is the first singular pair
    of |weight|; neither vector is negative anywhere, and both have the same norm. The squared error is at
    most that of `binarize`, which is the case b = 1.

    Args:
        weight: (out, in, …).

    Returns:
        signs, ±1, of the weight's shape; a (out, 1, …); b (1, in, …); all of the weight's dtype.

    Raises:
        TypeError, ValueError: as `binarize`.

    >>> signs, a, b = onebit(torch.tensor([[1.0, -2.0], [-2.0, 4.0]]))
    >>> (signs * a * b).round(decimals=4)
    tensor([[ 1., -2.],
            [-2.,  4.]])
    """
    left, sizes, right = torch.linalg.svd(_rows(weight).abs(), full_matrices=False)
    # The first pair of a matrix without negative entries has none either, up to its common sign.
    a, b = left[:, 0].abs() * sizes[0].sqrt(), right[0].abs() * sizes[0].sqrt()
    a, b = a.view(-1, *[1] * (weight.ndim - 1)), b.view(1, *weight.shape[1:])
    return bipolar(weight), a.to(weight.dtype), b.to(weight.dtype)


def ternary(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The codes −1, 0, 1 and one scale per output unit that come closest to a weight in squared error.

    Exactly: whatever its count k, the entries that stay are a unit's k largest and the scale is their mean
    |entry|, so the best k has the largest (their sum)² / k. Of equal ones the smallest k.

    Args:
        weight: (out, in, …).

    Returns:
        codes of the weight's shape and dtype; scale (out, 1, …), of its dtype: `codes * scale`.

    Raises:
        TypeError, ValueError: as `binarize`.

    >>> ternary(torch.tensor([[4.0, -5.0, 0.3, -0.1]]))
    (tensor([[ 1., -1.,  0.,  0.]]), tensor([[4.5000]]))
    """
    rows = _rows(weight)
    sizes, order = rows.abs().sort(dim=1, descending=True, stable=True)
    count = torch.arange(1, rows.shape[1] + 1, dtype=rows.dtype, device=rows.device)
    sums = sizes.cumsum(1)
    best = (sums / count.sqrt()).argmax(1, keepdim=True)
    stays = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order, count <= best + 1)
    scale = (sums / count).gather(1, best).view(-1, *[1] * (weight.ndim - 1))
    return torch.where(stays, rows.sign(), 0).view(weight.shape).to(weight.dtype), scale.to(weight.dtype)


def pack_signs(signs: Tensor) -> Tensor:
    """Signs to bits, 64 to a word along the last axis; +1 is a set bit, and unused bits are clear.

    Args:
        signs: (…, n), each −1 or +1, of any dtype.

    Returns:
        (…, ⌈n / 64⌉) int64; sign i is bit i mod 64 of word ⌊i / 64⌋.

    Raises:
        ValueError: there is no last axis, it is empty, or an entry is neither −1 nor +1.

    >>> pack_signs(torch.tensor([1, -1, 1, 1]))
    tensor([13])
    """
    if not signs.ndim or not signs.shape[-1]:
        raise ValueError(f"signs: expected shape (…, n), n at least 1, got {tuple(signs.shape)}")
    bits = signs == 1
    if not (bits | (signs == -1)).all():
        found = signs[~(bits | (signs == -1))].flatten()[0].item()
        raise ValueError(f"signs: expected -1 and +1 only, got {found}")
    n = signs.shape[-1]
    bits = torch.nn.functional.pad(bits, (0, -n % WORD)).unflatten(-1, (-1, WORD))
    words = torch.zeros(bits.shape[:-1], dtype=torch.int64, device=signs.device)
    for place in range(min(n, WORD)):
        words |= bits[..., place].long() << place
    return words


def unpack_signs(packed: Tensor, n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The n signs of each row that `pack_signs` packed.

    Raises:
        TypeError, ValueError: not int64; the words are not those of n signs, or have a bit set beyond.

    >>> unpack_signs(torch.tensor([13]), 4)
    tensor([ 1., -1.,  1.,  1.])
    """
    _check_packed(packed, n, "packed")
    bits = packed.unsqueeze(-1) >> torch.arange(WORD, device=packed.device) & 1
    return (bits.flatten(-2)[..., :n] * 2 - 1).to(dtype)


def xnor_matmul(packed_x: Tensor, packed_w: Tensor, n: int) -> Tensor:
    """x @ w.T for packed signs: n less twice the number of places where the signs differ.

    Exactly the product of the signs in floating point, as long as that can hold n (2²⁴ in float32); of
    XNOR-Net (Rastegari et al., 2016). Bits are counted with shifts and adds of whole words, as torch has no
    popcount: what this shows is that the numbers are the same, not the speed that an instruction gives.

    Args:
        packed_x: (batch, ⌈n / 64⌉) int64, from `pack_signs`.
        packed_w: (out, ⌈n / 64⌉) int64.
        n: signs in a row.

    Returns:
        (batch, out) int32.

    Raises:
        TypeError, ValueError: not int64; not two axes; the words are not those of n signs, or have a bit set
            beyond them.

    >>> x, w = torch.tensor([[1, -1, 1]]), torch.tensor([[1, 1, 1], [-1, 1, -1]])
    >>> xnor_matmul(pack_signs(x), pack_signs(w), 3)
    tensor([[ 1, -3]], dtype=torch.int32)
    """
    for packed, name in ((packed_x, "packed_x"), (packed_w, "packed_w")):
        _check_packed(packed, n, name)
        if packed.ndim != 2:
            raise ValueError(f"{name}: expected two axes, (rows, words), got shape {tuple(packed.shape)}")
    out = torch.empty(len(packed_x), len(packed_w), dtype=torch.int32, device=packed_x.device)
    step = max(1, CHUNK // max(1, packed_w.numel()))
    for start in range(0, len(packed_x), step):
        differ = packed_x[start : start + step, None] ^ packed_w
        out[start : start + step] = n - 2 * _count_bits(differ).sum(-1)
    return out


def _count_bits(words: Tensor) -> Tensor:
    # Sums of 2, 4 and 8 neighbouring bits in place, then the eight bytes' sum in the top one. The shifts
    # copy the sign bit downward; the masks take those copies off again.
    words = words - (words >> 1 & 0x5555555555555555)
    words = (words & 0x3333333333333333) + (words >> 2 & 0x3333333333333333)
    words = words + (words >> 4) & 0x0F0F0F0F0F0F0F0F
    return words * 0x0101010101010101 >> 56


def _check_packed(packed: Tensor, n: int, name: str) -> None:
    check_integer(n, "n", 1, None)
    if packed.dtype != torch.int64:
        raise TypeError(f"{name}: expected int64 from pack_signs, got {packed.dtype}")
    words = math.ceil(n / WORD)
    if not packed.ndim or packed.shape[-1] != words:
        raise ValueError(f"{name}: expected {words} words in a row for n={n}, got {tuple(packed.shape)}")
    if n % WORD and (packed[..., -1] >> n % WORD).any():
        raise ValueError(f"{name}: expected the bits beyond n={n} clear, found some set")


def _rows(weight: Tensor) -> Tensor:
    values = check_values(weight, "weight")
    if values.ndim < 2:
        raise ValueError(f"weight: expected shape (out, in, …), got {tuple(weight.shape)}")
    return values.flatten(1)
