"""The difficulty of a session: where it starts, and how it follows the miner's speed. No I/O.

LAW: never above the difficulty of the upstream: shares between the two would be thrown away unpaid.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

from karoo.policy.evidence import Evidence, deviation

# A young session is told difficulties at which shares come fast, until enough were counted.
PROBE_SHARES = 64  # tell the speed within 12 %
PROBE_SECONDS = 75.0  # in which they should come
# (age in seconds, shares that are enough then, seconds that the missing ones must be away at least)
PROBE_ENOUGH = ((0.0, PROBE_SHARES, -math.inf), (85.0, 24, 5.0), (130.0, 12, -math.inf))
PROBE_SILENCE = 12.0  # seconds without a share, after which a young session's difficulty drops by
PROBE_DROP = 30.0  # so much: no more than twice until a miner that waits for jobs gets its next one
BURST = 16  # shares in the newest bucket that call for a look at once; and again when they have doubled
# A settled session's difficulty changes when the shares of the last `seconds` are off by CRITICAL standard deviations
# (over 3 minutes; SLOPE fewer for every e times as long, which is tried more seldom; RISE times as many to go up, since
# short intervals by chance are more striking than long ones). These numbers, and those below, were the best of about a
# hundred sets in the laboratory (docs/vardiff.md) for following a change soon at fewer than one change in 10 minutes.
CRITICAL, CRITICAL_SLOPE, CRITICAL_RISE = 2.5, 0.28, 1.05
SHORTEST = 75.0  # seconds
SAME_SPEED = 1.2  # standard deviations up to which older evidence is taken to be of the same speed
PRIOR = 3.5  # shares that the present difficulty weighs at most when a new one is estimated
# More shares than were counted: a difficulty that is now too low and now too high by the same factor gives more short
# intervals than long ones, and the mean of the intervals is to meet the target.
MORE = 2.0
SMALLEST_STEP = 0.25  # of the natural logarithm: 28 %
# A miner whose speed was just measured seldom changes it, and the first shares after that mislead as others do: for
# so many seconds a change needs so many standard deviations more.
CAUTIOUS, CAUTION = 240.0, 2.0
# A difficulty of a former session is believed until the first shares are off by so many standard deviations (no share
# at all: three target intervals), and for good after so many shares.
DISTRUST, TRUSTED_SHARES = 2.5, 20


@dataclass(slots=True, frozen=True)
class DifficultyPolicy:
    """Bounds and start of the sessions' own difficulties.

    Without `enabled` every session holds the pool's. ``start`` is None when no start is configured:
    then ``by_agent`` (part of a program's name, lower case -> difficulty) is looked up. ``target`` are
    the seconds between two shares. ``power_of_two`` rounds to these, and not to two digits.
    """

    enabled: bool
    lowest: float
    highest: float
    start: float | None = None
    by_agent: tuple[tuple[str, float], ...] = ()
    target: float = 15.0
    power_of_two: bool = False

    def wanted(self, suggested: float | None, agent: str = "") -> float | None:
        """Where a session starts, were the pool's difficulty no bound; None: at the pool's, whatever that is.

        A miner's own suggestion goes before the configured start, that before the start of its program; all stay
        inside the bounds.
        """
        if not self.enabled:
            return None
        value = suggested if suggested is not None else self.start
        if value is None:
            name = agent.lower()
            value = max(((len(part), start) for part, start in self.by_agent if part in name), default=(0, None))[1]
        return self.bounded(self.highest if value is None else value)

    def bounded(self, difficulty: float) -> float:
        """Inside the bounds of the configuration."""
        return min(max(difficulty, self.lowest), self.highest)

    def rounded(self, difficulty: float) -> float:
        """Two significant digits, or a power of two; inside the bounds."""
        if self.power_of_two:
            return self.bounded(2.0 ** round(math.log2(difficulty)))
        unit = 10.0 ** (math.floor(math.log10(difficulty)) - 1)
        return self.bounded(float(f"{round(difficulty / unit) * unit:.2g}"))


@dataclass(slots=True, frozen=True)
class Former:
    """What is known of a session that ended: the difficulty that fitted it, and what it had suggested."""

    difficulty: float
    suggested: float | None


class Remembered:
    """The difficulties of miners that left, so that they start there when they come back within a day. Bounded.

    A miner is known by its worker name, its address and its program. Times are monotonic seconds.
    """

    MOST = 50_000
    LONGEST = 86_400.0

    def __init__(self) -> None:
        self._former: OrderedDict[tuple[str, str, str], tuple[Former, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._former)

    def keep(self, miner: tuple[str, str, str], former: Former, now: float) -> None:
        """A miner leaves."""
        self._former[miner] = former, now
        self._former.move_to_end(miner)
        if len(self._former) > self.MOST:
            self._former.popitem(last=False)

    def recall(self, miner: tuple[str, str, str], now: float) -> Former | None:
        """Where it was; None when it was not here."""
        former, since = self._former.get(miner, (None, now))
        return former if now - since <= self.LONGEST else None


def effective(wanted: float | None, upstream: float) -> float:
    """The difficulty that a session holds under an upstream's."""
    return upstream if wanted is None else min(wanted, upstream)


class Vardiff:
    """Follows the speed of one miner.

    It is told of every second that passes and of every share that counts; `look` says which difficulty
    would give one share every `target` seconds, when that is worth a change. Times are monotonic seconds.
    """

    __slots__ = ("_changed_at", "_evidence", "_last_share", "_settled_at", "_started_at", "_trusting",
                 "passed", "probing")

    def __init__(self, now: float) -> None:
        self._evidence = Evidence()
        self.passed = self._started_at = self._changed_at = self._last_share = now
        self._settled_at = -math.inf
        self.probing = True
        self._trusting = False

    def pass_time(self, now: float, threshold: float) -> None:
        """Until now the miner may have worked at most at this difficulty: shares that reach it were counted."""
        if now > self.passed:
            self._evidence.pass_time(now - self.passed, threshold)
            self.passed = now

    def share(self, now: float) -> bool:
        """A share that reaches the threshold, after `pass_time` until now or some tenths of a second before; whether a
        look is due at once, for a miner far above its rate."""
        self._evidence.count()
        self._last_share = now
        shares = self._evidence.shares
        return shares >= BURST and not shares & (shares - 1)

    def changed(self, now: float) -> None:
        """The miner was told another difficulty, whoever wanted it."""
        self._changed_at = now

    def trust(self) -> None:
        """The difficulty is that of a former session: probe only when the first shares contradict it."""
        self.probing, self._trusting = False, True

    def look(self, difficulty: float, target: float) -> float | None:
        """The difficulty to change to, not rounded and not bounded; None to leave it as it is."""
        if self._trusting:
            _, counted, exposure = self._evidence.total()
            if abs(deviation(counted, difficulty / target * exposure)) > DISTRUST:
                self.probing, self._trusting, self._started_at = True, False, self.passed
            elif counted >= TRUSTED_SHARES:
                self._trusting = False
            else:
                return None
        return self._probe(difficulty, target) if self.probing else self._follow(difficulty, target)

    def _probe(self, difficulty: float, target: float) -> float | None:
        """Get enough shares to know the speed, soon; then settle."""
        _, counted, exposure = self._evidence.total()
        age, since = self.passed - self._started_at, self.passed - self._changed_at
        if not exposure:
            return None  # no time has passed yet
        if not counted:
            silent = min(self.passed - self._last_share, since) >= PROBE_SILENCE
            return difficulty / PROBE_DROP if silent else None
        speed = counted / exposure
        missing, left = PROBE_SHARES - counted, max(PROBE_SECONDS - age, 10.0)
        soon = missing * difficulty / speed  # seconds until they are there, once the miner works at this difficulty
        if any(age >= old and counted >= enough and soon >= more for old, enough, more in PROBE_ENOUGH):
            self.probing, self._settled_at = False, self.passed
            return speed * target
        if since >= 5.0 and soon > left:
            faster = speed * min(left, 30.0) / missing
            return faster if faster < difficulty / 1.5 else None
        return None

    def _follow(self, difficulty: float, target: float) -> float | None:
        """Change when the shares of some time back say clearly that the speed is another one."""
        expected_rate = difficulty / target
        caution = CAUTION if self.passed - self._settled_at < CAUTIOUS else 0.0
        windows = list(self._evidence.windows())
        worst, pick = 1.0, -1
        for number, (seconds, counted, exposure) in enumerate(windows):
            if seconds < SHORTEST and counted < BURST:
                continue
            critical = caution + CRITICAL - CRITICAL_SLOPE * math.log(max(seconds, SHORTEST) / 180.0)
            off = deviation(counted, expected_rate * exposure)
            score = off / (critical * CRITICAL_RISE) if off > 0 else -off / critical
            if score > worst:
                worst, pick = score, number
        if pick < 0:
            return None
        seconds, counted, exposure = windows[pick]
        for older, more, longer in windows[pick + 1:]:  # as far back as it was the same speed
            if abs(deviation(more - counted, (counted or 0.5) / exposure * (longer - exposure))) > SAME_SPEED:
                break
            seconds, counted, exposure = older, more, longer
        prior = PRIOR / worst ** 4  # none for a speed that is another one by far
        speed = (counted + MORE + prior) / (exposure + prior / expected_rate)
        if abs(math.log(speed * target / difficulty)) < SMALLEST_STEP:
            return None
        # A burst told of it alone: the bucket it is in began at the former speed, and would dilute what comes.
        self._evidence.keep(seconds if pick else 0.0)
        return speed * target
