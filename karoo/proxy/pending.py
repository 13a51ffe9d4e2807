"""What session, routing and upstream hand each other; they do not import one another."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from karoo.accounting.account import Account
from karoo.stratum.errors import StratumError
from karoo.stratum.messages import Id
from karoo.stratum.share import Share


@dataclass(slots=True)
class Worker:
    """A user that a session is authorized as."""

    user: str
    password: str = field(repr=False)
    account: Account


@dataclass(slots=True, frozen=True)
class Verdict:
    """What the pool says of a share. ``words`` is its error as it came; ``code`` and ``text`` are read from it.

    Where it says nothing (`of_pool` is False), code and text are the proxy's own.
    """

    accepted: bool
    code: int = 0
    text: str = ""
    words: object = None
    of_pool: bool = False


ACCEPTED = Verdict(True, of_pool=True)


class Asker(Protocol):
    """Whoever gets the verdict: a session."""

    def settle(self, pending: PendingShare, verdict: Verdict) -> None: ...


@dataclass(slots=True)
class PendingShare:
    """A good share that goes to the pool, and who gets its verdict.

    ``work`` is the difficulty that it is booked with here; it ``came`` and was ``sent_at`` in monotonic seconds,
    ``waited`` are those that the pool took.
    """

    asker: Asker
    request_id: Id
    share: Share
    prefix: bytes
    worker: Worker
    work: float
    came: float
    sent_at: float = 0.0
    waited: float = 0.0
    other_form: Verdict | None = None  # why the pool refused its version bits the usual way


class NoSeat(StratumError):
    """A miner cannot be served; it is told why and disconnected. ``kind`` is the reason for counters."""

    def __init__(self, kind: str, details: str = "") -> None:
        super().__init__(f"{kind} {details}".rstrip())
        self.kind = kind
