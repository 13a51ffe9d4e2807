"""The user names that one pool connection is authorized as; shares wait here for theirs.

Each name is authorized once per connection, on demand, before its first share. A pool may refuse
a second name, or never answer (ckpool): then its shares go under the connection's own user.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from karoo.policy.workers import PASSTHROUGH, WorkerNames
from karoo.proxy.pending import PendingShare
from karoo.stratum.messages import Response

log = logging.getLogger("karoo.upstream")

NAME_DEADLINE = 5.0  # seconds; shares of a new name wait so long at most
UNANSWERED = 2  # names that a pool leaves unanswered before it is taken to know one only
MAX_NAMES = 50_000

Authorize = Callable[[str, str, Callable[["Response | None"], None]], None]


@dataclass(slots=True)
class _Asked:
    """A name that the pool was asked to authorize, and the shares that wait for it (until `deadline`, monotonic)."""

    shares: list[PendingShare]
    deadline: float
    overdue: bool = False


class UpstreamNames:
    """Which names the pool knows on this connection."""

    def __init__(self, policy: WorkerNames, password: str, authorize: Authorize,
                 send: Callable[[PendingShare, bytes], None], one_name: bool) -> None:
        self.policy = policy
        self._password, self._authorize, self._send = password, authorize, send
        self._default = _encode(policy.default_user)
        self._of_user: dict[str, bytes] = {}  # miner's user name -> what stands on the wire
        self._known = {policy.default_user: self._default}  # name at the pool -> what stands on the wire
        self._asked: dict[str, _Asked] = {}  # by name at the pool: not answered yet
        self._unanswered = UNANSWERED if one_name else 0
        self._over = False
        self._said = False

    def __len__(self) -> int:
        """Names that the pool was asked about."""
        return len(self._known) + len(self._asked)

    def submit(self, pending: PendingShare) -> None:
        """Send a share under its worker's name, now or as soon as the pool knows it."""
        known = self._of_user.get(pending.worker.user)
        if known is None:
            self._find(pending)
        else:
            self._send(pending, known)

    def _find(self, pending: PendingShare) -> None:
        worker = pending.worker
        name = self.policy.upstream_user(worker.user)
        known, asked = self._known.get(name), self._asked.get(name)
        if known is not None:
            if len(self._of_user) < MAX_NAMES:
                self._of_user[worker.user] = known
            self._send(pending, known)
        elif asked is not None and not asked.overdue:
            asked.shares.append(pending)
        elif asked is not None or len(self._known) >= MAX_NAMES or (self.one_name and self._asked):
            self._send(pending, self._default)
        else:
            self._asked[name] = _Asked([], monotonic() + NAME_DEADLINE, overdue=self.one_name)
            password = worker.password if self.policy.mode == PASSTHROUGH else self._password
            self._authorize(name, password, lambda answer: self._answered(name, answer))
            if self.one_name:  # asked for the shares to come: perhaps it takes more by now
                self._send(pending, self._default)
            else:
                self._asked[name].shares.append(pending)

    @property
    def one_name(self) -> bool:
        """The pool seems to know the connection's own user only."""
        return self._unanswered >= UNANSWERED

    def _answered(self, name: str, answer: Response | None) -> None:
        """The pool's word on a name, late ones included: what it takes late is right for the shares to come."""
        asked = self._asked.pop(name)
        taken = answer is not None and answer.result is True
        if answer is not None:
            self._known[name] = _encode(name) if taken else self._default
            self._unanswered = 0
        if not taken and not self._over:
            self._say("refuses" if answer is not None else "ignores", name)
        for pending in asked.shares:
            self._send(pending, self._known.get(name, self._default))

    def sweep(self, now: float) -> None:
        """Once a second: shares that waited too long for their name go under the connection's own user."""
        for name, asked in list(self._asked.items()):
            if not asked.overdue and asked.deadline <= now:
                asked.overdue = True
                self._unanswered += 1
                self._say("does not answer", name)
                shares, asked.shares = asked.shares, []
                for pending in shares:
                    self._send(pending, self._default)

    def _say(self, does: str, name: str) -> None:
        if not self._said:
            self._said = True
            log.warning("the pool %s the worker name %s: such shares are credited to %s", does, name,
                        self.policy.default_user)

    @property
    def holds_shares(self) -> bool:
        """Some shares wait for their name."""
        return any(asked.shares for asked in self._asked.values())

    def waiting(self) -> list[PendingShare]:
        """The connection is over: take back the shares that still wait for their name; they were not sent."""
        self._over = True
        shares = [pending for asked in self._asked.values() for pending in asked.shares]
        for asked in self._asked.values():
            asked.shares = []
        return shares


def _encode(user: str) -> bytes:
    return json.dumps(user).encode()
