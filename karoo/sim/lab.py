"""Vardiff in the laboratory: simulated time, shares at random moments, the proxy's own policies. No sockets."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from statistics import fmean, median

from karoo.policy.tuner import Tuner
from karoo.policy.vardiff import DifficultyPolicy, Vardiff, effective
from karoo.stratum import difficulty as dif

LOOK_EVERY = 5.0  # seconds, as vardiff.adjust_every_ms; each second while a session is young
FLOOD = 20.0  # times too low a difficulty, from which on shares are drawn in bulk
MAX_SHARES = 100_000  # drawn one by one, after which a run ends: the controller does nothing
LONGEST_START = 330.0  # seconds, after which a session has to have converged even without 20 shares


@dataclass
class Run:
    """What happened: (time, difficulty told), the times of the shares (seconds), and how many were refused.

    `floods` are (from, until, shares): those that came too fast to be drawn one by one, spread evenly.
    """

    told: list[tuple[float, float]] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    floods: list[tuple[float, float, int]] = field(default_factory=list)
    refused: int = 0

    @property
    def count(self) -> int:
        """All shares."""
        return len(self.shares) + sum(count for _, _, count in self.floods)

    def difficulty_at(self, time: float) -> float:
        """The difficulty told last at some time."""
        return next(difficulty for when, difficulty in reversed(self.told) if when <= time)

    def time_of_share(self, number: int) -> float:
        """When the share with this number came, from 1 on; infinite when it never did."""
        times = self.shares[:number]
        for start, end, count in self.floods:
            times += [start + (end - start) * (index + 0.5) / count for index in range(min(count, number))]
        times.sort()
        return times[number - 1] if len(times) >= number else math.inf


class Lab:
    """One miner of a speed (difficulty a second, which may change over time) under the controller.

    A job comes every `job_every` seconds. The miner applies a change at once, or with the next job. `ceiling` is the
    difficulty of the upstream. A start that is `remembered` is that of a former session.
    """

    def __init__(self, seed: int, start: float, speed: Callable[[float], float], *, at_once: bool,
                 policy: DifficultyPolicy, job_every: float = 30.0, ceiling: float = math.inf,
                 controller: Callable[[float], Vardiff] = Vardiff, remembered: bool = False) -> None:
        self._random = random.Random(seed)
        self._speed, self._at_once, self._job_every, self._ceiling = speed, at_once, job_every, ceiling
        self._tuner = Tuner(policy, dif.DIFF1_SHA256D)
        self._tuner.suggested = start
        self._tuner.begin("", None, 0.0)
        self._vardiff = self._tuner.vardiff = controller(0.0)
        if remembered:
            self._vardiff.trust()
        self._seq = 0
        self.run = Run()
        self._tell(0.0, self._tuner.under(ceiling))
        self._job(0.0)

    def until(self, end: float) -> Run:
        """Let time pass."""
        now, next_job, next_look = 0.0, self._job_every, 1.0
        while now < end and len(self.run.shares) < MAX_SHARES:
            threshold, speed, since = self._tuner.held.threshold(self._seq), self._speed(now), now
            flood = threshold / self._working_at > FLOOD
            drawn_at = threshold if flood else self._working_at
            share_at = now + self._random.expovariate(speed / drawn_at)
            now = min(share_at, next_job, next_look)
            if flood:
                self._flood(since, now, speed * (1.0 / self._working_at - 1.0 / threshold))
            self._vardiff.pass_time(now, threshold)
            if now == next_job:
                next_job += self._job_every
                self._job(now)
            elif now == share_at:
                self._share(now, int(dif.target_of(drawn_at) * self._random.random()))
            else:
                self._look(now)
                next_look += 1.0 if self._vardiff.probing else LOOK_EVERY
        return self.run

    def _flood(self, since: float, now: float, rate: float) -> None:
        """The shares of a miner that waits for a job to apply a far higher difficulty, but those that reach it.

        They are random events apart from those that do. Nothing comes of one but that it is refused, or proves what
        the miner works at: both as the largest of their hashes, which is drawn, says.
        """
        count = poisson(self._random, rate * (now - since))
        if not count:
            return
        self.run.floods.append((since, now, count))
        easiest = dif.target_of(self._working_at)
        largest = int(easiest * self._random.random() ** (1.0 / count))
        lowest_target = self._tuner.measure(self._seq).lowest_target
        if largest > lowest_target:
            self.run.refused += max(1, round(count * (1.0 - lowest_target / easiest)))
        self._tuner.held.proved(largest)

    def _job(self, now: float) -> None:
        self._tuner.sent(self._seq + 1, self._seq, self._seq, now)
        self._seq += 1
        self._working_at = self._tuner.difficulty

    def _share(self, now: float, value: int) -> None:
        measure = self._tuner.measure(self._seq)
        self.run.shares.append(now)
        self.run.refused += value > measure.lowest_target
        if self._tuner.learn(value, bool(measure.work(value)), self._seq, now):
            self._look(now)

    def _look(self, now: float) -> None:
        if self._tuner.look(self._seq, now) and self._tuner.under(self._ceiling) != self._tuner.difficulty:
            self._tell(now, self._tuner.under(self._ceiling))

    def _tell(self, now: float, difficulty: float) -> None:
        self._tuner.change(difficulty, self._seq, now)
        self.run.told.append((now, difficulty))
        if self._at_once:
            self._working_at = difficulty


def poisson(source: random.Random, mean: float) -> int:
    """A random count; from 500 on by the normal distribution, which is as good there."""
    if mean > 500.0:
        return max(0, round(source.gauss(mean, math.sqrt(mean))))
    count, left = 0, math.exp(-mean)
    product = source.random()
    while product > left:
        count += 1
        product *= source.random()
    return count


POLICY = DifficultyPolicy(enabled=True, lowest=1e-12, highest=1e18, target=15.0)
SPEED = 1.0 / POLICY.target  # the right difficulty is 1
NEAR = 1.5  # a difficulty within this factor of the right one is right
SETTLED = 1200.0  # seconds after which a run is in its steady state
# The first seed. The controller's numbers were chosen with lower ones, on which they look better than they are.
FRESH = 500_000
FOLLOW = 180.0  # seconds in which a change of speed should be followed


def is_near(difficulty: float, right: float = 1.0) -> bool:
    """Within the factor that counts as right."""
    return 1.0 / NEAR <= difficulty / right <= NEAR


@dataclass(frozen=True)
class Steady:
    """At constant speed: changes in 10 minutes, and the mean share interval as a part of the target."""

    changes: float
    interval: float


@dataclass(frozen=True)
class Followed:
    """After a change of speed: the median of the seconds until the difficulty is near the right one, the part of the
    runs where that is within 3 minutes, and the typical (geometric mean) part of the right difficulty after those."""

    median: float
    part: float
    typical: float


class Measurements:
    """The properties of a controller, each over many seeded runs; `shares` and `refused` are the sums over all."""

    def __init__(self, seeds: int, hours: float, controller: Callable[[float], Vardiff] = Vardiff) -> None:
        self.seeds, self.hours = seeds, hours
        self._controller = controller
        self.shares = self.refused = self.changes = 0

    def run(self, seed: int, start: float, seconds: float, *, at_once: bool, factor: float = 1.0, since: float = 0.0,
            policy: DifficultyPolicy = POLICY, ceiling: float = math.inf, remembered: bool = False) -> Run:
        """One miner, whose right difficulty is 1, and `factor` since that time."""
        run = Lab(seed, start, lambda now: SPEED * (factor if now >= since else 1.0), at_once=at_once, policy=policy,
                  ceiling=ceiling, controller=self._controller, remembered=remembered).until(seconds)
        self.shares += run.count
        self.refused += run.refused
        self.changes += len(run.told) - 1
        return run

    def converged(self, power: int, at_once: bool) -> float:
        """From 10^power times the right difficulty: the part of the runs that are near it after 90 s or 20 shares,
        and three jobs more where changes wait for jobs."""
        near, wait = 0, 0.0 if at_once else 90.0
        for seed in range(self.seeds):
            run = self.run(FRESH + seed * 101 + power, 10.0 ** power, LONGEST_START + wait, at_once=at_once)
            due = min(max(90.0, run.time_of_share(20)), LONGEST_START) + wait
            near += is_near(run.difficulty_at(due))
        return near / self.seeds

    def recovered(self, power: int, at_once: bool) -> float:
        """A start remembered from another miner, 10^power times too high: the part of the runs that are near the right
        difficulty after as long, and the minute more that it takes to distrust it."""
        near, wait = 0, 60.0 + (0.0 if at_once else 90.0)
        for seed in range(self.seeds):
            run = self.run(FRESH + seed * 101 + power, 10.0 ** power, LONGEST_START + wait, at_once=at_once,
                           remembered=True)
            due = min(max(90.0, run.time_of_share(20)), LONGEST_START) + wait
            near += is_near(run.difficulty_at(due))
        return near / self.seeds

    def steady(self, at_once: bool) -> Steady:
        """Some hours at constant speed, without the first 20 minutes."""
        changes, intervals, spans = 0, 0, 0.0
        for seed in range(self.seeds):
            run = self.run(FRESH + seed, 1.0, self.hours * 3600.0 + SETTLED, at_once=at_once)
            late = [share for share in run.shares if share >= SETTLED]
            changes += sum(when >= SETTLED for when, _ in run.told)
            if late:
                intervals += len(late) - 1
                spans += late[-1] - late[0]
        return Steady(changes / (self.seeds * self.hours * 6.0),
                      spans / intervals / POLICY.target if intervals else math.inf)

    def followed(self, factor: float, at_once: bool) -> Followed:
        """A miner whose speed changes by a factor once the session is settled."""
        times, logs = [], []
        for seed in range(4 * self.seeds):
            run = self.run(FRESH + seed, 1.0, SETTLED + 4.0 * FOLLOW, at_once=at_once,
                           factor=factor, since=SETTLED)
            told = [(SETTLED, run.difficulty_at(SETTLED)), *((when, one) for when, one in run.told if when > SETTLED)]
            times.append(next((when - SETTLED for when, one in told if is_near(one, factor)), math.inf))
            logs.append(math.log(run.difficulty_at(SETTLED + FOLLOW) / factor))
        return Followed(median(times), sum(time <= FOLLOW for time in times) / len(times), math.exp(fmean(logs)))

    def limits(self) -> list[str]:
        """Every difficulty told that breaks a rule: above the upstream's, out of bounds, or not rounded."""
        wrong = []
        for power_of_two, lowest, ceiling in product((False, True), (1e-5, 0.31), (0.07, 7.7, 1e9)):
            policy = replace(POLICY, lowest=lowest, highest=50.0, power_of_two=power_of_two)
            for seed, power in product(range(4), (-4, -2, -1, 0, 1, 2)):
                run = self.run(seed, effective(policy.bounded(1.0), ceiling), 200.0, at_once=bool(seed % 2),
                               policy=policy, ceiling=ceiling, factor=10.0 ** power)
                wrong += [f"{one!r} under {ceiling!r}" for _, one in run.told if not is_allowed(one, policy, ceiling)]
        return wrong


def is_allowed(difficulty: float, policy: DifficultyPolicy, ceiling: float) -> bool:
    """Whether a session may be told this: the upstream's goes before the bounds of the configuration."""
    if difficulty > ceiling or not (min(policy.lowest, ceiling) <= difficulty <= policy.highest):
        return False
    if difficulty in (ceiling, policy.lowest, policy.highest):
        return True
    return math.frexp(difficulty)[0] == 0.5 if policy.power_of_two else float(f"{difficulty:.1e}") == difficulty
