"""Those who work for pages and programs that only look: however many there are, each turn of the loop has one slice of
their work, so that a share waits for one of them and not for all; and half of the loop's time is left to shares.

A slice should take half a millisecond. What the proxy itself must do for its miners is not in this line: see `pace`.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from karoo.line import Line
from karoo.pace import SLICE

Thing = TypeVar("Thing")

_line = Line()  # there is one loop, and so one line before it
turn = _line.turn


def objects() -> list[Any]:
    """All objects that the collector of garbage knows, with those that the proxy keeps out of its sight. To list those
    of 10,000 miners keeps the loop for some ten milliseconds, and that cannot be cut; to look at them can."""
    frozen = gc.get_freeze_count()
    if frozen:
        gc.unfreeze()
    try:
        return gc.get_objects()
    finally:
        if frozen:
            gc.collect(0)  # what is garbage now would be so for ever
            gc.freeze()


def paced(things: Iterable[Thing], between: int = SLICE) -> Iterator[Thing]:
    """The things one by one; after so many of them, others have their turn."""
    for count, thing in enumerate(things, 1):
        yield thing
        if count % between == 0:
            turn()
