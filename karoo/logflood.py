"""Keeps a flood of like lines out of the log: shows some of them, and tells how many more there were. No I/O."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

BURST = 200  # lines of a kind that are shown at once
RATE = 10.0  # a second, of each kind, from then on
TELL_EVERY = 10.0  # seconds between two counts of what was not shown
MOST_KINDS = 1000


class _Kind:
    """Lines that one place in the code writes."""

    __slots__ = ("at", "left", "unshown")

    def __init__(self, now: float) -> None:
        self.at = now
        self.left = float(BURST)
        self.unshown = 0


class FloodLimit:
    """Lines are of a kind when they have logger, level and template in common: what a peer says does not count.

    DEBUG lines are never limited, as who asks for them wants them all, nor are those of the periodic report. `clock`
    gives monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kinds: dict[tuple[str, int, str], _Kind] = {}
        self._told_at = clock()
        self._any_unshown = False
        self._others = 0  # not shown, of kinds that were forgotten

    def shows(self, record: logging.LogRecord) -> bool:
        """Whether a line is to be shown; else it is counted."""
        if record.levelno < logging.INFO or hasattr(record, "report"):
            return True
        now, name = self._clock(), (record.name, record.levelno, str(record.msg))
        kind = self._kinds.get(name)
        if kind is None:
            if len(self._kinds) >= MOST_KINDS:
                self._forget()
            kind = self._kinds[name] = _Kind(now)
        kind.left = min(float(BURST), kind.left + (now - kind.at) * RATE)
        kind.at = now
        if kind.left < 1.0:
            kind.unshown += 1
            self._any_unshown = True
            return False
        kind.left -= 1.0
        return True

    def _forget(self) -> None:
        """Make room for more kinds; of those that were not shown, the number stays."""
        self._others += sum(kind.unshown for kind in self._kinds.values())
        self._kinds.clear()

    def counts(self, at_once: bool = False) -> Iterator[logging.LogRecord]:
        """A line for each kind of which some were not shown, now and then; `at_once`, as nobody may ask again."""
        now = self._clock()
        if not self._any_unshown or (now - self._told_at < TELL_EVERY and not at_once):
            return
        self._told_at, self._any_unshown = now, False
        for (name, level, template), kind in list(self._kinds.items()):
            if kind.unshown:
                yield logging.LogRecord(name, level, "", 0, "%d more lines like this are not shown: %s",
                                        (kind.unshown, template), None)
                kind.unshown = 0
        if self._others:
            yield logging.LogRecord("karoo", logging.WARNING, "", 0, "%d more lines of many kinds are not shown",
                                    (self._others,), None)
            self._others = 0
