"""What all sessions share, and how they write to the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

from karoo.accounting.account import Accounts
from karoo.metrics import Metrics
from karoo.policy.conduct import Rules
from karoo.policy.vardiff import DifficultyPolicy, Remembered
from karoo.policy.workers import WorkerNames
from karoo.proxy.pending import PendingShare
from karoo.stratum.job import JobTable
from karoo.stratum.messages import Response
from karoo.stratum.methods import Extranonce
from karoo.stratum.share import Judge


class Route(Protocol):
    """What a session knows of the upstream connection that it belongs to."""

    number: int
    jobs: JobTable
    extranonce: Extranonce | None
    epoch: int

    @property
    def mask(self) -> int: ...
    @property
    def ceiling(self) -> float: ...
    @property
    def names(self) -> WorkerNames | None: ...
    @property
    def passes_on(self) -> bool: ...
    def forward(self, pending: PendingShare) -> None: ...
    def leave(self, session: Any) -> None: ...
    def ask(self, method: str, params: Any, on_answer: Callable[[Response | None], None]) -> None: ...


@dataclass(slots=True, frozen=True)
class House:
    """The parts that every session uses.

    `seat` gives a session (with the id of its former one) a route, `mask` tells the pool's version mask; both wait
    for the pool, and raise NoSeat, or MustWait in the loop. `blame` is told of a session that is cut for misbehaviour,
    why, and whether that is mild; `left` of each that has ended. `spawn` runs something in a greenlet, with a name.
    `entrance` is what the listener is called that they came by.
    """

    seat: Callable[[Any, str | None], Route]
    mask: Callable[[Any], int]
    blame: Callable[[Any, str, bool], None]
    left: Callable[[Any], None]
    spawn: Callable[[Callable[[], None], str], None]
    entrance: str
    rules: Rules
    judge: Judge
    names: WorkerNames
    difficulty: DifficultyPolicy
    remembered: Remembered
    accounts: Accounts
    metrics: Metrics


class SessionLog(logging.LoggerAdapter):  # type: ignore[type-arg]
    """Gives a session's lines its number, address and worker, which the formatters show."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        session: Any = self.extra["session"]  # type: ignore[index]
        kwargs["extra"] = {"session": session.number, "peer": session.conn.peer, "worker": session.worker_name}
        return msg, kwargs
