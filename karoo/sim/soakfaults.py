"""What pools do to a proxy in a soak: each fault is over, and mended, when its function returns."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import gevent

from karoo.sim.pool import SimulatedPool
from karoo.stratum.job import MAX_JOBS

LONGEST = 3.0  # seconds that a pool is away, silent, or keeps its answers back
BURST = 20  # jobs at once
MASKS = (0x1FFFE000, 0x00C00000, 0x1FFF0000, 0)
FACTORS = (0.5, 1.0, 2.0, 8.0, 32.0)  # the pool's difficulty in those of the miners: below, equal, above


class Faults:
    """The faults of some pools, drawn from `rng`; `difficulty` is that of the miners."""

    def __init__(self, pools: Sequence[SimulatedPool], difficulty: float, rng: random.Random) -> None:
        self._pools, self._difficulty, self._rng = pools, difficulty, rng
        self.table: dict[str, Callable[[SimulatedPool], None]] = {
            "kick": lambda pool: pool.kick_all(),
            "restart": lambda pool: self._away([pool]),
            "outage": lambda pool: self._away(self._pools),
            "forget": lambda pool: pool.forget(),
            "silence": self._silence,
            "late answers": self._late,
            "lost answers": self._lose,
            "extranonce": lambda pool: pool.set_extranonce(clean=rng.random() < 0.5),
            "difficulty": lambda pool: pool.set_difficulty(difficulty * rng.choice(FACTORS), rng.random() < 0.8,
                                                           rng.random() < 0.3),
            "version mask": lambda pool: pool.set_version_mask(rng.choice(MASKS)),
            "jobs": self._jobs,
            "many jobs": self._many_jobs,
            "reconnect": lambda pool: pool.reconnect(),
            "message": lambda pool: pool.show_message("a soak is under way"),
        }

    def one(self) -> str:
        """Do one to some pool, most often the first; which it was."""
        name = self._rng.choice(list(self.table))
        pool = self._pools[0] if self._rng.random() < 0.7 else self._rng.choice(self._pools)
        self.table[name](pool)
        return name

    def mend(self, factor: float = 4.0) -> None:
        """Every pool as it was in the beginning; its difficulty is so many times that of the miners."""
        for pool in self._pools:
            pool.resume()
            pool.release_answers()
            pool.set_version_mask(MASKS[0])
            pool.set_difficulty(self._difficulty * factor)

    def _span(self) -> float:
        return self._rng.uniform(0.2, LONGEST)

    def _away(self, pools: Sequence[SimulatedPool]) -> None:
        for pool in pools:
            pool.stop()
        gevent.sleep(self._span())
        for pool in pools:
            self._start(pool)

    @staticmethod
    def _start(pool: SimulatedPool) -> None:
        """Its port may have gone to somebody's connection for a moment."""
        for _ in range(50):
            try:
                pool.start()
                return
            except OSError:
                gevent.sleep(0.1)
        pool.start()

    def _silence(self, pool: SimulatedPool) -> None:
        pool.pause()
        gevent.sleep(self._span())
        pool.resume()

    def _late(self, pool: SimulatedPool) -> None:
        pool.hold_answers = True
        gevent.sleep(self._span())
        pool.release_answers()

    def _lose(self, pool: SimulatedPool) -> None:
        """The pool pays for shares, and its connections are cut before it says so."""
        pool.hold_answers = True
        gevent.sleep(self._span())
        pool.kick_all()
        pool.release_answers()

    def _jobs(self, pool: SimulatedPool) -> None:
        for _ in range(BURST):
            pool.new_job(clean=self._rng.random() < 0.2)

    def _many_jobs(self, pool: SimulatedPool) -> None:
        """More than anybody keeps, none of them clean."""
        for _ in range(MAX_JOBS + BURST):
            pool.new_job(clean=False)
            gevent.sleep(0.002)
