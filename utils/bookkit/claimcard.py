"""Say a claim's outcome in words: numbers, rules, and the card that a page or a live notebook shows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bookkit.claimfile import Rule
    from bookkit.claimrule import Summary
    from bookkit.claims import Result

VERDICTS = {"reproduced": "Reproduced", "not-reproduced": "Not reproduced", "failed": "Failed"}
# The admonition's own class gives each verdict an icon, so that colour is never the only sign.
_LOOKS = {"reproduced": "tip", "not-reproduced": "warning", "failed": "danger"}
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _typeset(text: str) -> str:
    mantissa, _, exponent = text.partition("e")
    power = f" × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}" if exponent else ""
    return mantissa.replace("-", "−") + power


def number(x: float, digits: int = 3) -> str:
    """Format a number for reading: some significant digits, whole numbers whole, far powers of ten as such.

    >>> [number(x) for x in (0.04719, 3.14159e-16, -1234.5, 41328, 0)]
    ['0.0472', '3.14 × 10⁻¹⁶', '−1234', '41328', '0']
    """
    if x == 0:
        return "0"
    if abs(x) < 1e6 and float(x).is_integer():
        text = f"{x:.0f}"
    elif 1e-4 <= abs(x) < 1e6:
        rounded = float(f"{x:.{digits}g}")
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
        text = f"{x:.{decimals}f}"
    else:
        text = f"{x:.{digits - 1}e}"
    return _typeset(text)


def bound(x: float) -> str:
    """Format a bound as it is declared.

    >>> bound(0.2), bound(1e-10)
    ('0.2', '1 × 10⁻¹⁰')
    """
    return _typeset(f"{x:.12g}")


def beside(x: float, limit: float) -> str:
    """Format `x` with as many digits as it takes not to look equal to a bound that it differs from.

    >>> beside(0.1943, 0.2), beside(0.20004, 0.2), beside(0.2, 0.2)
    ('0.19', '0.20004', '0.2')
    """
    if x == limit:
        return bound(x)
    digits = next((d for d in range(2, 17) if float(f"{x:.{d}g}") != limit), 17)
    return number(x, digits)


def _spread(summary: Summary) -> str:
    """The mean with its interval, to two digits of the interval's half-width where plain decimals do."""
    if summary.low is None or summary.high is None:
        return f"{number(summary.mean)} (n = 1)"
    shown = (summary.mean, summary.low, summary.high)
    half = (summary.high - summary.low) / 2
    if half > 1e-4 and max(map(abs, shown)) < 1e6:
        decimals = max(0, 1 - math.floor(math.log10(half)))
        mean, low, high = (f"{x:.{decimals}f}".replace("-", "−") for x in shown)
    else:
        mean, low, high = map(number, shown)
    return f"{mean} [{low}, {high}] (mean and 95 % interval, n = {summary.n})"


def measured(summary: Summary, rule: Rule | None) -> str:
    """What was measured, in the terms of the rule: each value for an exact statement, else the mean."""
    if rule is None or rule.on == "limit":
        return _spread(summary)
    if summary.n == 1:
        return f"{number(summary.mean)} (n = 1)"
    if summary.min == summary.max:
        return f"{summary.n} values, all {number(summary.min)}"
    return f"{summary.n} values from {number(summary.min)} to {number(summary.max)}"


def decisive(rule: Rule, summary: Summary) -> str:
    """The quantities that decide, each with its bound and whether it keeps it."""
    if rule.on == "limit":
        names = ("lower 95 % limit of the mean", "upper 95 % limit of the mean")
        found = (summary.limit_lower, summary.limit_upper)
    else:
        names = ("smallest value", "largest value")
        found = (summary.min, summary.max)
    texts = []
    if rule.lower is not None:
        verb = "is" if found[0] >= rule.lower else "is not"
        texts.append(f"{names[0]}, {beside(found[0], rule.lower)}, {verb} at least {bound(rule.lower)}")
    if rule.upper is not None:
        verb = "is" if found[1] <= rule.upper else "is not"
        texts.append(f"{names[1]}, {beside(found[1], rule.upper)}, {verb} at most {bound(rule.upper)}")
    return " and the ".join(texts)


def lines(result: Result, cite: str) -> list[str]:
    """The body of the card, one fact a line, in Markdown. `cite` stands for the papers."""
    claim, summary = result.claim, result.summary
    body = [
        f"**Reported** by {cite} ({claim.where}): {claim.reported['value']} ({claim.reported['setting']})",
        f"**Measured** here: {claim.measure}: {measured(summary, claim.accept)}",
        f"**Rule**: the {decisive(claim.accept, summary)}",
    ]
    if claim.control and result.control:
        rule = claim.control.accept
        held = f"; the {decisive(rule, result.control)}" if rule else ""
        body.append(f"**Control**: {claim.control.measure}: {measured(result.control, rule)}{held}")
    if claim.differs:
        body.append(f"**Differs** from the paper: {claim.differs}")
    if claim.reason:
        body.append(f"**Why not**: {claim.reason}")
    if claim.few:
        body.append(f"**Few values**: {claim.few}")
    return body


def myst(result: Result, download: str | None) -> str:
    """The card for a built page, in MyST. `download` is the result file's path from the source root."""
    claim = result.claim
    body = lines(result, f"{{cite:t}}`{','.join(claim.paper)}`")
    link = [f"\n{{download}}`The numbers as JSON <{download}>`"] if download else []
    head = [
        f"````{{admonition}} {VERDICTS[result.verdict]} · {claim.statement}",
        f":class: claim claim-{result.verdict} {_LOOKS[result.verdict]}",
        f":name: claim-{claim.id}",
        "",
    ]
    return "\n".join([*head, *(f"- {line}" for line in body), *link, "````"])


def markdown(result: Result) -> str:
    """The card for a live notebook, in plain Markdown."""
    claim = result.claim
    body = lines(result, " and ".join(f"`{key}`" for key in claim.paper))
    return "\n".join(
        [f"**{VERDICTS[result.verdict]} · {claim.statement}**", "", *(f"- {line}" for line in body)]
    )


def complaint(result: Result, control_held: bool, file: str, notebooks: str) -> str:
    """The message of a failed claim: what failed, what was measured and expected, and what to do next."""
    claim, control = result.claim, result.control
    facts = [
        f"claim {claim.id!r} failed (declared in {file}, recorded by {notebooks})",
        f"  claim:    {claim.statement}",
        f"  measured: {claim.measure}: {measured(result.summary, claim.accept)}",
        f"  rule:     the {decisive(claim.accept, result.summary)}",
    ]
    if claim.control and claim.control.accept and control:
        rule = claim.control.accept
        facts += [
            f"  control:  {claim.control.measure}: {measured(control, rule)}",
            f"            the {decisive(rule, control)}",
        ]
    facts.append(f"  values:   {list(result.summary.values)} (BOOK_SEED = {result.seed})")
    held = result.summary.keeps(claim.accept)
    if not control_held:
        facts.append(
            f"  next:     The control ({claim.control.measure}) does not behave as a control must, so the "
            "measurement does not show what it is meant to show. Find out why before touching a bound."
        )
    if held and claim.expect == "not-reproduced":
        facts.append(
            "  next:     The file expects that this does not reproduce, and now it does. Take `expect` and "
            f"`reason` out of {file} and rewrite the sentence on the page that says it fails."
        )
    elif not held and claim.expect == "reproduced":
        facts.append(
            "  next:     Look for the cause: the code, the data, the budget of training. If the claim does "
            f"not hold at this scale, say so: set `expect: not-reproduced` with a `reason` in {file}, and "
            "show it on the page. A bound states what the claim means; it is not fitted to the result."
        )
    return "\n".join(facts)
