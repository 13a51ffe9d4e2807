"""Who may wait, and how long walks are cut in slices, so that shares are answered meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import gevent
from gevent import get_hub, getcurrent

SLICE = 125  # things between two short pauses: a job to so many miners takes 0.6 ms
# Seconds. gevent.sleep(0) would let other greenlets run, but no I/O; a timer of more than nothing makes the loop look
# at its sockets. It takes 3 us: the loop does not wait for what is over already (for 0.0001 it would wait 1.1 ms).
PAUSE = 1e-9
TURNS = 2  # of the loop in a pause: in the first a share comes in, in the second the pool's answer to it

Thing = TypeVar("Thing")


def paced(things: Iterable[Thing], between: int = SLICE) -> Iterator[Thing]:
    """The things one by one, with short pauses in which shares are answered, one after so many things."""
    for count, thing in enumerate(things, 1):
        yield thing
        if count % between == 0:
            pause()


def pause() -> None:
    """Let everybody else have a turn, I/O included."""
    for _ in range(TURNS):
        gevent.sleep(PAUSE)


class MustWait(Exception):
    """What was asked for takes a wait, which the loop cannot: it is to be asked for again in a greenlet."""


def in_loop() -> bool:
    """Whether the loop itself is running this, which nobody else could do while it waits."""
    return getcurrent() is get_hub()
