"""Fake quantization: a model computes in floating point with weights that lie on their grid, and can train.

A parametrization rounds the weight in the forward pass; in the backward pass the rounding counts as the
identity (the straight-through estimator; Bengio, Léonard, and Courville, 2013).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from layerlab.layers import bake, layers_of, original, wears
from layerlab.quantization.affine import By, fit, fit_rows, round_rows, rows_of
from layerlab.quantization.scheme import (
    Parameters,
    Scheme,
    check_how,
    check_parameters,
    check_scheme,
    schemes_of,
)


class FakeQuant(nn.Module):
    """Round to the grid; the gradient passes where the value lies in its range and is zero outside.

    A parametrization of a weight, or a module in front of a layer whose input it rounds.

    Args:
        scheme: bits, symmetry and groups.
        parameters: scales and zero points that stay as they are; without them, they are fitted to each input
            anew (with no gradient of their own), so that they follow a weight that trains.
        by: as in `affine.fit`; "mse" tries its 80 widths in each forward pass.
        percentile: as in `affine.fit`.

    Raises:
        TypeError: `scheme` is no `Scheme`.
        ValueError: `by` or `percentile` unknown.

    >>> x = torch.tensor([[0.6, 5.0]], requires_grad=True)
    >>> y = FakeQuant(Scheme(3), Parameters(torch.ones(1), torch.zeros(1, dtype=torch.int32)))(x)
    >>> y.sum().backward()
    >>> y.tolist(), x.grad.tolist()
    ([[1.0, 3.0]], [[1.0, 0.0]])
    """

    def __init__(
        self,
        scheme: Scheme,
        parameters: Parameters | None = None,
        *,
        by: By = "range",
        percentile: float = 99.9,
    ):
        super().__init__()
        check_scheme(scheme)
        check_how(by, percentile)
        self.scheme, self.by, self.percentile = scheme, by, percentile
        scale, zero = (None, None) if parameters is None else (p.detach().clone() for p in parameters)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero)

    def forward(self, x: Tensor) -> Tensor:
        """Map a tensor to one of the same shape and type.

        Raises:
            ValueError: a shape that does not fit the scheme or the parameters.
        """
        shape = self.scheme.groups(x.shape)
        rows = rows_of(x, self.scheme)
        if self.scale is None:
            with torch.no_grad():
                found = fit_rows(rows.detach(), self.scheme, self.by, self.percentile, torch.float32)
        else:
            if tuple(self.scale.shape) != shape:
                raise ValueError(f"scale: expected shape {shape}, got {tuple(self.scale.shape)}")
            found = Parameters(self.scale, self.zero)
        with torch.no_grad():
            rounded, inside = round_rows(rows.detach(), found, self.scheme)
        passed = torch.where(inside, rows, 0)
        # A difference that is exactly zero carries the gradient; the value is the rounded one.
        return (rounded + (passed - passed.detach())).to(x.dtype).view(x.shape)


def apply(
    model: nn.Module,
    schemes: Scheme | Mapping[str, Scheme],
    *,
    parameters: Mapping[str, Parameters] | None = None,
    by: By = "range",
    percentile: float = 99.9,
) -> nn.Module:
    """Round weights to their grids in place, and keep them there while the model trains; return the model.

    Each such weight becomes a `FakeQuant` parametrization of a parameter `parametrizations.weight.original`
    in full precision, which is what an optimizer moves. Modules that share a weight share its grid. Applied
    again, the new scheme takes the place of the old one. The keys of the state dict change until
    `make_permanent`.

    Args:
        model: any module.
        schemes: one for the weights of all `nn.Linear` and `nn.Conv2d`, or by key; other layers stay as they
            are.
        parameters: scales and zero points that stay as they are, by key; the others follow their weight.
        by: as in `affine.fit`.
        percentile: as in `affine.fit`.

    Raises:
        TypeError: a scheme of another type.
        ValueError: an unknown key; a group that does not divide; NaN weights; parameters that do not fit;
            the weight has a parametrization of another kind. The model is unchanged then.
    """
    layers = layers_of(model)
    first = {key: root for root, users in layers.items() for key, _ in users}
    schemes = schemes_of(schemes, first if isinstance(schemes, Mapping) else layers)
    parameters = dict(parameters or {})
    for key in parameters.keys() - schemes.keys():
        raise ValueError(f"parameters: expected keys among {list(schemes)}, got {key!r}")
    check_how(by, percentile)
    chosen: dict[str, str] = {}
    for key, scheme in schemes.items():
        root = first[key]
        if root in chosen:
            raise ValueError(f"schemes: {key!r} and {chosen[root]!r} are one weight, expected one scheme")
        chosen[root] = key
        for name, module in layers[root]:
            if parametrize.is_parametrized(module, "weight") and not wears(module, FakeQuant):
                raise ValueError(f"model: expected {name!r} to have no other parametrization")
        weight = original(layers[root][0][1])
        try:
            if key in parameters:
                check_parameters(parameters[key], scheme, weight.shape)
            fit(weight, scheme, by="range")  # raises where the weight or its groups do not fit
        except ValueError as error:
            raise ValueError(f"{key!r}: {error}") from error
    for root, key in chosen.items():
        for _, module in layers[root]:
            fake = FakeQuant(schemes[key], parameters.get(key), by=by, percentile=percentile)
            if wears(module, FakeQuant):
                module.parametrizations.weight[0] = fake.to(original(module).device)
            else:
                parametrize.register_parametrization(module, "weight", fake.to(module.weight.device))
    return model


def make_permanent(model: nn.Module) -> nn.Module:
    """Leave the rounded values in the weights, in place, and take the parametrizations off; return the model.

    The state dict has the keys that it had before `apply`.
    """
    return bake(model, FakeQuant)
