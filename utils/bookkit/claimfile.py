"""Read a part's `claims.yaml`: what the part says of each paper, and the rule that decides whether it holds.

One entry of the file:

```yaml
- id: rebasin-removes-barrier            # kebab-case, unique in the book
  paper: ainsworth2023git                # key in references.bib, or a list of keys
  where: Section 5.1, Figure 2
  statement: Weight matching removes the loss barrier between independently trained MLPs.
  reported: {value: about 0, setting: MLP on MNIST}
  measure: barrier after matching / barrier before, one value per pair of seeds
  accept: {upper: 0.2}                   # lower, upper or both; on: limit (the default) or every
  control: {measure: the same under a random permutation, accept: {lower: 0.8}}    # optional
  differs: glyphs instead of MNIST       # optional
  expect: not-reproduced                 # optional, and then `reason` as well
  few: each run takes a minute           # optional: why fewer than five values are enough
```
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

EXPECTATIONS = ("reproduced", "not-reproduced")


class ClaimError(ValueError):
    """A claim is declared or recorded in a way that cannot be judged."""


@dataclass(frozen=True)
class Rule:
    """The bounds that decide, and what they are held against.

    `on="limit"`: `lower` bounds the one-sided 95 % lower confidence limit of the mean, `upper` the upper one.
    `on="every"`: the bounds hold for each value.
    """

    lower: float | None
    upper: float | None
    on: Literal["limit", "every"]


@dataclass(frozen=True)
class Control:
    """A measurement without the idea under test; where `accept` is None it is shown and not judged."""

    measure: str
    accept: Rule | None


@dataclass(frozen=True)
class Claim:
    """One entry of a `claims.yaml`. `key` is a hash of the entry: it changes when the entry does."""

    id: str
    part: str
    file: Path
    paper: tuple[str, ...]
    where: str
    statement: str
    reported: dict[str, str]
    measure: str
    accept: Rule
    control: Control | None
    differs: str | None
    expect: Literal["reproduced", "not-reproduced"]
    reason: str | None
    few: str | None
    key: str


class _Loader(yaml.SafeLoader):
    """YAML as people write it: `on` is a word and `1e-10` a number (YAML 1.2), and no key appears twice."""

    yaml_implicit_resolvers = {  # noqa: RUF012  PyYAML's own way to configure a loader
        first: [
            (tag, pattern) for tag, pattern in resolvers if tag.rsplit(":", 1)[-1] not in ("bool", "float")
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"the field {key.value!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|false)$"), list("tf"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


def near(word: str, words: Iterable[str]) -> str:
    """Return a hint at the words most like `word`, as in `; did you mean 'upper'?`, or an empty string."""
    found = difflib.get_close_matches(str(word), list(words), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""


def _mapping(
    value: object, what: str, required: Collection[str], optional: Collection[str]
) -> dict[str, Any]:
    """Check that `value` is a mapping with these fields; None stands for an absent optional field."""
    allowed = [*required, *optional]
    if not isinstance(value, dict):
        raise ClaimError(f"{what} is {value!r}; expected a mapping with the fields {', '.join(allowed)}")
    for field in value:
        if field not in allowed:
            raise ClaimError(
                f"{what} has an unknown field {field!r} (known: {', '.join(allowed)}){near(field, allowed)}"
            )
    for field in required:
        if value.get(field) is None:
            raise ClaimError(f"{what} lacks the field {field!r}, which is required")
    return {field: value.get(field) for field in allowed}


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ClaimError(f"{what} is {value!r}; expected a text")
    return " ".join(value.split())


def _optional_text(value: object, what: str) -> str | None:
    return None if value is None else _text(value, what)


def _number(value: object, what: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ClaimError(f"{what} is {value!r}; expected a finite number")
    return float(value)


def _rule(value: object, what: str) -> Rule:
    fields = _mapping(value, what, (), ("lower", "upper", "on"))
    lower, upper = (_number(fields[name], f"{what}.{name}") for name in ("lower", "upper"))
    on = fields["on"] or "limit"
    if lower is None and upper is None:
        raise ClaimError(f"{what} has no bound; give `lower`, `upper` or both")
    if lower is not None and upper is not None and lower > upper:
        raise ClaimError(f"{what} has lower = {lower:g} above upper = {upper:g}; no value can satisfy both")
    if on not in ("limit", "every"):
        raise ClaimError(
            f"{what}.on is {on!r}; expected 'limit' (confidence limit of the mean) or 'every' (each value)"
        )
    return Rule(lower, upper, on)


def _control(value: object, what: str) -> Control:
    fields = _mapping(value, what, ("measure",), ("accept",))
    accept = None if fields["accept"] is None else _rule(fields["accept"], f"{what}.accept")
    return Control(_text(fields["measure"], f"{what}.measure"), accept)


def _claim(entry: dict[str, Any], id: str, part: str, file: Path, place: str) -> Claim:
    required = ("id", "paper", "where", "statement", "reported", "measure", "accept")
    optional = ("control", "differs", "expect", "reason", "few")
    fields = _mapping(entry, f"{place}: the entry", required, optional)

    def at(name: str) -> str:
        return f"{place}: {name}"

    keys = fields["paper"] if isinstance(fields["paper"], list) else [fields["paper"]]
    if not keys:
        raise ClaimError(f"{at('paper')} is an empty list; expected the key of at least one paper")
    reported = _mapping(fields["reported"], at("reported"), ("value", "setting"), ())
    if isinstance(reported["value"], int | float) and not isinstance(reported["value"], bool):
        reported["value"] = f"{reported['value']:.12g}"
    expect = fields["expect"] or "reproduced"
    if expect not in EXPECTATIONS:
        raise ClaimError(f"{at('expect')} is {expect!r}; expected one of {', '.join(EXPECTATIONS)}")
    if expect == "not-reproduced" and fields["reason"] is None:
        raise ClaimError(
            f"{at('reason')} is missing; with `expect: not-reproduced` say why it does not show here"
        )
    if expect == "reproduced" and fields["reason"] is not None:
        raise ClaimError(f"{at('reason')} goes only with `expect: not-reproduced`")
    return Claim(
        id=id,
        part=part,
        file=file,
        paper=tuple(_text(key, at("paper")) for key in keys),
        where=_text(fields["where"], at("where")),
        statement=_text(fields["statement"], at("statement")),
        reported={name: _text(reported[name], at(f"reported.{name}")) for name in ("value", "setting")},
        measure=_text(fields["measure"], at("measure")),
        accept=_rule(fields["accept"], at("accept")),
        control=None if fields["control"] is None else _control(fields["control"], at("control")),
        differs=_optional_text(fields["differs"], at("differs")),
        expect=expect,
        reason=_optional_text(fields["reason"], at("reason")),
        few=_optional_text(fields["few"], at("few")),
        key=hashlib.sha256(json.dumps(entry, sort_keys=True, default=str).encode()).hexdigest(),
    )


def read(file: Path, part: str, name: str | None = None) -> dict[str, Claim]:
    """Read one file of claims.

    Args:
        file: the YAML file; an empty one holds no claims.
        part: the part of the book that it belongs to.
        name: what messages call the file; its path by default.

    Raises:
        ClaimError: the file is not readable YAML, or an entry has an unknown, missing or ill-typed field;
            the message names the file, the claim and the field.
    """
    name = name or str(file)
    try:
        entries = yaml.load(
            file.read_text(encoding="utf-8"), _Loader
        )  # a SafeLoader: builds plain values only
    except FileNotFoundError:
        raise ClaimError(f"{name} does not exist; expected the claims of the part {part!r} there") from None
    except yaml.YAMLError as error:
        raise ClaimError(f"{name} is not readable as YAML: {error}") from error
    if entries is None:
        return {}
    if not isinstance(entries, list):
        raise ClaimError(f"{name} holds a {type(entries).__name__}; expected a list of claims (`- id: …`)")
    claims: dict[str, Claim] = {}
    for position, entry in enumerate(entries, start=1):
        id = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(id, str) or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", id):
            raise ClaimError(
                f"{name}, entry {position}: the id is {id!r}; expected words in lower case joined by "
                "hyphens, such as 'rebasin-removes-barrier'"
            )
        if id in claims:
            raise ClaimError(f"{name}, claim {id!r}: this id stands twice in the file; ids are unique")
        claims[id] = _claim(entry, id, part, file, f"{name}, claim {id!r}")
    return claims
