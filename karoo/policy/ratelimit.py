"""Who may connect: connections at once and per minute by address, and whose misbehaviour bans it. No I/O.

Addresses are texts (see `addresses.parse`); IPv6 is counted by /64. `now` is in monotonic seconds throughout.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

from karoo.policy import addresses
from karoo.policy.addresses import Address, Network, Networks
from karoo.policy.bans import STEPS, Ban, Bans, span

MINUTE = 60.0
# An address with so many connections from before the rush is a farm behind one address. What it opens above the limit
# is refused, but it is not banned: one miner that reconnects in a loop would lock the others out.
FARM = 10
CUTS_WITHIN = 300.0  # seconds in which several sessions of an address must be cut for misbehaviour
MINORITY = 0.25  # the part of an address's sessions below which bad ones are no reason to ban it
KEPT = CUTS_WITHIN  # seconds that an address without connections is remembered; its count needs a minute of them
EXCUSED = 300.0  # seconds in which a connection that was ended through no fault of its address may be opened again

# Why a connection is refused, for counters
DENIED, BANNED, TOO_MANY, TOO_FAST = "denied", "banned", "too many connections", "connections too fast"


@dataclass(frozen=True, slots=True)
class Limits:
    """``deny`` is refused always. ``allow`` is exempt from limits and bans, but not from ``deny``; it does not keep
    others out. ``ban_seconds`` is the length of a first ban. Without a configured limit (0) there is none.

    An address is banned for misbehaviour when ``bad_sessions`` of its sessions were cut (see `Gate.cut`; 0: never).
    ``max_tracked`` addresses without a connection are remembered, and ``max_bans`` bans, with as many that ended.
    """

    max_connections_per_ip: int = 100
    max_connections_per_minute: int = 60
    ban_seconds: float = 300.0
    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()
    bad_sessions: int = 3
    max_tracked: int = 100_000
    max_bans: int = 10_000


@dataclass(frozen=True, slots=True)
class Refusal:
    """``kind`` is one of the constants above, ``text`` the sentence for the log; ``ban`` is there when this very
    attempt brought it about."""

    kind: str
    text: str
    ban: Ban | None = None


class _Trouble:
    """Cuts of one address. Sessions that were alive at the same moment, ``mark``, are surely different miners."""

    __slots__ = ("alive", "bad", "cuts", "grave", "mark", "since")

    def __init__(self, now: float) -> None:
        self.since = self.mark = now
        self.alive = self.bad = self.grave = 0  # at the mark; cut of those; cut of those for something grave
        self.cuts = 0  # cut at all


class _Source:
    """One address. 0.3 KB with its place in the tables."""

    __slots__ = ("calm", "due", "excused", "excused_until", "farm_until", "left_at", "live", "trouble")

    def __init__(self) -> None:
        self.live = 0  # connections
        self.due = 0.0  # when the connections opened lately count no more; each counts for a minute / limit
        self.calm = 0  # connections when the last rush began
        self.left_at = 0.0  # when the last connection ended
        self.excused = 0  # connections that may be opened without being counted, until then:
        self.excused_until = 0.0
        self.farm_until = 0.0  # it had FARM connections lately: a switch that fails must not ban all behind it
        self.trouble: _Trouble | None = None


class Gate:
    """Who may connect, and who is banned. A ban keeps newcomers out; those connected are the caller's to end.

    At once: what is above the limit is refused, as in the original Karoo, and no reason for a ban. Per minute: what
    is above the limit brings a ban. That is counted by a leaking bucket of constant size: an address that keeps the
    limit in every minute is never banned, limit + 1 connections at once after a quiet minute always bring the ban, and
    going on at r > limit per minute does within limit / (r - limit) minutes; never do more than twice the limit pass
    in a minute. Refused connections do not count: miners retry by themselves; nor do those of miners that come back
    because the proxy sent them away. Until ``grace_until`` nobody is banned for a rush: after a start all come at once.

    Addresses with connections are never forgotten; of the others, the one that left first makes room. Bans are kept
    apart, so that no flood of addresses displaces them; where there are too many, those go that would end first.
    """

    def __init__(self, limits: Limits, grace_until: float = -math.inf) -> None:
        self._grace_until = grace_until
        self._take(limits)
        self._live: dict[int, _Source] = {}
        self._idle: OrderedDict[int, _Source] = OrderedDict()  # in the order of leaving
        self._bans = Bans(limits.ban_seconds, limits.max_bans)

    def _take(self, limits: Limits) -> None:
        self.limits = limits
        self._allow, self._deny = Networks(limits.allow), Networks(limits.deny)
        per_minute = limits.max_connections_per_minute
        self._interval = MINUTE / per_minute if per_minute else 0.0

    def change(self, limits: Limits) -> None:
        """Other limits, from now on. What is counted stays, and so do the bans in force."""
        self._take(limits)
        self._bans.change(limits.ban_seconds)

    # ------------------------------------------------------------------ connections

    def admit(self, address: str, now: float) -> Refusal | None:
        """At each accepted connection. None: it may stay, and `leave` must follow once. What is no address may."""
        peer = addresses.parse(address)
        if peer is None:
            return None
        if self._deny and peer in self._deny:
            return Refusal(DENIED, f"{peer} is denied by the configuration")
        if self._allow and peer in self._allow:
            return None
        key = addresses.key(peer)
        ban = self._bans.of(key, now)
        if ban is not None:
            return Refusal(BANNED, ban.text(now))
        source = self._live.get(key)
        if source is None:
            source = self._idle.get(key) or _Source()
        refusal = self._over(source, key, now)
        if refusal is None:
            if not source.live:
                self._idle.pop(key, None)
                self._live[key] = source
            source.live += 1
        return refusal

    def _over(self, source: _Source, key: int, now: float) -> Refusal | None:
        """What is above a limit with one more connection; else that is counted."""
        most = self.limits.max_connections_per_ip
        if most and source.live >= most:
            return Refusal(TOO_MANY, f"{addresses.shown(key)} has {source.live} connections, {most} are allowed")
        if not self._interval:
            return None
        if source.due <= now:
            source.due, source.calm = now, source.live
        if source.due + self._interval / 2 - now < MINUTE:  # the half: sums of fractions are not exact
            source.due += self._interval
            return None
        if source.excused and now < source.excused_until:
            source.excused -= 1
            return None
        why = f"more than {self.limits.max_connections_per_minute} connections in a minute"
        if min(source.calm, source.live) >= FARM or now < max(source.farm_until, self._grace_until):
            return Refusal(TOO_FAST, f"{addresses.shown(key)} has opened {why}")
        ban = self._bans.punish(key, why, now)
        return Refusal(TOO_FAST, ban.text(now), ban)

    def leave(self, address: str, now: float, excused: bool = False) -> None:
        """A connection that was admitted is gone; `excused`: the proxy ended it, and not for what the peer did."""
        peer = self._counted(address)
        if peer is None:
            return
        key = addresses.key(peer)
        source = self._live.get(key)
        if source is None:
            return
        if source.live >= FARM and self._interval:
            source.farm_until = now + KEPT
        source.live -= 1
        if excused and self._interval:
            source.excused = source.excused + 1 if now < source.excused_until else 1
            source.excused_until = now + EXCUSED
        if source.live:
            return
        del self._live[key]
        if max(source.due, source.excused_until, source.farm_until) > now or source.trouble is not None:
            self._remember(key, source, now)
        self._forget_idle(now, 2)  # each remembers one at most, so that two keep up

    def _counted(self, address: str) -> Address | None:
        """The address, unless it is exempt."""
        peer = addresses.parse(address)
        return None if peer is None or (self._allow and peer in self._allow) else peer

    def _remember(self, key: int, source: _Source, now: float) -> None:
        source.left_at = now
        self._idle[key] = source
        if len(self._idle) > self.limits.max_tracked:
            self._idle.popitem(last=False)

    # ------------------------------------------------------------------ misbehaviour

    def cut(self, address: str, why: str, now: float, started_at: float, mild: bool = False) -> Ban | None:
        """A session of the address is cut for misbehaviour (`why`, in words); call it before `leave`.

        The ban that this brings about, if any: when within CUTS_WITHIN seconds `bad_sessions` different miners were
        cut, and MINORITY of all that were connected; or so many sessions, and nobody else was connected for a minute.
        What is `mild`, such as saying nothing, is a reason in the second case only: monitors and browsers do it.
        One bad miner that comes back and is cut again is still one: only a session that began (`started_at`) before
        another was cut is surely not the same miner come back.
        """
        peer = self._counted(address)
        if peer is None or not self.limits.bad_sessions:
            return None
        key = addresses.key(peer)
        if self._bans.of(key, now) is not None:
            return None
        source = self._live.get(key) or self._idle.get(key)
        if source is None:
            source = _Source()
            self._remember(key, source, now)
        trouble = source.trouble
        if trouble is None or now - trouble.since > CUTS_WITHIN:
            source.trouble = trouble = _Trouble(now)
        if source.live > trouble.alive or not trouble.alive:  # more than there were: what was counted tells too little
            trouble.mark, trouble.alive, trouble.bad, trouble.grave = now, max(source.live, 1), 0, 0
        trouble.cuts += 1
        trouble.bad += started_at <= trouble.mark
        trouble.grave += started_at <= trouble.mark and not mild
        if not self._enough(trouble, now):
            return None
        source.trouble = None
        return self._bans.punish(key, f"{trouble.cuts} sessions cut "
                                      f"{_within(now - trouble.since)}, the last one: {why}", now)

    def _enough(self, trouble: _Trouble, now: float) -> bool:
        several = self.limits.bad_sessions
        if trouble.grave >= several and trouble.grave >= trouble.alive * MINORITY:
            return True
        # Nobody else is there. After a restart of the proxy the bad one may be the first to come back, so it is given
        # a minute in which the others would show up.
        return trouble.bad >= trouble.alive and trouble.cuts >= several and now - trouble.since >= MINUTE

    # ------------------------------------------------------------------ bans

    def ban(self, address: str, seconds: float, why: str, now: float) -> Ban | None:
        """Ban an address for so long, whatever it did before. None for what is exempt or no address."""
        peer = self._counted(address)
        if peer is None:
            return None
        return self._bans.put(addresses.key(peer), seconds, why, now)

    def ban_of(self, address: str, now: float) -> Ban | None:
        """The ban in force of an address."""
        peer = self._counted(address)
        return None if peer is None else self._bans.of(addresses.key(peer), now)

    def unban(self, address: str) -> bool:
        """Lift a ban and forget what the address did, its rush included; whether there was one. `/64` may follow it."""
        peer = addresses.parse(address.partition("/")[0])
        if peer is None:
            return False
        key = addresses.key(peer)
        source = self._live.get(key) or self._idle.get(key)
        if source is not None:
            source.due = source.farm_until = 0.0
            source.trouble = None
        return self._bans.lift(key)

    def bans(self, now: float) -> list[Ban]:
        """The bans in force, the latest first."""
        return self._bans.in_force(now)

    def bans_in_no_order(self, now: float) -> list[Ban]:
        """The bans in force, quicker."""
        return self._bans.present(now)

    @property
    def banned(self) -> int:
        """Bans in force, and those that ended since the last sweep."""
        return len(self._bans)

    @property
    def past_bans(self) -> int:
        """Bans that ended and are not forgiven."""
        return self._bans.remembered

    @property
    def tracked(self) -> int:
        """Addresses in the tables, bans left out."""
        return len(self._live) + len(self._idle)

    # ------------------------------------------------------------------ forgetting

    def sweep(self, now: float) -> bool:
        """Forget what is over, some thousand entries at most; whether there may be more. Every second or minute."""
        more = self._forget_idle(now, STEPS)
        return self._bans.sweep(now) or more

    def _forget_idle(self, now: float, steps: int) -> bool:
        """Forget those that left long ago; whether there may be more of them."""
        idle = self._idle
        for _ in range(steps):
            if not idle or next(iter(idle.values())).left_at + KEPT > now:
                if not idle:
                    idle.clear()  # which gives the memory of the table back
                return False
            idle.popitem(last=False)
        return True


def _within(seconds: float) -> str:
    """`at once`, or `within 12 s`."""
    return "at once" if seconds < 1 else f"within {span(seconds)}"
