"""The user names that one pool connection is authorized as; shares wait here for theirs.

Each name is authorized once per connection, on demand, before its first share. A pool may refuse
a second name, or never answer (ckpool): then its shares go under the connection's own user.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from karoo.policy.workers import PASSTHROUGH, WorkerNames
from karoo.proxy.pending import PendingShare
from karoo.stratum.messages import Response

log = logging.getLogger("karoo.upstream")

NAME_DEADLINE = 5.0  # seconds; shares of a new name wait so long at most
MAX_NAMES = 50_000

Authorize = Callable[[str, str, Callable[["Response | None"], None], float], None]


class UpstreamNames:
    """Which names the pool knows on this connection."""

    def __init__(self, policy: WorkerNames, authorize: Authorize, send: Callable[[PendingShare, bytes], None]) -> None:
        self.policy = policy
        self._authorize, self._send = authorize, send
        self._default = _encode(policy.default_user)
        self._of_user: dict[str, bytes] = {}  # miner's user name -> what stands on the wire
        self._authorized = {policy.default_user: self._default}  # name at the pool -> what stands on the wire
        self._waiting: dict[str, list[PendingShare]] = {}  # by name at the pool
        self._takes_one_name = False
        self._said = False

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
        if name in self._waiting:
            self._waiting[name].append(pending)
            return
        known = self._authorized.get(name)
        if known is None and (self._takes_one_name or len(self._of_user) >= MAX_NAMES):
            known = self._default
        if known is not None:
            if len(self._of_user) < MAX_NAMES:
                self._of_user[worker.user] = known
            self._send(pending, known)
            return
        self._waiting[name] = [pending]
        password = worker.password if self.policy.mode == PASSTHROUGH else "x"
        self._authorize(name, password, lambda answer: self._answered(name, answer), NAME_DEADLINE)

    def _answered(self, name: str, answer: Response | None) -> None:
        shares = self._waiting.pop(name, [])
        if answer is not None and answer.result is True:
            self._authorized[name] = _encode(name)
        else:
            self._authorized[name] = self._default
            self._takes_one_name = self._takes_one_name or answer is None
            if not self._said:
                self._said = True
                log.warning("the pool %s the worker name %s: such shares are credited to %s",
                            "ignores" if answer is None else "refuses", name, self.policy.default_user)
        for pending in shares:
            self.submit(pending)

    def waiting(self) -> list[PendingShare]:
        """Take back the shares that still wait for their name."""
        shares = [pending for waiting in self._waiting.values() for pending in waiting]
        self._waiting.clear()
        return shares


def _encode(user: str) -> bytes:
    return json.dumps(user).encode()
