"""Say values, shapes and calls in few words."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from .compare import as_array, dtype_name, is_number_list, kind


def number(value: Any) -> str:
    """Write one number with as many digits as a reader compares by eye.

    >>> number(0.1 + 0.2), number(2.0), number(True), number(1234567.0)
    ('0.3', '2', 'True', '1.23457e+06')
    """
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    value = value.item() if isinstance(value, np.generic) else value
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def shape(value: Any) -> str:
    """Write a shape as PyTorch's users know it: `(2, 3)`, `(4,)`, `()`."""
    return str(tuple(as_array(value).shape))


def describe(value: Any) -> str:
    """Say what an argument is: kind, shape and dtype of an array, a number's value, the entries of a dict.

    >>> import torch
    >>> describe(torch.ones(2, 3)), describe(0.5), describe({"w": torch.ones(2), "b": 1})
    ('tensor (2, 3) float32', '0.5', "{'w': tensor (2,) float32, 'b': 1}")
    """
    if isinstance(value, Tensor | np.ndarray):
        name = "tensor" if isinstance(value, Tensor) else "array"
        return f"{name} {shape(value)} {dtype_name(value).rpartition('.')[2]}"
    if is_number_list(value) and len(value) > 6:
        return f"list of {len(value)}"
    if isinstance(value, int | float | complex | np.generic):
        return number(value)
    if isinstance(value, Mapping):
        return "{" + _few([f"{key!r}: {describe(entry)}" for key, entry in value.items()]) + "}"
    if isinstance(value, list | tuple):
        inside = _few([describe(entry) for entry in value])
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    if isinstance(value, nn.Module):
        return f"{type(value).__name__}(…)"
    if callable(value):
        return getattr(value, "__name__", "a function")
    text = repr(value)
    return text if len(text) <= 40 and " at 0x" not in text else kind(value).removeprefix("a ")


def call(name: str, arguments: Mapping[str, Any]) -> str:
    """Write a call with its arguments described, one line.

    >>> call("trim", {"delta": np.ones(4), "keep": 0.5})
    'trim(delta=array (4,) float64, keep=0.5)'
    """
    return f"{name}({', '.join(f'{key}={describe(value)}' for key, value in arguments.items())})"


def brief(value: Any, width: int = 36) -> str:
    """Show a result in a column of a table: the numbers where there are few, otherwise what it is."""
    if isinstance(value, Tensor | np.ndarray) and as_array(value).size <= 6:
        numbers = [entry.item() for entry in as_array(value).ravel()]
        text = ", ".join(f"{entry:.3g}" if isinstance(entry, float) else str(entry) for entry in numbers)
        text = f"[{text}]"
        text = text if as_array(value).ndim == 1 else f"{shape(value)} {text}"
    else:
        text = describe(value)
    return text if len(text) <= width else text[: width - 1] + "…"


def name_of(function: Callable[..., Any]) -> str:
    """Return a function's name as learners know it, and "answer" for a lambda."""
    name = getattr(inspect.unwrap(function), "__name__", "answer")
    return "answer" if name == "<lambda>" else name


def _few(entries: list[str], most: int = 3) -> str:
    more = [f"… {len(entries) - most} more"] if len(entries) > most else []
    return ", ".join(entries[:most] + more)
