"""Who may connect: connections at once and per minute by address, bans that grow and are forgiven. No I/O.

Addresses are texts (see `addresses.parse`); IPv6 is counted by /64. `now` is in monotonic seconds throughout.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass

from karoo.policy import addresses
from karoo.policy.addresses import Address, Network, Networks

MINUTE = 60.0
LONGEST_BAN = 86_400.0  # seconds that a ban doubles up to, unless the configured length is above it already
# An address is forgiven one doubling for each time that it behaved as long as its ban was, and for this long at
# least: with bans of 5 minutes, an attack that pauses for 5 minutes would else start from the beginning each time.
FORGIVEN_AFTER = 3600.0  # seconds
# An address with so many connections from before the rush is a farm behind one address. What it opens above the limit
# is refused, but it is not banned: one miner that reconnects in a loop would lock the others out.
FARM = 10
CUTS_WITHIN = 300.0  # seconds in which several sessions of an address must be cut for misbehaviour
MINORITY = 0.25  # the part of an address's sessions below which bad ones are no reason to ban it
KEPT = CUTS_WITHIN  # seconds that an address without connections is remembered; its count needs a minute of them
STEPS = 1000  # entries looked at in one sweep: well below a millisecond

# Why a connection is refused, for counters
DENIED, BANNED, TOO_MANY, TOO_FAST = "denied", "banned", "too many connections", "connections too fast"


@dataclass(frozen=True, slots=True)
class Limits:
    """``deny`` is refused always. ``allow`` is exempt from limits and bans, but not from ``deny``; it does not keep
    others out. ``ban_seconds`` is the length of a first ban. Without a configured limit (0) there is none.

    An address is banned for misbehaviour when ``bad_sessions`` of its sessions were cut (see `Gate.cut`).
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
class Ban:
    """``address`` is as counted (`2001:db8:1:2::/64`), ``times`` the bans in a row, those forgiven left out."""

    address: str
    why: str
    since: float
    until: float
    times: int

    def text(self, now: float) -> str:
        """The sentence for the log and the status page."""
        again = f", for the {_ordinal(self.times)} time" if self.times > 1 else ""
        return f"{self.address} is banned for {_span(self.until - now)}{again}: {self.why}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """``kind`` is one of the constants above, ``text`` the sentence for the log; ``ban`` is there when this very
    attempt brought it about."""

    kind: str
    text: str
    ban: Ban | None = None


class _Trouble:
    """Cuts of one address. Sessions that were alive at the same moment, ``mark``, are surely different miners."""

    __slots__ = ("alive", "bad", "cuts", "mark", "since")

    def __init__(self, now: float) -> None:
        self.since = self.mark = now
        self.alive = self.bad = self.cuts = 0  # at the mark; cut of those; cut at all


class _Source:
    """One address. 0.3 KB with its place in the tables."""

    __slots__ = ("calm", "due", "left_at", "live", "trouble")

    def __init__(self) -> None:
        self.live = 0  # connections
        self.due = 0.0  # when the connections opened lately count no more; each counts for a minute / limit
        self.calm = 0  # connections when the last rush began
        self.left_at = 0.0  # when the last connection ended
        self.trouble: _Trouble | None = None


class Gate:
    """Who may connect, and who is banned. A ban keeps newcomers out; those connected are the caller's to end.

    At once: what is above the limit is refused, as in the original Karoo, and no reason for a ban. Per minute: what
    is above the limit brings a ban. That is counted by a leaking bucket of constant size: an address that keeps the
    limit in every minute is never banned, the first connection above it after a quiet minute always brings the ban,
    one that goes on at r > limit per minute is banned within limit / (r - limit) minutes; never do more than twice
    the limit pass in a minute. Refused connections do not count: miners retry by themselves.

    Addresses with connections are never forgotten; of the others, the one that left first makes room. Bans are kept
    apart, so that no flood of addresses displaces them; where there are too many, those go that would end first.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._allow, self._deny = Networks(limits.allow), Networks(limits.deny)
        per_minute = limits.max_connections_per_minute
        self._interval = MINUTE / per_minute if per_minute else 0.0
        self._live: dict[int, _Source] = {}
        self._idle: OrderedDict[int, _Source] = OrderedDict()  # in the order of leaving
        self._bans: dict[int, Ban] = {}
        self._ends: list[tuple[float, int]] = []  # a heap of (until, key); what fits no ban any more is passed over
        self._past: OrderedDict[int, Ban] = OrderedDict()  # ended and not forgiven, in the order of ending

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
        ban = self._bans.get(key)
        if ban is not None and now < ban.until:
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
        why = f"more than {self.limits.max_connections_per_minute} connections in a minute"
        if min(source.calm, source.live) >= FARM:
            return Refusal(TOO_FAST, f"{addresses.shown(key)} has opened {why}")
        ban = self._punish(key, why, now)
        return Refusal(TOO_FAST, ban.text(now), ban)

    def leave(self, address: str, now: float) -> None:
        """A connection that was admitted is gone."""
        peer = self._counted(address)
        if peer is None:
            return
        key = addresses.key(peer)
        source = self._live.get(key)
        if source is None:
            return
        source.live -= 1
        if source.live:
            return
        del self._live[key]
        if source.due > now or source.trouble is not None:
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

    def cut(self, address: str, why: str, now: float, started_at: float) -> Ban | None:
        """A session of the address is cut for misbehaviour (`why`, in words); call it before `leave`.

        The ban that this brings about, if any. `bad_sessions` must be cut within CUTS_WITHIN seconds. Those must be of
        as many different miners, and MINORITY of all that were connected; or of all, where the address has fewer. One
        bad miner that comes back and is cut again is still one: only a session that began (`started_at`) before
        another was cut is surely not the same miner come back.
        """
        peer = self._counted(address)
        if peer is None:
            return None
        key = addresses.key(peer)
        ban = self._bans.get(key)
        if ban is not None and now < ban.until:
            return None
        source = self._live.get(key) or self._idle.get(key)
        if source is None:
            source = _Source()
            self._remember(key, source, now)
        trouble = source.trouble
        if trouble is None or now - trouble.since > CUTS_WITHIN:
            source.trouble = trouble = _Trouble(now)
        if source.live > trouble.alive or not trouble.alive:  # more than there were: what was counted tells too little
            trouble.mark, trouble.alive, trouble.bad = now, max(source.live, 1), 0
        trouble.cuts += 1
        trouble.bad += started_at <= trouble.mark
        several = self.limits.bad_sessions
        if trouble.cuts < several or trouble.bad < max(min(several, trouble.alive), trouble.alive * MINORITY):
            return None
        source.trouble = None
        return self._punish(key, f"{trouble.cuts} sessions cut within {_span(now - trouble.since)}, the last one for "
                                 f"{why}", now)

    # ------------------------------------------------------------------ bans

    def ban(self, address: str, seconds: float, why: str, now: float) -> Ban | None:
        """Ban an address for so long, whatever it did before. None for what is exempt or no address."""
        peer = self._counted(address)
        if peer is None:
            return None
        key = addresses.key(peer)
        former = self._bans.pop(key, None) or self._past.pop(key, None)
        times = former.times + 1 if former is not None and self._unforgiven(former, now) else 1
        return self._put(key, Ban(addresses.shown(key), why, now, now + seconds, times))

    def unban(self, address: str) -> bool:
        """Lift a ban and forget what the address did, its rush included; whether there was one. `/64` may follow it."""
        peer = addresses.parse(address.partition("/")[0])
        if peer is None:
            return False
        key = addresses.key(peer)
        self._past.pop(key, None)
        source = self._live.get(key) or self._idle.get(key)
        if source is not None:
            source.due, source.trouble = 0.0, None
        return self._bans.pop(key, None) is not None

    def bans(self, now: float) -> list[Ban]:
        """The bans in force, the latest first."""
        return sorted((ban for ban in self._bans.values() if now < ban.until), key=lambda ban: ban.since, reverse=True)

    @property
    def tracked(self) -> int:
        """Addresses in the tables, bans left out."""
        return len(self._live) + len(self._idle)

    def _punish(self, key: int, why: str, now: float) -> Ban:
        """Twice as long as what is not forgiven of the last ban."""
        former = self._bans.pop(key, None) or self._past.pop(key, None)
        unforgiven = self._unforgiven(former, now) if former is not None else 0.0
        length, times = self.limits.ban_seconds, 1
        if former is not None and unforgiven:
            length = min(2 * unforgiven, max(LONGEST_BAN, length))
            times = former.times + 1
        return self._put(key, Ban(addresses.shown(key), why, now, now + length, times))

    def _unforgiven(self, ban: Ban, now: float) -> float:
        """The length of a past ban in seconds, halved for each time that the address behaved; 0 below a first one."""
        length, quiet = ban.until - ban.since, now - ban.until
        while length >= self.limits.ban_seconds and quiet >= (step := max(length, FORGIVEN_AFTER)):
            quiet -= step
            length /= 2
        return length if length >= self.limits.ban_seconds else 0.0

    def _put(self, key: int, ban: Ban) -> Ban:
        self._bans[key] = ban
        heapq.heappush(self._ends, (ban.until, key))
        while len(self._bans) > self.limits.max_bans:
            self._end_first()
        if len(self._ends) > 2 * self.limits.max_bans + STEPS:  # mostly of bans that were lifted
            self._ends = [(each.until, key) for key, each in self._bans.items()]
            heapq.heapify(self._ends)
        return ban

    def _end_first(self) -> None:
        """The ban that ends first is over now."""
        until, key = heapq.heappop(self._ends)
        ban = self._bans.get(key)
        if ban is None or ban.until != until:
            return
        del self._bans[key]
        self._past[key] = ban
        if len(self._past) > self.limits.max_bans:
            self._past.popitem(last=False)

    # ------------------------------------------------------------------ forgetting

    def sweep(self, now: float) -> bool:
        """Forget what is over, STEPS entries of a kind at most; whether there may be more. Every second or minute."""
        more = self._forget_idle(now, STEPS)
        for _ in range(STEPS):
            if not self._ends or self._ends[0][0] > now:
                break
            self._end_first()
        else:
            more = True
        for _ in range(STEPS):
            if not self._past or self._unforgiven(next(iter(self._past.values())), now):
                break
            self._past.popitem(last=False)
        else:
            more = True
        return more

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


def _span(seconds: float) -> str:
    """5 s, 12 min, 3.5 h."""
    if seconds < 600:
        return f"{max(seconds, 0.0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10 if number % 100 // 10 != 1 else 0, "th")
    return f"{number}{ending}"
