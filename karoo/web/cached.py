"""What takes a walk over many miners is found once a second at most, however many ask."""

from __future__ import annotations

import math
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

from gevent.lock import RLock

Found = TypeVar("Found")


class Cached(Generic[Found]):
    """`find` is called when somebody asks and what it found is older than `seconds`; all who ask meanwhile wait for it.
    What it raises, the one that called it gets."""

    def __init__(self, find: Callable[[], Found], seconds: float) -> None:
        self._find, self._seconds = find, seconds
        self._lock = RLock()
        self._found: Found | None = None
        self._at = -math.inf

    def get(self) -> Found:
        """What was found, at most so many seconds ago."""
        with self._lock:
            if self._found is None or monotonic() - self._at > self._seconds:
                self._found = self._find()
                self._at = monotonic()
            return self._found
