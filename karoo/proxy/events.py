"""What a pool connection tells, and to whom: a route, nobody, or one that only settles its last shares."""

from __future__ import annotations

from typing import Any, Protocol

from karoo.proxy.pending import PendingShare, Verdict
from karoo.stratum.methods import Extranonce, Notify


class Events(Protocol):
    """Who is told what comes from the pool: a route."""

    def on_job(self, notify: Notify, difficulty: float) -> None: ...
    def on_difficulty(self, difficulty: float) -> None: ...
    def on_extranonce(self, extranonce: Extranonce) -> None: ...
    def on_version_mask(self, mask: int) -> None: ...
    def on_other(self, method: str, params: Any) -> None: ...
    def refuse(self, pending: PendingShare, verdict: Verdict) -> None: ...


class Unheard:
    """Events that nobody listens to."""

    def on_job(self, notify: Notify, difficulty: float) -> None:
        """Not of interest."""

    def on_difficulty(self, difficulty: float) -> None:
        """Not of interest."""

    def on_extranonce(self, extranonce: Extranonce) -> None:
        """Not of interest."""

    def on_version_mask(self, mask: int) -> None:
        """Not of interest."""

    def on_other(self, method: str, params: Any) -> None:
        """Not of interest."""

    def refuse(self, pending: PendingShare, verdict: Verdict) -> None:
        """No share is sent."""


class Retired(Unheard):
    """Of a connection that another one replaced only the verdicts count."""

    def __init__(self, events: Events) -> None:
        self.refuse = events.refuse  # type: ignore[method-assign]
