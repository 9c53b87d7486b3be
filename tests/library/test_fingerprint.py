"""The hash of values and code: equal where nothing changed, another where anything did."""

import contextlib
import dataclasses
import functools
import operator
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from torch import nn

from layerlab import fingerprint as module
from layerlab import models, train
from layerlab.fingerprint import fingerprint
from layerlab.models import MLP, ConvNet, TinyViT, seeded
from layerlab.train import fit, fit_many


class Point(NamedTuple):
    x: int
    y: int = 0


@dataclasses.dataclass
class Setting:
    lr: float


VALUES = {
    "none": None,
    "false": False,
    "zero": 0,
    "zero as float": 0.0,
    "minus zero": -0.0,
    "text": "0",
    "bytes": b"0",
    "list": [0],
    "tuple": (0,),
    "nested": [[0], []],
    "nested otherwise": [[], [0]],
    "set": {0},
    "slice": slice(0, 1),
    "slice with a step": slice(0, 1, 2),
    "range": range(0, 1),
    "range with a step": range(0, 1, 2),
    "pattern": re.compile("0"),
    "pattern of bytes": re.compile(b"0"),
    "pattern with a flag": re.compile("0", re.I),
    "mapping": {"a": 0},
    "mapping with another key": {"b": 0},
    "mapping with another value": {"a": 1},
    "named tuple": Point(0),
    "dataclass": Setting(0.1),
    "dataclass with another value": Setting(0.2),
    "float32": torch.zeros(4),
    "int32": torch.zeros(4, dtype=torch.int32),
    "another shape": torch.zeros(2, 2),
    "another number": torch.tensor([0.0, 0, 0, 1e-30]),
    "bfloat16": torch.zeros(4, dtype=torch.bfloat16),
    "no numbers": torch.zeros(0, 4),
    "array": np.zeros(4, dtype=np.float32),
    "array of another type": np.zeros(4, dtype=np.int32),
    "array of another shape": np.zeros((2, 2), dtype=np.float32),
    "type": torch.float32,
    "generator": torch.Generator().manual_seed(0),
    "another generator": torch.Generator().manual_seed(1),
    "network": seeded(lambda: MLP(4, [3], 2), 0),
    "another network": seeded(lambda: MLP(4, [3], 2), 1),
    "a network in another mode": seeded(lambda: MLP(4, [3], 2), 0).eval(),
    "another activation": nn.Sequential(nn.Linear(1, 1), nn.LeakyReLU(0.1)),
    "class": MLP,
    "another class": ConvNet,
    "function": fit,
    "another function": fit_many,
    "partial": functools.partial(fit, lr=1.0),
    "another partial": functools.partial(fit, lr=2.0),
    "module": train,
    "another module": models,
    "builtin": len,
    "method of a class": torch.Tensor.add,
    "other people's module": torch,
    "other people's function": torch.relu,
    "arithmetic": np.add,
    "compiled by Cython": breadth_first_order,
    "another compiled by Cython": minimum_spanning_tree,
    "bound": [1].append,
    "bound to something else": [2].append,
}


def test_what_differs_differs():
    hashes = {name: fingerprint(value) for name, value in VALUES.items()}
    assert len(set(hashes.values())) == len(hashes)
    assert all(fingerprint(value) == hashes[name] for name, value in VALUES.items())


def test_equal_values_are_equal():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"x", "y", "z"}) == fingerprint({"z", "y", "x"})
    turned = torch.arange(6.0).view(2, 3).T
    assert fingerprint(turned) == fingerprint(turned.clone(memory_format=torch.contiguous_format))
    assert fingerprint(turned) != fingerprint(turned.reshape(2, 3))
    assert fingerprint(1, 2) != fingerprint([1, 2]) != fingerprint(12)


CODE = """
from layerlab.train import fit
import math
LR = 0.1
TABLE = {"a": [1, 2]}
class Base:
    def step(self): return 1
class Model(Base):
    size = 3
    @staticmethod
    def wide(): return 4
    @property
    def deep(self): return 5
    def run(self): return self.step()
def helper(x, power=2): return x ** power
def decorate(f):
    import functools
    @functools.wraps(f)
    def inner(*a): return f(*a) + 6
    return inner
@decorate
def decorated(): return 7
@__import__("functools").cache
def kept(): return 8
def closure():
    n = 9
    return lambda: n
enclosed = closure()
def recursive(n): return recursive(n - 1) if n else odd(n)
def odd(n): return recursive(n)
def make():
    \"\"\"Trains.\"\"\"
    def inner(): return [helper(LR) for _ in TABLE]
    return inner(), Model().run(), decorated(), kept(), enclosed(), recursive(10), math.pi, fit, "in"
"""


def made(text: str):
    namespace = {"__name__": "__main__"}
    exec(compile(text, "<cell>", "exec"), namespace)
    return namespace["make"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LR = 0.1", "LR = 0.2"),
        ("[1, 2]", "[1, 3]"),
        ("def step(self): return 1", "def step(self): return 2"),
        ("size = 3", "size = 4"),
        ("def wide(): return 4", "def wide(): return 5"),
        ("def deep(self): return 5", "def deep(self): return 6"),
        ("self.step()", "self.steps()"),
        ("x ** power", "x * power"),
        ("power=2", "power=3"),
        ("f(*a) + 6", "f(*a) + 7"),
        ("return 7", "return 8"),
        ("return 8", "return 9"),
        ("n = 9", "n = 10"),
        ("lambda: n", "lambda: -n"),
        ("odd(n): return recursive(n)", "odd(n): return recursive(-n)"),
        ("math.pi", "math.e"),
        ("import fit", "import fit_many as fit"),
        ("class Model(Base)", "class Model"),
        ('"in"', '"out"'),
        ("[helper(LR) for", "[helper(-LR) for"),
    ],
)
def test_a_change_anywhere_that_the_code_reaches_shows(old, new):
    assert CODE.count(old) == 1
    assert fingerprint(made(CODE)) != fingerprint(made(CODE.replace(old, new)))


def test_what_the_code_does_not_reach_does_not_show():
    before = fingerprint(made(CODE))
    assert before == fingerprint(made(CODE))
    assert before == fingerprint(
        made("\n\n# a remark\nOTHER = object()\n" + CODE + "\ndef unused(): return open\n")
    )


def test_the_loop_that_trains_is_reached_through_the_library(monkeypatch):
    before = fingerprint(fit)
    monkeypatch.setattr(train, "_OPTIMIZERS", train._OPTIMIZERS | {"sgd": torch.optim.RMSprop})
    assert fingerprint(fit) != before
    monkeypatch.undo()
    assert fingerprint(fit) == before
    monkeypatch.setattr(train._Plan, "batches", lambda self, count, seed: [])
    assert fingerprint(fit) != before


def test_a_module_stands_for_all_in_it(monkeypatch):
    before = fingerprint(train)
    monkeypatch.setattr(train, "STACK_BELOW", 1)
    assert fingerprint(train) != before


def test_a_class_stands_for_its_methods(monkeypatch):
    before = fingerprint(TinyViT)
    monkeypatch.setattr(TinyViT, "forward", lambda self, x: x)
    assert fingerprint(TinyViT) != before


def test_a_setting_of_a_network_shows(monkeypatch):
    network = VALUES["another activation"]
    before = fingerprint(network)
    monkeypatch.setattr(network[1], "inplace", True)
    assert fingerprint(network) != before


def test_a_version_stands_for_other_people_s_code(monkeypatch):
    before = fingerprint(torch.nn.functional.relu)
    module._version.cache_clear()
    monkeypatch.setattr(module.metadata, "version", lambda name: "99")
    assert fingerprint(torch.nn.functional.relu) != before
    module._version.cache_clear()


def test_a_function_of_other_people_may_hold_one_of_ours():
    def hooked(step):
        return atexit_like(lambda: step)

    assert fingerprint(hooked(1)) != fingerprint(hooked(2))


def atexit_like(function):
    """A function whose globals are the standard library's and whose enclosing variable is `function`."""
    template = contextlib.contextmanager(function)  # its code and globals are those of contextlib
    del template.__wrapped__
    return template


def test_an_import_inside_a_function_is_followed(monkeypatch):
    def late():
        from layerlab import train as loop

        return loop

    before = fingerprint(late)
    monkeypatch.setattr(train, "STACK_BELOW", 1)
    assert fingerprint(late) != before


def test_a_library_of_operators_is_known_by_its_name():
    library = torch.library.Library("fingerprint_of_a_library", "FRAGMENT")
    again = torch.library.Library("fingerprint_of_a_library", "FRAGMENT")
    assert fingerprint([library]) == fingerprint([again]) != fingerprint([])


def test_what_has_no_lasting_hash_is_named():
    file = open(__file__)  # noqa: SIM115

    def reads():
        return file.read()

    def outer():
        return reads()

    with file, pytest.raises(TypeError, match=r"values\[0\] → an enclosing variable → .*got TextIOWrapper"):
        fingerprint(outer)
    with pytest.raises(TypeError, match=r"values\[1\]\['a'\]\[0\]: expected .* got object"):
        fingerprint(0, {"a": [object()]})
    with pytest.raises(TypeError, match=r"got a itemgetter"):  # what it holds does not show
        fingerprint(operator.itemgetter(1))
    with pytest.raises(TypeError, match=r"got ndarray"):
        fingerprint(np.array([object()]))


def test_another_process_finds_the_same():
    code = (
        "from layerlab import train\nfrom layerlab.models import TinyViT\n"
        "from layerlab.fingerprint import fingerprint\n"
        "print(fingerprint(train, TinyViT, {'x', 'y', 'z', 1.5}))"
    )
    root = Path(module.__file__).parents[1]
    out = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    assert out[0] == out[1] == fingerprint(train, TinyViT, {"x", "y", "z", 1.5})
