"""Honest miners by the hundred, and what they lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

import gevent

from karoo.pace import paced
from karoo.sim.miner import MinerOptions, SimulatedMiner
from karoo.sim.via import PLAIN, Via

AT_ONCE = 10  # miners that start between two short pauses
# All hashes reach this difficulty: a miner of one hash a second finds exactly one share a second.
EVERY_HASH = 2.0 ** -32
PLAIN_SOURCE = "127.0.0.2"


@dataclass(frozen=True, slots=True)
class Losses:
    """What honest miners should never see: shares refused, shares never answered, connections lost."""

    refused: int = 0
    unanswered: int = 0
    reconnects: int = 0

    def __bool__(self) -> bool:
        return bool(self.refused or self.unanswered or self.reconnects)


class Farm:
    """So many miners, all from 127.0.0.1, as `honest.h0`, `honest.h1`, ... (`name` with a number). The first `plain`
    ones come from PLAIN_SOURCE, and have to reconnect when their extranonce1 changes. Where there are `ways`, ports
    with what is spoken there, they take turns at them, and `port` does not count."""

    def __init__(self, port: int, count: int, hashrate: float, name: str = "honest.h", version_rolling: bool = False,
                 backoff: float = 0.5, plain: int = 0, ways: Sequence[tuple[int, Via]] = ()) -> None:
        ways = ways or [(port, PLAIN)]
        self.miners = [
            SimulatedMiner(MinerOptions("127.0.0.1", ways[number % len(ways)][0], f"{name}{number}", hashrate=hashrate,
                                        version_rolling=version_rolling, backoff_min=backoff, backoff_max=4 * backoff,
                                        takes_extranonce=number >= plain,
                                        source=PLAIN_SOURCE if number < plain else "",
                                        via=ways[number % len(ways)][1]))
            for number in range(count)]
        self._greenlets: list[gevent.Greenlet] = []

    def start(self) -> None:
        for miner in paced(self.miners, AT_ONCE):
            self._greenlets.append(gevent.spawn(miner.run))

    def stop(self) -> None:
        """End them all."""
        for miner in self.miners:
            miner.stop()
        gevent.joinall(self._greenlets, timeout=2)
        gevent.killall(self._greenlets)

    def await_shares(self, seconds: float, more: int = 1) -> None:
        """Wait until each has had so many further shares accepted. Raises TimeoutError, which names those without."""
        before = [miner.stats.accepted for miner in self.miners]
        until = monotonic() + seconds
        without = [miner.options.user for miner, had in zip(self.miners, before, strict=True)
                   if not miner.changes.wait(self._has(miner, had + more), max(0.0, until - monotonic()))]
        if without:
            raise TimeoutError(f"{len(without)} honest miners had no further share accepted within {seconds:g} s: "
                               f"{', '.join(without[:10])}")

    @staticmethod
    def _has(miner: SimulatedMiner, shares: int) -> Callable[[], bool]:
        return lambda: miner.stats.accepted >= shares

    @property
    def accepted(self) -> int:
        """Shares of all."""
        return sum(miner.stats.accepted for miner in self.miners)

    @property
    def losses(self) -> Losses:
        """What all of them lost since they were started."""
        return Losses(sum(miner.stats.refused.total() for miner in self.miners),
                      sum(miner.stats.unanswered for miner in self.miners),
                      sum(max(0, miner.stats.connects - 1) for miner in self.miners))

    def take_slowest(self) -> float:
        """The longest wait for a verdict since this was asked last, in seconds."""
        slowest = max(miner.stats.slowest for miner in self.miners)
        for miner in self.miners:
            miner.stats.slowest = 0.0
        return slowest
