"""What happened that an operator wants to know of: pools lost and found, bans, blocks, commands. The latest, in memory.

The log tells the same and more; this is what pages show, by kind and in order.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from time import time
from typing import Any

from karoo.log import clean

INFO, WARNING, CRITICAL = "info", "warning", "critical"
KINDS = ("start", "stop", "pool up", "pool lost", "failover", "block", "ban", "unban", "cut", "full", "kick", "switch",
         "reload", "ledger", "bug")
KEPT = 1000
KEPT_OF_CROWDS = {"cut": 200, "ban": 200, "unban": 100}  # a crowd of bad miners must not push all else out
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
        self._crowds = Counter[str]()  # how many are kept, by kind
        self.last_id = 0

    def note(self, kind: str, text: str, severity: str = INFO, **details: Any) -> None:
        """Something happened just now."""
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is no kind of happening")
        self.last_id += 1
        shown = {name: _shown(value) if isinstance(value, str) else value for name, value in details.items()}
        self._happenings.append(Happening(self.last_id, time(), kind, severity, _shown(text), shown))
        self._crowds[kind] += 1
        if self._crowds[kind] > KEPT_OF_CROWDS.get(kind, KEPT):
            self._forget(next(one for one in self._happenings if one.kind == kind))
        if len(self._happenings) > KEPT:
            self._forget(self._happenings[0])

    def _forget(self, happening: Happening) -> None:
        self._happenings.remove(happening)
        self._crowds[happening.kind] -= 1

    def after(self, last_id: int = 0, kinds: Collection[str] = (), text: str = "") -> Iterator[Happening]:
        """Those after an id, of some kinds or (empty) of all, that hold a text; the latest first."""
        text = text.casefold()
        for happening in reversed(self._happenings):
            if happening.id <= last_id:
                return
            if (not kinds or happening.kind in kinds) and text in happening.text.casefold():
                yield happening


def _shown(text: str) -> str:
    """In one line, whatever a peer or an operator put into it."""
    return clean(text).replace("\n", " ")[:MAX_TEXT]
