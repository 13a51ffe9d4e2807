"""The door: who is let in, who is turned away and told so, whose misbehaviour is remembered.

What it decides by is `policy.ratelimit`; here are the words that miners, the log and the status page get of it.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from time import monotonic, time
from typing import Any, Protocol

from karoo import config
from karoo.metrics import Metrics
from karoo.net.connection import Connection, host_of
from karoo.policy import addresses
from karoo.policy.bans import Ban
from karoo.policy.ratelimit import BANNED, DENIED, Gate, Limits
from karoo.proxy.greenlets import Greenlets
from karoo.timeline import CRITICAL, WARNING

log = logging.getLogger("karoo.door")

FULL, STARVED = "max_clients", "no descriptor left"
TOLD_AT_ONCE = 50  # connections turned away that are given time to read why; of a rush, the others are just closed
GRACE = 120.0  # seconds after the start in which nobody is banned for coming with many others
QUIET = 60.0  # seconds without a refusal, after which it is news again that the proxy is full
SHOWN_CUTS = 50
SHOWN_BANS = 100


class TurnedAway(Exception):
    """A connection that gets no session: why, in words for the log. ``kind`` is for counters, ``told`` for the miner
    (empty: it is told nothing)."""

    def __init__(self, kind: str, why: str, told: str = "") -> None:
        super().__init__(why)
        self.kind, self.told = kind, told


class Culprit(Protocol):
    """What the door knows of a session that misbehaved."""

    conn: Connection
    number: int
    worker_name: str
    agent: str
    tried_to_authorize: bool


class Door:
    """``room`` is the number of sessions that there may be."""

    def __init__(self, limits: config.Ratelimit, room: int, metrics: Metrics, greenlets: Greenlets) -> None:
        self.room = room
        self._limits, self._metrics, self._greenlets = limits, metrics, greenlets
        self._gate = Gate(_gate_limits(limits), monotonic() + GRACE)
        self._cuts: deque[dict[str, Any]] = deque(maxlen=SHOWN_CUTS)
        self._telling = 0
        self._starved = self._starved_before = 0
        self._swept_at = monotonic()
        self._full_again_at = 0.0  # until then it is known to be full

    def change(self, limits: config.Ratelimit) -> None:
        """Other limits, from now on."""
        self._limits = limits
        self._gate.change(_gate_limits(limits))

    # ------------------------------------------------------------------ in and out

    def admit(self, peer: str, sessions: int) -> None:
        """Let a connection of this `address:port` become a session, beside so many; `leave` must follow then. Raises
        TurnedAway."""
        now, host = monotonic(), host_of(peer)
        refusal = self._gate.admit(host, now)
        if refusal is not None:
            if refusal.ban is not None:
                self._note_ban(refusal.ban, now)
            told = "" if refusal.kind in (DENIED, BANNED) else f"Too many connections: {refusal.text}"
            raise TurnedAway(refusal.kind, refusal.text, told)
        if sessions >= self.room:
            self._gate.leave(host, now, excused=True)
            self._note_full(sessions, now)
            raise TurnedAway(FULL, f"{sessions} miners are connected, and there is room for no more",
                             "The proxy is full")

    def _note_full(self, sessions: int, now: float) -> None:
        if now >= self._full_again_at:
            self._metrics.timeline.note("full", f"{sessions} miners are connected, and there is room for no more",
                                        CRITICAL)
        self._full_again_at = now + QUIET

    def tell(self, conn: Connection, why: bytes) -> None:
        """Tell a miner why it is turned away, and close; of a rush, only the first are told."""
        if self._telling >= TOLD_AT_ONCE:
            conn.close()
            return
        self._telling += 1
        self._greenlets.run(lambda: self._tell(conn, why), "a farewell")

    def _tell(self, conn: Connection, why: bytes) -> None:
        try:
            conn.push(why)
            conn.linger()
        finally:
            self._telling -= 1
            conn.close()

    def starve(self) -> None:
        """A connection was closed because no descriptor was left for it."""
        self._metrics.turned_away.count(STARVED)
        self._starved += 1

    def leave(self, peer: str, dismissed: bool) -> None:
        """A connection that was admitted is gone; `dismissed`: the proxy ended it through no fault of the miner's."""
        self._gate.leave(host_of(peer), monotonic(), excused=dismissed)

    # ------------------------------------------------------------------ misbehaviour

    def blame(self, session: Culprit, why: str, mild: bool) -> None:
        """A session is cut for what it did; its address is banned when several of its sessions were. A miner that was
        refused its authorization has something set wrong, and is no attacker."""
        now, conn = monotonic(), session.conn
        ban = None
        if not (mild and session.tried_to_authorize):
            ban = self._gate.cut(conn.host, why, now, conn.opened_at, mild)
        if ban is not None:
            self._note_ban(ban, now)
        who = f"{session.worker_name} ({conn.peer})" if session.worker_name else conn.peer
        self._metrics.timeline.note("cut", f"{who} was cut: {why}", session=session.number, address=conn.peer,
                                    worker=session.worker_name, agent=session.agent)
        self._cuts.append({
            "unix": int(time()), "id": session.number, "ip": conn.peer, "worker": session.worker_name,
            "agent": session.agent, "why": why,
            "banned_until_unix": None if ban is None else int(time() + ban.until - now)})

    def _note_ban(self, ban: Ban, now: float, by: str = "") -> None:
        self._metrics.bans += 1
        log.warning("%s", ban.text(now))
        self._metrics.timeline.note("ban", ban.text(now), WARNING, address=ban.address, times=ban.times,
                                    by=by)

    def ban(self, address: str, seconds: float, why: str, by: str) -> str | None:
        """An operator bans an address for so many seconds; what is banned (IPv6: the /64), or None where it is none or
        exempt."""
        now = monotonic()
        ban = self._gate.ban(address, seconds, why, now)
        if ban is None:
            return None
        self._note_ban(ban, now, by)
        return ban.address

    def is_banned(self, address: str) -> bool:
        """Whether a newcomer from there would be refused for a ban."""
        return self._gate.ban_of(address, monotonic()) is not None

    def unban(self, address: str, by: str) -> bool:
        """Lift a ban; whether there was one."""
        lifted = self._gate.unban(address)
        if lifted:
            log.info("%s is no longer banned", address)
            self._metrics.timeline.note("unban", f"{address} is no longer banned", address=address, by=by)
        return lifted

    # ------------------------------------------------------------------ once a second

    def sweep(self, now: float) -> None:
        """Forget what is over; say how many found no descriptor."""
        if self._starved != self._starved_before:
            log.warning("no open file was left for %d connections, which were closed: raise the limit (ulimit -n) or "
                        "lower proxy.max_clients", self._starved - self._starved_before)
            self._starved_before = self._starved
        if now - self._swept_at >= self._limits.cleanup_interval_seconds and not self._gate.sweep(now):
            self._swept_at = now

    # ------------------------------------------------------------------ state

    def tables(self) -> dict[str, int]:
        """How much is kept of addresses."""
        return {"addresses": self._gate.tracked, "bans": self._gate.banned, "past_bans": self._gate.past_bans}

    def bans(self, now: float) -> list[Ban]:
        """The bans in force, in no order."""
        return self._gate.bans_in_no_order(now)

    @property
    def banned(self) -> int:
        """How many bans there are; some may have ended within the last minute."""
        return self._gate.banned

    def snapshot(self, now: float) -> dict[str, Any]:
        """Who is banned and who was cut, as plain data; the latest first, and not more than a page shows."""
        bans = self.bans(now)
        latest = heapq.nlargest(SHOWN_BANS, bans, key=lambda ban: ban.since)
        return {
            "banned_ips": len(bans),
            "bans": [{"ip" if name == "address" else name: value for name, value in plain_ban(ban, now).items()}
                     for ban in latest],
            "cut": list(reversed(self._cuts)),
        }


def plain_ban(ban: Ban, now: float) -> dict[str, Any]:
    """A ban as plain data; `now` is in monotonic seconds."""
    unix = time() - now
    return {"address": ban.address, "why": ban.why, "times": ban.times, "since_unix": int(unix + ban.since),
            "until_unix": int(unix + ban.until), "seconds_left": round(ban.until - now)}


def _gate_limits(limits: config.Ratelimit) -> Limits:
    """The limits that are in force; without `enabled` only who is denied counts."""
    on = limits.enabled
    return Limits(
        max_connections_per_ip=limits.max_connections_per_ip if on else 0,
        max_connections_per_minute=limits.max_connections_per_minute if on else 0,
        ban_seconds=limits.ban_duration_seconds, bad_sessions=limits.bad_sessions if on else 0,
        allow=tuple(addresses.network(text) for text in limits.allow),
        deny=tuple(addresses.network(text) for text in limits.deny))
