"""How a session behaves: points for what no honest miner does in such numbers, and the reason to cut it. No I/O.

There are two accounts of points, one for lines and one for shares, and one threshold for their sum. Points of lines
leak with time. Points of shares are made good by good shares and leak slowly: what counts is the ratio.
"""

from __future__ import annotations

from dataclasses import dataclass

# A malformed line: with the usual threshold 20 of them at once, or 6 a minute for ever. Some firmware repeats one
# request that nobody understands with each job or every half minute; that must not end it.
LINE = 10.0  # points
LINES_LEAK = 1.0  # points a second

# A share that is low, a duplicate, or wrong in another way is worth a point; a good share takes one back, as does a
# minute. So a miner is cut when more than half of its shares are bad, over 200 more bad ones than good ones. Honest
# hardware has 0.1 to 2 % of errors. Pools that ban at all look at some 500 shares and ban at half of them.
SHARE = 1.0  # points
SHARES_LEAK = 1 / 60  # points a second
# After a block the shares under way are stale, and after a reconnect those of two minutes (cgminer sends them again):
# a miner is cut after 800 of them without a good one. Nobody finds as many in one job at 4 shares a minute.
STALE = 0.25  # points
RECORD = 200.0  # points that good shares earn in advance: a difficulty misunderstood now is no attack

# Miners apply a new difficulty with one of the next jobs (see `policy.held`); some do later. For so long after the
# proxy raised it, low shares are free; they count towards the rate of submits as all do.
RAISED = 60.0  # seconds

# Over these seconds the rate of submits is averaged: what a stalled network held back comes at once, and is honest.
AVERAGED = 30.0
LOOK = 64  # submits from one look at the rate to the next: a power of two. Between two looks a submit is one addition

# How far a session has come, for its deadlines
CONNECTED, HEARD, SUBSCRIBED = range(3)
_MISSED = ("nothing sent", "not subscribed", "not authorized")

LOW, STALE_SHARES, DUPLICATE, INVALID, JUNK, EARLY = range(6)
_NAMES = ("low-difficulty shares", "stale shares", "duplicate shares", "invalid shares", "junk lines",
          "submits before authorization")


@dataclass(frozen=True, slots=True)
class Rules:
    """What sessions must keep; one object for all of them. 0 is no limit.

    ``threshold`` is the points that end a session; a bad share is one.
    ``max_submits_per_second`` is meant on average over AVERAGED seconds. ``deadlines`` are those for the first byte,
    for mining.subscribe and for mining.authorize, in seconds, each from the beginning.
    """

    threshold: float = 200.0
    max_submits_per_second: float = 100.0
    deadlines: tuple[float, float, float] = (30.0, 60.0, 120.0)


class _Faults:
    """Made with the first fault: most sessions have none."""

    __slots__ = ("at", "counts", "lines", "shares")

    def __init__(self, now: float) -> None:
        self.at = now  # when points leaked last, monotonic seconds
        self.lines = self.shares = 0.0  # points; those of shares are negative with a good record
        self.counts = [0] * len(_NAMES)  # since there were no points


class Conduct:
    """The conduct of one session. Every method is told of one thing that it did, at ``now`` in monotonic seconds, and
    answers with the reason to cut it, in words, or None. Past the threshold each further fault gives a reason again.

    One of `good`, `low`, `stale`, `duplicate` and `invalid` is called for each submit of an authorized session, by
    what this proxy found. What a pool says of a share is not the miner's conduct. 0.2 KB; with faults 0.4 KB.
    """

    __slots__ = ("_credited", "_faults", "_looked_at", "_raised_at", "_rules", "_submits", "_tokens", "_waits_since")

    def __init__(self, rules: Rules, now: float) -> None:
        self._rules = rules
        self._submits = 0  # shares and requests, whatever became of them
        self._credited = 0  # of those, the ones that were settled: what came since then are good shares
        self._faults: _Faults | None = None
        self._tokens = rules.max_submits_per_second * AVERAGED  # submits that may still come at once
        self._looked_at = self._waits_since = now
        self._raised_at = now - RAISED

    def change(self, rules: Rules) -> None:
        """Other rules, from now on."""
        self._rules = rules
        self._tokens = min(self._tokens, rules.max_submits_per_second * AVERAGED)

    # ------------------------------------------------------------------ shares

    def good(self, now: float) -> str | None:
        """A good share. This is on the way of every share."""
        self._submits = submits = self._submits + 1
        return None if submits % LOOK else self._look(now)

    def low(self, now: float) -> str | None:
        """A share that misses the difficulty it was judged by."""
        if now - self._raised_at < RAISED:
            return self.request(now)
        return self._bad_share(LOW, SHARE, now)

    def stale(self, now: float) -> str | None:
        """A share for a job that is unknown or was replaced."""
        return self._bad_share(STALE_SHARES, STALE, now)

    def duplicate(self, now: float) -> str | None:
        """A share that was sent before."""
        return self._bad_share(DUPLICATE, SHARE, now)

    def invalid(self, now: float) -> str | None:
        """A share that is refused for another reason: ntime, version bits, the size of extranonce2, a worker that is
        not authorized. An honest miner sends some of these when mask or extranonce change."""
        return self._bad_share(INVALID, SHARE, now)

    def request(self, now: float) -> str | None:
        """Any request but a submit counts towards the rate as if it were one."""
        self._submits = submits = self._submits + 1
        self._credited += 1
        return None if submits % LOOK else self._look(now)

    def raised(self, now: float) -> None:
        """Its difficulty was raised by the proxy. Not to be called for a rise that the miner asked for, or it could
        ask for one before each flood."""
        self._raised_at = now

    def _look(self, now: float) -> str | None:
        """After LOOK submits: whether they are too many for the time that they took.

        Exact to LOOK submits, in favour of the miner: the seconds are credited before the fullest is cut off.
        """
        most = self._rules.max_submits_per_second
        if not most:
            return None
        self._tokens = min(self._tokens + (now - self._looked_at) * most - LOOK, most * AVERAGED)
        self._looked_at = now
        return f"more than {most:g} submits a second over {AVERAGED:.0f} s" if self._tokens < 0 else None

    def _bad_share(self, kind: int, points: float, now: float) -> str | None:
        faults = self._settled(now)
        self._submits += 1
        self._credited += 1
        faults.shares += points
        too_fast = None if self._submits % LOOK else self._look(now)
        return self._judge(faults, kind) or too_fast

    # ------------------------------------------------------------------ lines

    def junk(self, now: float) -> str | None:
        """A line that is no message, or whose parameters are malformed (a submit's: `invalid`)."""
        return self._bad_line(JUNK, now)

    def early(self, now: float) -> str | None:
        """A submit before it has asked for authorization. (While that is under way, its shares are held.)"""
        return self._bad_line(EARLY, now)

    def _bad_line(self, kind: int, now: float) -> str | None:
        faults = self._settled(now)
        faults.lines += LINE
        return self._judge(faults, kind)

    # ------------------------------------------------------------------ handshake

    def unfinished(self, stage: int, now: float) -> str | None:
        """Asked now and then while the session has come so far (CONNECTED, HEARD or SUBSCRIBED), has not asked for
        authorization, and nothing keeps it from doing so. However busy it is: a byte now and then is a sign of life,
        but no handshake."""
        allowed = self._rules.deadlines[stage]
        if allowed and now - self._waits_since >= allowed:
            return f"{_MISSED[stage]} within {allowed:g} s"
        return None

    def waited(self, seconds: float) -> None:
        """It had to wait so long for the proxy (there was no pool): that is not its time."""
        self._waits_since += seconds

    # ------------------------------------------------------------------ points

    def _settled(self, now: float) -> _Faults:
        """The points, after what leaked and what the good shares since the last fault made good."""
        faults = self._faults
        if faults is None:
            self._faults = faults = _Faults(now)
        seconds = now - faults.at
        faults.at = now
        faults.lines = max(0.0, faults.lines - seconds * LINES_LEAK)
        if faults.shares > 0:  # time forgives; only good shares earn something in advance
            faults.shares = max(0.0, faults.shares - seconds * SHARES_LEAK)
        faults.shares = max(-RECORD, faults.shares - (self._submits - self._credited) * SHARE)
        self._credited = self._submits
        if not faults.lines and faults.shares <= 0:
            faults.counts = [0] * len(_NAMES)
        return faults

    def _judge(self, faults: _Faults, kind: int) -> str | None:
        faults.counts[kind] += 1
        threshold = self._rules.threshold
        if not threshold or faults.lines + max(0.0, faults.shares) < threshold:
            return None
        return ", ".join(f"{count} {name}" for count, name in zip(faults.counts, _NAMES, strict=True) if count)
