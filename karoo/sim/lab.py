"""Vardiff in the laboratory: simulated time, shares at random moments, the proxy's own policies. No sockets."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from karoo.policy.held import HeldDifficulty
from karoo.policy.vardiff import DifficultyPolicy, Vardiff
from karoo.stratum import difficulty as dif

LOOK_EVERY = 5.0  # seconds, as vardiff.adjust_every_ms; each second while a session is young
MAX_SHARES = 1_000_000


@dataclass
class Run:
    """What happened: (time, difficulty told) and the times of the shares, in seconds."""

    told: list[tuple[float, float]] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    refused: int = 0

    def difficulty_at(self, time: float) -> float:
        """The difficulty told last at some time."""
        return next(difficulty for when, difficulty in reversed(self.told) if when <= time)


class Lab:
    """One miner of a speed (difficulty a second, which may change over time) under the controller.

    A job comes every `job_every` seconds. The miner applies a change at once, or with the next job.
    """

    def __init__(self, seed: int, start: float, speed: Callable[[float], float], *, at_once: bool,
                 policy: DifficultyPolicy, job_every: float = 30.0) -> None:
        self._random = random.Random(seed)
        self._speed, self._at_once, self._policy, self._job_every = speed, at_once, policy, job_every
        self._held = HeldDifficulty(dif.DIFF1_SHA256D)
        self._vardiff = Vardiff(0.0)
        self._seq = 1
        self._working_at = start
        self.run = Run()
        self._tell(0.0, start)
        self._held.sent(1, 1)

    def until(self, end: float) -> Run:
        """Let time pass."""
        now, next_job, next_look = 0.0, self._job_every, 1.0
        while now < end and len(self.run.shares) < MAX_SHARES:
            share_at = now + self._random.expovariate(self._speed(now) / self._working_at)
            now = min(share_at, next_job, next_look)
            self._vardiff.pass_time(now, self._held.threshold(self._seq))
            if now == next_job:
                next_job += self._job_every
                self._seq += 1
                self._held.sent(self._seq, self._seq - 1)
                self._working_at = self._held.difficulty
            elif now == share_at:
                self._share(now)
            else:
                self._look(now)
                next_look += 1.0 if self._vardiff.probing else LOOK_EVERY
        return self.run

    def _share(self, now: float) -> None:
        value = int(dif.target_of(self._working_at) * self._random.random())
        measure = self._held.measure(self._seq)
        self.run.shares.append(now)
        self.run.refused += value > measure.lowest_target
        self._held.proved(value)
        if measure.work(value) and self._vardiff.share(now, self._held.threshold(self._seq)):
            self._look(now)

    def _look(self, now: float) -> None:
        wanted = self._vardiff.look(self._held.difficulty, self._policy.target)
        if wanted is not None and (rounded := self._policy.rounded(wanted)) != self._held.difficulty:
            self._tell(now, rounded)
            self._vardiff.changed(now)

    def _tell(self, now: float, difficulty: float) -> None:
        self._held.change(difficulty)
        self.run.told.append((now, difficulty))
        if self._at_once:
            self._working_at = difficulty


POLICY = DifficultyPolicy(enabled=True, lowest=1e-12, highest=1e18, target=15.0)
SPEED = 1.0 / POLICY.target  # the right difficulty is 1


def converged(power: int, at_once: bool, seeds: int) -> tuple[float, float]:
    """From 10^power times the right difficulty: the part of the runs that are within 1.5 of it after 90 s or 20
    shares (and three jobs more where changes wait for jobs), and the factor that 95 % of the runs are within."""
    off = []
    for seed in range(seeds):
        lab = Lab(seed * 101 + power, 10.0 ** power, lambda now: SPEED, at_once=at_once, policy=POLICY)
        run = lab.until(420.0)
        shares = run.shares
        when = max(90.0, shares[19] if len(shares) > 19 else 330.0) + (0.0 if at_once else 90.0)
        off.append(abs(math.log(run.difficulty_at(when))))
    off.sort()
    return sum(one <= math.log(1.5) for one in off) / seeds, math.exp(off[int(0.95 * (seeds - 1))])


def steady(at_once: bool, seeds: int, hours: float = 4.0) -> tuple[float, float]:
    """Changes in 10 minutes, and mean interval as a part of the target, after the first ten minutes."""
    changes, intervals, spans = 0, 0, 0.0
    for seed in range(seeds):
        run = Lab(seed, 1.0, lambda now: SPEED, at_once=at_once, policy=POLICY).until(hours * 3600)
        late = [share for share in run.shares if share >= 600]
        changes += sum(when >= 600 for when, _ in run.told)
        intervals += len(late) - 1
        spans += late[-1] - late[0]
    return changes / (seeds * (hours * 3600 - 600) / 600), spans / intervals / POLICY.target


def followed(factor: float, at_once: bool, seeds: int) -> tuple[float, float]:
    """A miner whose speed changes by a factor after 20 minutes: the median of the seconds until the session is within
    1.5 of the right difficulty again, and the part of the runs that are within 3 minutes."""
    times = []
    for seed in range(seeds):
        lab = Lab(seed + 7000, 1.0, lambda now: SPEED * (factor if now >= 1200 else 1.0), at_once=at_once,
                  policy=POLICY)
        run = lab.until(2400.0)
        times.append(next((time - 1200 for time in range(1200, 2400, 5)
                           if 1 / 1.5 <= run.difficulty_at(time) / factor <= 1.5), 1200))
    times.sort()
    return times[seeds // 2], sum(time <= 180 for time in times) / seeds
