"""A condition that greenlets wait on: checked again at every change, never by polling."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from gevent.event import Event


class Changes:
    """Whoever changes something calls `notify`; whoever waits for something calls `wait`."""

    def __init__(self) -> None:
        self._event = Event()

    def notify(self) -> None:
        """Wake everybody who waits, to look again."""
        event, self._event = self._event, Event()
        event.set()

    def wait(self, predicate: Callable[[], object], timeout: float) -> bool:
        """Wait until the predicate holds, for at most `timeout` seconds; whether it does."""
        deadline = monotonic() + timeout
        while not predicate():
            event = self._event
            remaining = deadline - monotonic()
            if remaining <= 0 or not event.wait(remaining):
                return bool(predicate())
        return True
