"""One page out of many things, in order, found in slices, so that shares are answered meanwhile."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from karoo.pace import paced

AT_ONCE = 100  # things between two pauses; their keys take a quarter of a millisecond
_RUN = 500  # things that are sorted in one go

Thing = TypeVar("Thing")


def page(things: Iterable[Thing], key: Callable[[Thing], Any], descending: bool, offset: int,
         limit: int) -> tuple[int, list[Thing]]:
    """How many there are, and those on places `offset` to `offset + limit` by their keys. Things with like keys stay in
    their order."""
    runs: list[list[tuple[Any, int, Thing]]] = [[]]
    sign = -1 if descending else 1
    for place, thing in enumerate(paced(things, AT_ONCE)):
        if len(runs[-1]) == _RUN:
            runs.append([])
        runs[-1].append((key(thing), sign * place, thing))
    for run in paced(runs, 1):
        run.sort(key=_order, reverse=descending)
    merged = heapq.merge(*runs, key=_order, reverse=descending)
    found: list[Thing] = []
    for place, (_, _, thing) in enumerate(paced(merged, AT_ONCE)):
        if place >= offset + limit:
            break
        if place >= offset:
            found.append(thing)
    return sum(map(len, runs)), found


def _order(entry: tuple[Any, int, Any]) -> tuple[Any, int]:
    return entry[:2]
