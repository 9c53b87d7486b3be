"""Time calls beside each other, for the benchmarks of this folder."""

import math
import time
from collections.abc import Callable, Sequence


def in_turns(calls: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Best milliseconds of each call; each round repeats a call until it has run for two milliseconds."""
    best, repeats = [math.inf] * len(calls), []
    for call in calls:
        call()
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < 2e-3:
            call()
            count += 1
        repeats.append(count)
    for _ in range(rounds):
        for i, call in enumerate(calls):
            start = time.perf_counter()
            for _ in range(repeats[i]):
                call()
            best[i] = min(best[i], 1e3 * (time.perf_counter() - start) / repeats[i])
    return best
