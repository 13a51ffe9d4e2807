"""Long walks in slices, so that shares are answered meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import gevent

SLICE = 250  # things between two short pauses: at 5,000 miners a share waits 6 ms at most
PAUSE = 0.0001  # seconds; gevent.sleep(0) would let other greenlets run, but no I/O

Thing = TypeVar("Thing")


def paced(things: Iterable[Thing], between: int = SLICE) -> Iterator[Thing]:
    """The things one by one, with short pauses in which shares are answered, one after so many things."""
    for count, thing in enumerate(things, 1):
        yield thing
        if count % between == 0:
            gevent.sleep(PAUSE)
