# SPDX-License-Identifier: MIT
"""Times of several ways, measured turn by turn so that a change in the machine's speed meets all
of them alike. turns.c does the same for C."""

from __future__ import annotations

import gc
from statistics import median
from time import perf_counter

from layers import Way

ROUNDS_LEAST, ROUNDS_MOST = 5, 301
SHORTEST_SAMPLE = 50e-6  # seconds
# Untimed runs before a sample. One does not do: a third-level cache that another implementation
# filled takes some ten runs over a few megabytes until its contents are this one's.
WARM_UP = 10e-3
LONG_RUN = 0.1  # what a run this long finds in the caches does not show in its time
OVERTIME = 20  # times the seconds wanted: then fewer rounds must do


def _settle(way: Way) -> None:
    """Idle worker threads spin before they sleep, and one implementation's must not take a
    processor from the next one's."""
    end = perf_counter() + way.idle
    while perf_counter() < end:
        pass


def _sample(way: Way, repeats: int) -> float:
    """Seconds of one run."""
    run, turns = way.run, range(repeats)
    began = perf_counter()
    for _ in turns:
        run()
    return (perf_counter() - began) / repeats


def _warm_up(way: Way) -> None:
    """Wakes the threads, and leaves the caches as this way does, not as the one before did."""
    end = perf_counter() + WARM_UP
    way.run()
    while perf_counter() < end:
        way.run()


def _take(way: Way, repeats: int, expected: float) -> float:
    if expected < LONG_RUN:
        _warm_up(way)
    seconds = _sample(way, repeats)
    _settle(way)
    return seconds


def _repeats(way: Way) -> tuple[int, float]:
    repeats = 1
    _warm_up(way)
    seconds = _sample(way, 1)
    while seconds * repeats < SHORTEST_SAMPLE:
        repeats *= 2
        seconds = _sample(way, repeats)
    _settle(way)
    return repeats, seconds


def _enough(rounds: int, elapsed: float, seconds: float) -> bool:
    if rounds >= ROUNDS_MOST or elapsed > OVERTIME * seconds:
        return True
    return rounds >= ROUNDS_LEAST and elapsed >= seconds


def take(ways: list[Way], seconds: float) -> list[list[float]]:
    """For every way its samples: seconds of one run. Samples [i] belong to one round."""
    samples: list[list[float]] = [[] for _ in ways]
    gc.disable()
    _settle(max(ways, key=lambda way: way.idle))
    repeats = [_repeats(way) for way in ways]
    for way, (count, expected) in zip(ways, repeats, strict=True):
        _take(way, count, expected)  # a rehearsal: results that are allocated anew find their place
    began = perf_counter()
    while not _enough(len(samples[0]), perf_counter() - began, seconds):
        for way, (count, expected), taken in zip(ways, repeats, samples, strict=True):
            taken.append(_take(way, count, expected))
    gc.enable()
    return samples


def lead(ours: list[float], theirs: list[float]) -> float:
    """The median over the rounds of theirs / ours."""
    return median(b / a for a, b in zip(ours, theirs, strict=True))
