"""What happened that an operator wants to know of: pools lost and found, bans, blocks, commands. The latest, in memory.

The log tells the same and more; this is what pages show, by kind and in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import time
from typing import Any

INFO, WARNING, CRITICAL = "info", "warning", "critical"
KINDS = ("start", "stop", "pool up", "pool lost", "failover", "job", "block", "ban", "unban", "cut", "full", "kick",
         "switch", "reload", "ledger", "bug")
KEPT = 1000
KEPT_CUTS = 200  # of them that tell of a cut: a crowd of bad miners must not push the others out
MAX_TEXT = 500  # characters; reasons may hold a peer's own words


@dataclass(slots=True, frozen=True)
class Happening:
    """``at`` is Unix seconds; ids count up from 1."""

    id: int
    at: float
    kind: str
    severity: str
    text: str
    details: dict[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {"id": self.id, "unix": round(self.at, 3), "kind": self.kind, "severity": self.severity,
                "text": self.text, "details": self.details}


class Timeline:
    """The happenings, the latest last."""

    def __init__(self) -> None:
        self._happenings: deque[Happening] = deque()
        self._cuts = 0
        self.last_id = 0

    def note(self, kind: str, text: str, severity: str = INFO, **details: Any) -> None:
        """Something happened just now."""
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is no kind of happening")
        self.last_id += 1
        self._happenings.append(Happening(self.last_id, time(), kind, severity, text[:MAX_TEXT], details))
        if kind == "cut":
            self._cuts += 1
            if self._cuts > KEPT_CUTS:
                self._forget(next(one for one in self._happenings if one.kind == "cut"))
        if len(self._happenings) > KEPT:
            self._forget(self._happenings[0])

    def _forget(self, happening: Happening) -> None:
        self._happenings.remove(happening)
        self._cuts -= happening.kind == "cut"

    def after(self, last_id: int = 0, kind: str = "") -> Iterator[Happening]:
        """Those after an id, of one kind or (empty) of all; the latest first."""
        for happening in reversed(self._happenings):
            if happening.id <= last_id:
                return
            if not kind or happening.kind == kind:
                yield happening
