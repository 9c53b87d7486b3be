"""Checks of arguments that several data sets share."""

import operator


def at_least(least: int, **values: int) -> None:
    """Refuses arguments, given by name, that are not whole (TypeError) or below `least` (ValueError)."""
    for name, value in values.items():
        try:
            operator.index(value)
        except TypeError:
            raise TypeError(f"{name}: expected a whole number, got {value!r}") from None
        if value < least:
            raise ValueError(f"{name}: expected a whole number of at least {least}, got {value}")
