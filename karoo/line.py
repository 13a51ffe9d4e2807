"""Greenlets in a line, so that however many there are, each turn of the loop has one slice of their work, and half of
the loop's time is left to shares."""

from __future__ import annotations

from collections import deque
from time import thread_time

import gevent
from gevent.event import Event

from karoo.pace import pause

# Seconds of the loop's processor time, after which those in a line let it sleep for REST. A proxy that never sleeps is
# to the system like any busy program, and waits for its processor as they do: beside others at work, 99 % of the
# answers came within 28 ms while pages were read in a loop, and within 2.5 since (medians of 16 rounds with 10,000
# miners). Pages take twice as long.
WORK = REST = 0.001


class Line:
    """First come, first served, but for those who go ahead. A lock of gevent's would go to whoever has just had it."""

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque()
        self._ahead: deque[Event] = deque()
        self._taken = False  # somebody has its turn
        self._rested_at = 0.0  # by the processor time of the loop

    def turn(self, ahead: bool = False) -> None:
        """Wait until it is this greenlet's turn, and everybody else has had one, I/O included. `ahead` of those who
        do not go ahead: for who has begun something and would end it."""
        if self._taken:
            self._wait(self._ahead if ahead else self._waiting)
        self._taken = True
        try:
            if thread_time() - self._rested_at < WORK:
                pause()
            else:
                gevent.sleep(REST)
                self._rested_at = thread_time()
        finally:
            self._pass_on()

    def _wait(self, queue: deque[Event]) -> None:
        mine = Event()
        queue.append(mine)
        try:
            mine.wait()
        except BaseException:
            if mine.is_set():  # its turn came as it was ended
                self._pass_on()
            else:
                queue.remove(mine)
            raise

    def _pass_on(self) -> None:
        """The turn goes to the next one, who has it before it runs."""
        queue = self._ahead or self._waiting
        if queue:
            queue.popleft().set()
        else:
            self._taken = False
