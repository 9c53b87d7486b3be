"""One hash for what a result depends on: numbers, tensors, and code with everything that the code reaches.

Code is hashed as it is loaded, not as it lies on disk: a module that was edited after it was imported hashes
as what runs. A function's hash holds its instructions and constants, its defaults, and, in turn, each global
and enclosing variable that it names. Where that leads into the standard library or another package that has
a version, the name and the version stand for the rest.
"""

import dataclasses
import dis
import functools
import hashlib
import importlib.util
import inspect
import json
import platform
import re
import sys
import types
import typing
from importlib import metadata

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    types.EllipsisType,
    np.generic,
    torch.dtype,
    torch.device,
)
_TYPES = (types.GenericAlias, types.UnionType)  # list[int], int | str
_IN_C = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, np.ufunc)
_OWN = __name__.partition(".")[0]


def fingerprint(*values: object) -> str:
    """A hash of values, as hexadecimal digits; equal in every process that has equal values.

    Args:
        values: numbers, text, patterns, slices, tensors, NumPy arrays, modules of a network, generators,
            functions, classes, Python modules, and lists, tuples, sets, dictionaries and dataclasses of them.

    Raises:
        TypeError: something else is among them, or is reached by a function; the message says by which way.

    >>> fingerprint(1, torch.ones(2)) == fingerprint(1, torch.ones(2)), fingerprint(1) == fingerprint(1.0)
    (True, False)
    """
    walk = _Walk()
    text = json.dumps([walk.describe(value, f"values[{i}]") for i, value in enumerate(values)])
    return hashlib.sha256(text.encode()).hexdigest()


class _Walk:
    """Turns values into nested lists of text, each piece of code once."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, object]] = {}  # the object is kept: its id must not be used again

    def describe(self, value: object, way: str) -> object:
        if isinstance(value, _PLAIN + _TYPES) or type(value).__module__ == "typing":
            return [type(value).__name__, repr(value)]
        if isinstance(value, bytes):
            return ["bytes", hashlib.sha256(value).hexdigest()]
        if isinstance(value, Tensor):
            return ["tensor", str(value.dtype), *self._numbers(value)]
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            return ["array", value.dtype.str, list(value.shape), _sha(np.ascontiguousarray(value).tobytes())]
        if isinstance(value, dict | types.MappingProxyType):
            items = [(self.describe(k, way), self.describe(v, f"{way}[{k!r}]")) for k, v in value.items()]
            return ["mapping", sorted(items, key=json.dumps)]
        if isinstance(value, list | tuple):
            found = [self.describe(v, f"{way}[{i}]") for i, v in enumerate(value)]
            return [type(value).__name__, found]
        if isinstance(value, set | frozenset):
            return ["set", sorted((self.describe(v, way) for v in value), key=json.dumps)]
        if isinstance(value, slice | range):
            return [type(value).__name__, self.describe([value.start, value.stop, value.step], way)]
        if isinstance(value, re.Pattern):
            return ["pattern", self.describe([value.pattern, value.flags], way)]
        if isinstance(value, torch.library.Library):
            return ["library", value.ns, value.kind]
        if isinstance(value, torch.Generator):
            return ["generator", self.describe(value.get_state(), way)]
        if isinstance(value, functools.partial):
            return ["partial", *(self.describe(v, way) for v in (value.func, value.args, value.keywords))]
        if isinstance(value, types.MethodType):
            return ["method", self.describe(value.__self__, way), self.describe(value.__func__, way)]
        if isinstance(value, nn.Module):
            parts = [self._part(module, f"{way}.{name}") for name, module in value.named_modules()]
            return ["network", repr(value), self.describe(value.state_dict(), way), parts]
        if isinstance(value, type | types.ModuleType):
            return self._once(value, way)
        if dataclasses.is_dataclass(value):
            return ["dataclass", self._once(type(value), way), self.describe(vars(value), way)]
        if callable(value):
            return self._once(value, way)
        raise TypeError(
            f"{way}: expected numbers, text, tensors, code or collections of them, got "
            f"{type(value).__name__}, which has no hash that lasts; pass what is needed of it instead"
        )

    def _part(self, module: nn.Module, way: str) -> object:
        """A network's module: its class, its mode, and the settings that it keeps besides weights."""
        settings = {k: v for k, v in vars(module).items() if not k.startswith("_")}
        return [self._once(type(module), way), self.describe(settings, way)]

    def _once(self, value: object, way: str) -> object:
        """Describe code; the second time by number, which also ends recursion."""
        if id(value) in self._seen:
            return ["seen", self._seen[id(value)][0]]
        self._seen[id(value)] = (len(self._seen), value)
        if isinstance(value, types.ModuleType):
            return self._module(value, way)
        if isinstance(value, type):
            return self._class(value, way)
        return self._callable(value, way)

    def _module(self, module: types.ModuleType, way: str) -> object:
        if version := _version(module.__name__):
            return ["package", module.__name__, version]
        names = (n for n in sorted(vars(module)) if not n.startswith("__") and n != "annotations")
        return ["module", *([n, self.describe(vars(module)[n], f"{way}.{n}")] for n in names)]

    def _class(self, cls: type, way: str) -> object:
        name = f"{cls.__module__}.{cls.__qualname__}"
        if version := _version(cls.__module__):
            return ["class", name, version]
        found = [self._once(base, way) for base in cls.__bases__]
        for key, value in sorted(vars(cls).items()):
            inner = f"{way}.{key}"
            if isinstance(value, staticmethod | classmethod):
                found.append([key, self.describe(value.__func__, inner)])
            elif isinstance(value, property):
                found.append([key, [self.describe(f, inner) for f in (value.fget, value.fset, value.fdel)]])
            elif isinstance(value, functools.cached_property):
                found.append([key, self.describe(value.func, inner)])
            elif inspect.isfunction(value) or not (
                key.startswith("__") or key == "_abc_impl" or hasattr(type(value), "__get__")
            ):
                found.append([key, self.describe(value, inner)])
        return ["class", cls.__qualname__, found]

    def _callable(self, function: typing.Any, way: str) -> object:
        wrapped = getattr(function, "__wrapped__", None)
        home = getattr(function, "__globals__", {}).get("__name__") or getattr(function, "__module__", None)
        name = getattr(function, "__qualname__", type(function).__qualname__)
        version = _version(home) if home else None
        if wrapped is not None and (version or not isinstance(function, types.FunctionType)):
            return ["wrapped", home, name, version, self.describe(wrapped, way)]  # as torch.no_grad does it
        closure = [c.cell_contents for c in getattr(function, "__closure__", None) or () if _filled(c)]
        inner = [self.describe(value, f"{way} → an enclosing variable") for value in closure]
        if version and (isinstance(function, (types.FunctionType, *_IN_C)) or _compiled(function)):
            return ["function", home, name, version, inner]
        if isinstance(function, _IN_C):
            owner = getattr(function, "__self__", None) or getattr(function, "__objclass__", None)
            return ["in C", name, owner.__name__ if inspect.ismodule(owner) else self.describe(owner, way)]
        if not isinstance(function, types.FunctionType):
            raise TypeError(
                f"{way}: expected a function, got a {type(function).__name__}, which has no hash that lasts"
            )
        found = ["function", self._code(function.__code__, way), inner]
        found += [self.describe(v, way) for v in (function.__defaults__, function.__kwdefaults__)]
        for kind, used in _uses(function.__code__, function.__globals__.get("__package__")):
            if kind == "import":
                module = _version(used) or self.describe(importlib.import_module(used), f"{way} → {used}")
                found.append([used, module])
            elif kind == "global" and used in function.__globals__:
                found.append([used, self.describe(function.__globals__[used], f"{way} → {used}")])
        return found

    def _code(self, code: types.CodeType, way: str) -> object:
        """Instructions, constants and names; neither line numbers nor the file."""
        constants = [
            self._code(c, way) if inspect.iscode(c) else self.describe(c, way) for c in code.co_consts
        ]
        arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        names = [*code.co_names, *arguments, *code.co_freevars, code.co_argcount, code.co_kwonlyargcount]
        return [_sha(code.co_code), code.co_flags, names, constants]

    @staticmethod
    def _numbers(tensor: Tensor) -> list:
        flat = tensor.detach().cpu().contiguous().view(-1)
        return [list(tensor.shape), _sha(flat.view(torch.uint8).numpy().tobytes() if len(flat) else b"")]


def _uses(code: types.CodeType, package: str | None) -> list[tuple[str, str]]:
    """What a function and its inner functions look up when they run: globals, and modules to import."""
    found = set()
    before: list[dis.Instruction] = []
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            found.add(("global", step.argval))
        if step.opname == "IMPORT_NAME":
            level = before[-2].argval  # from . import x: the number of dots
            name = importlib.util.resolve_name("." * level + step.argval, package) if level else step.argval
            found.add(("import", name))
        before.append(step)
    for constant in code.co_consts:
        if inspect.iscode(constant):
            found.update(_uses(constant, package))
    return sorted(found)


@functools.cache
def _version(module: str) -> str | None:
    """The version that stands for a module, or None where its code has to be looked at."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return f"python {platform.python_version()}"
    if top in (_OWN, "__main__"):
        return None
    try:
        return metadata.version(top)
    except metadata.PackageNotFoundError:  # under another name (sklearn), or never installed
        found = sys.modules.get(top) or (importlib.util.find_spec(top) and importlib.import_module(top))
        return getattr(found, "__version__", None)


def _compiled(function: object) -> bool:
    """Whether Cython made it, as in SciPy: each package has a type of that name."""
    return type(function).__name__ == "cython_function_or_method"


def _filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
