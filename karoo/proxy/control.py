"""What an operator may do to a running proxy: kick, ban, unban, switch the pool. Each is logged and in the timeline."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from karoo import units
from karoo.pace import paced
from karoo.policy import addresses
from karoo.timeline import WARNING

if TYPE_CHECKING:
    from karoo.proxy.proxy import Proxy

log = logging.getLogger("karoo.control")

KICKED = "kicked by the operator"


class Control:
    """The commands. Each returns a sentence that says what was done. Raises LookupError where what it names is not
    there, ValueError where it makes no sense, RuntimeError where it cannot be done as things are."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def kick(self, session: int | None = None, worker: str | None = None, address: str | None = None,
             by: str = "") -> str:
        """Disconnect a session by its number, or all of a worker or from an address. They may come back."""
        if sum(one is not None for one in (session, worker, address)) != 1:
            raise ValueError("name a session by its id, a worker or an address, and only one of them")
        there, wanted = self._proxy.sessions, addresses.parse(address or "")
        if session is not None:
            who, found = f"Session {session}", [there[session]] if session in there else []
        elif worker is not None:
            who, found = f"Worker {worker}", [one for one in paced(list(there.values())) if any(
                user.account.name == worker for user in one.workers.values())]
        else:
            who, found = str(address), [one for one in paced(list(there.values())) if one.conn.peer == address or (
                wanted is not None and addresses.parse(one.conn.host) == wanted)]
        found = [one for one in found if not one.gone]
        if not found:
            raise LookupError(f"{who} is not connected")
        for one in paced(found):
            one.dismiss(KICKED)
        told = "" if session is not None else f": {units.counted(len(found), 'session')}"
        return self._done("kick", f"{who} was disconnected{told}", by)

    def ban(self, address: str, seconds: float | None = None, reason: str = "", by: str = "") -> str:
        """Ban an address (IPv6: its /64) for so many seconds (None: `ratelimit.ban_duration_seconds`), and end the
        sessions that it has."""
        if seconds is None:
            seconds = float(self._proxy.settings.ratelimit.ban_duration_seconds)
        door = self._proxy.door
        banned = door.ban(address, seconds, reason or "by the operator", by)
        if banned is None:
            if addresses.parse(address) is None:
                raise ValueError(f"{address} is no IP address")
            raise RuntimeError(f"{address} is in ratelimit.allow, which exempts it from bans")
        ended = 0
        for session in paced(list(self._proxy.sessions.values())):
            if not session.gone and door.is_banned(session.conn.host):
                session.end("banned by the operator")
                ended += 1
        text = f"{banned} is banned for {seconds:g} seconds; {units.counted(ended, 'session')} ended"
        log.warning("%s: %s", by or "the operator", text)
        return text

    def unban(self, address: str, by: str = "") -> str:
        """Lift a ban."""
        if not self._proxy.door.unban(address, by):
            raise LookupError(f"{address} is not banned")
        return f"{address} is no longer banned"

    def switch_pool(self, pool: int | str, by: str = "") -> str:
        """Take the miners to a pool, by its number (0 is the first) or name; they stay there as long as it serves."""
        pools = self._proxy.settings.pools
        found = [n for n, one in enumerate(pools) if pool in (n, one.name)]
        if len(found) != 1:
            there = ", ".join(f"{number} {one.name} as {one.user}" for number, one in enumerate(pools))
            if found:
                raise ValueError(f"several pools are called {pool}: name one by its number: {there}")
            raise LookupError(f"there is no pool {pool}; there are: {there}")
        index = found[0]
        moving = self._proxy.routes.switch(index)
        return self._done("switch", f"Pool {index} ({pools[index].name}) is preferred" + (
            f"; {units.counted(moving, 'connection')} will move there once it has sent a job" if moving else ""), by)

    def _done(self, kind: str, text: str, by: str) -> str:
        log.warning("%s: %s", by or "the operator", text)
        self._proxy.metrics.timeline.note(kind, text, WARNING, by=by)
        return text
