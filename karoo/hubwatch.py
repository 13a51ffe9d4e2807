"""Notices when the event loop stands still, and shows what kept it: a thread looks at a clock that the loop turns.

gevent has such a thread too (GEVENT_MONITOR_THREAD_ENABLE), but it traces each switch of greenlets, which each share
would pay for, and writes past the log.
"""

from __future__ import annotations

import logging
import math
import sys
import time
import traceback
from collections.abc import Callable
from types import FrameType

import gevent
from gevent import monkey

from karoo import log as logs

log = logging.getLogger("karoo.hubwatch")

LONGEST_PERIOD, SHORTEST_PERIOD = 1.0, 0.125  # seconds between two ticks of the loop
REPORT_EVERY = 10.0  # seconds between two reports; what comes meanwhile is counted
SHORTEST_PAUSE = 0.01  # seconds between two looks at it
HANGS_AFTER = 10.0  # seconds until the loop is not waited for any more: what it hangs in is told past it
MOST_FRAMES = 50
JOIN_SECONDS = 1.0

# Of the system's, not gevent's: the thread must run, and wait, while the loop does not.
_start_thread, _allocate_lock, _get_ident = monkey.get_original(
    "_thread", ["start_new_thread", "allocate_lock", "get_ident"])


class HubWatch:
    """Watches the loop of the thread that starts it.

    `blocks` counts how often nobody was answered for longer than the limit, `longest` and `total` are the seconds that
    this took. Of each the log has one warning, once the loop turns again, with the stack that was seen while it did
    not; if it hangs for HANGS_AFTER seconds, the stack comes out at once, past the loop. A block that is longer than
    the limit by less than one period may go unseen.
    """

    def __init__(self, report_every: float = REPORT_EVERY, hangs_after: float = HANGS_AFTER) -> None:
        self.blocks = 0
        self.longest = self.total = 0.0
        self.limit = 0.0  # seconds; 0: nobody watches
        self._report_every, self._hangs_after = report_every, hangs_after
        self._reported_at = -math.inf
        self._unreported = 0
        self._watch: _Watch | None = None

    @property
    def running(self) -> bool:
        return self._watch is not None

    def start(self, limit_ms: int) -> None:
        """Watch, as the program starts; or watch for another limit from now on (0: for none). From the loop's own
        thread."""
        limit = limit_ms / 1000
        if limit == self.limit:
            return
        self.stop()
        self.limit = limit
        if limit > 0:
            self._watch = _Watch(limit, self._hangs_after, self._wants_stack, self._blocked)

    def stop(self) -> None:
        """Watch no more; the counts stay."""
        if self._watch is not None:
            self._watch.stop()
        self._watch = None
        self.limit = 0.0

    def _wants_stack(self) -> bool:
        """Whether a report is due; the thread asks."""
        return time.monotonic() - self._reported_at >= self._report_every

    def _blocked(self, late: float, busy: float, stack: str) -> None:
        """The loop turns again; it runs this."""
        self.blocks += 1
        self.total += late
        self.longest = max(self.longest, late)
        if not self._wants_stack() and late < self._hangs_after:
            self._unreported += 1
            return
        self._reported_at = time.monotonic()
        more, self._unreported = self._unreported, 0
        # By a greenlet: the log has locks, and the loop itself cannot wait for one.
        gevent.spawn(_report, late, busy, stack, more)


class _Watch:
    """One limit's watch: the loop's timer, and the thread that looks whether it still goes. All times in seconds."""

    def __init__(self, limit: float, hangs_after: float, wants_stack: Callable[[], bool],
                 blocked: Callable[[float, float, str], None]) -> None:
        self._limit, self._hangs_after = limit, max(limit, hangs_after)
        self._period = min(max(limit / 4, SHORTEST_PERIOD), LONGEST_PERIOD)
        self._wants_stack, self._blocked = wants_stack, blocked
        self._loop_thread = _get_ident()
        self._at, self._busy = time.monotonic(), time.thread_time()  # of the last tick
        self._seen: tuple[float, str] = (0.0, "")  # the tick after which the loop stood still, and what was seen then
        self._timer = gevent.get_hub().loop.timer(self._period, self._period, ref=False)
        self._timer.start(self._tick)
        self._ending, self._ended = _allocate_lock(), _allocate_lock()  # released: it is to end, it has ended
        self._ending.acquire()
        self._ended.acquire()
        try:
            _start_thread(self._run, ())
        except RuntimeError as failure:
            self._ended.release()
            log.warning("nobody sees what keeps the program busy when it does not answer: %s", failure)

    def stop(self) -> None:
        self._timer.stop()
        self._timer.close()
        self._ending.release()
        self._ended.acquire(timeout=JOIN_SECONDS)  # it may hang in writing to the file: a disk may

    def _tick(self) -> None:
        """The loop turns: a few times a second it runs this."""
        now, busy = time.monotonic(), time.thread_time()
        late = now - self._at - self._period
        if late > self._limit:
            at, stack = self._seen
            self._blocked(late, busy - self._busy, stack if at == self._at else "")
        self._at, self._busy = now, busy

    def _run(self) -> None:
        try:
            self._look()
        except Exception as fault:  # a bug
            logs.urgent(logging.ERROR, log.name, f"the watchdog of the loop died of {fault!r}")
        finally:
            self._ended.release()

    def _look(self) -> None:
        told = 0.0  # the tick after which it was told that the loop hangs
        pause = self._limit
        while not self._ending.acquire(timeout=pause):
            at = self._at
            late = time.monotonic() - at - self._period
            if late > self._limit and self._seen[0] != at and (self._wants_stack() or late > self._hangs_after):
                stack = self._stack()
                if self._at == at:  # it still stands there
                    self._seen = (at, stack)
            if late > self._hangs_after and told != at and self._seen[0] == at:
                told = at
                logs.urgent(logging.ERROR, log.name, f"nobody has been answered for {late:.1f} s, as the program hangs "
                            "here:", self._seen[1])
            # Until the limit could be over; `late` is less than nothing as long as the loop turns.
            pause = max(self._limit - late, SHORTEST_PAUSE) if late <= self._limit else self._period

    def _stack(self) -> str:
        """Where the loop's thread is at this moment, as in a traceback."""
        frame = sys._current_frames().get(self._loop_thread)
        return "" if frame is None else "".join(traceback.StackSummary.extract(_frames(frame)).format()).rstrip()


def _frames(frame: FrameType | None) -> list[tuple[FrameType, int]]:
    """A frame and those that called it, outermost first, each with its line number of now."""
    found: list[tuple[FrameType, int]] = []
    while frame is not None and len(found) < MOST_FRAMES:
        found.append((frame, frame.f_lineno))
        frame = frame.f_back
    return found[::-1]


def _report(late: float, busy: float, stack: str, more: int) -> None:
    also = f"; {more} more times since the last such line" if more else ""
    where = "it was here:" if stack else ("what it did was not seen (it was stopped, or the machine had no time for "
                                          "it, or no other thread could run)")
    log.warning("nobody was answered for %.2f s, for %.2f s of which the program was computing%s; %s", late,
                min(busy, late), also, where, extra={"stack": stack})
