"""What the benchmark's miners do, as a process of its own: come in a storm, wait for a job, send shares at full speed
or at a rate."""

from __future__ import annotations

import itertools
import select
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from karoo import descriptors
from karoo.sim.benchhelper import BenchError, cpu_seconds, obey, tell
from karoo.sim.benchswarm import PATIENCE, Miner, Swarm

LOOK_EVERY = 0.01  # seconds between two looks whether all have a job, by who must not disturb its way to them
PROBERS = 100  # miners, at most, that send shares while a job goes out
SAMPLE = 200  # miners, at most, that are looked at: to look at thousands would disturb too
SHARES_BEFORE = 20  # of them that are answered before it does


class Load:
    """Each method is a command; times are in seconds where nothing else is said."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm

    def connect(self, count: int) -> list[float]:
        """So many more miners at once: how long it took until each had a job."""
        began = time.time_ns()
        return [(miner.job_at - began) / 1e9 for miner in self._swarm.connect(count)]

    def leave(self, keep: int) -> None:
        """All but the first ones leave."""
        self._swarm.leave(keep)

    def each(self, shares: int) -> None:
        """Each miner sends so many shares, one after the other."""
        for _ in range(shares):
            for miner in self._swarm.miners:
                self._swarm.share(miner)
            self._swarm.settle()

    def books(self) -> dict[str, Any]:
        """What became of all shares."""
        return self._swarm.books

    # ------------------------------------------------------------------ shares

    def flood(self, seconds: float, pid: int) -> dict[str, float]:
        """Each miner sends a share as soon as its former one is answered: how many were answered in about so many
        seconds, in how long exactly, and for how much processor time of the process `pid`."""
        swarm = self._swarm
        for miner in swarm.miners:
            swarm.share(miner)
        self._flood_until(swarm.answered + len(swarm.miners), time.monotonic() + PATIENCE)  # all of them are under way
        answered, began, cpu = swarm.answered, time.monotonic(), cpu_seconds(pid)
        self._flood_until(sys.maxsize, began + seconds)
        measured = {"shares": swarm.answered - answered, "seconds": time.monotonic() - began,
                    "cpu": cpu_seconds(pid) - cpu}
        swarm.settle()
        return measured

    def _flood_until(self, answered: int, until: float) -> None:
        swarm = self._swarm
        take, share, poll, miners = swarm.take, swarm.share, swarm.epoll.poll, swarm.by_descriptor
        while swarm.answered < answered and time.monotonic() < until:
            for descriptor, _ in poll(0.1, 64):
                miner = miners[descriptor]
                for _ in range(take(miner)):
                    share(miner)

    def rate(self, a_second: float, seconds: float) -> list[float]:
        """All miners in turn send shares, so many a second whatever the answers: how long each took."""
        swarm = self._swarm
        swarm.waits = []
        turn, now = itertools.cycle(swarm.miners), time.monotonic()
        due, until = now, now + seconds
        while now < until:
            if now >= due:
                swarm.share(next(turn))
                due += 1 / a_second
            swarm.turn(max(0.0, min(due, until) - time.monotonic()), stamped=True)
            now = time.monotonic()
        swarm.settle()
        waits, swarm.waits = swarm.waits, None
        return [wait / 1e9 for _, wait in waits]

    # ------------------------------------------------------------------ jobs

    def collect(self, since: int) -> list[float]:
        """Wait for the job that the pool sent at `since` (Unix nanoseconds): how long it took to each miner. They
        sleep meanwhile, and ask the kernel afterwards."""
        until = time.monotonic() + PATIENCE
        with Sample(self._swarm.miners) as sample:
            while not sample.has_heard() and time.monotonic() < until:
                time.sleep(LOOK_EVERY)
        self._gather(since)
        return [(miner.job_at - since) / 1e9 for miner in self._swarm.miners]

    def _gather(self, since: int) -> None:
        """Read on until everybody has a job that came since then."""
        until, without = time.monotonic() + PATIENCE, self._swarm.miners
        while without := [miner for miner in without if miner.job_at < since]:
            if time.monotonic() > until:
                raise BenchError(f"{len(without)} of {len(self._swarm.miners)} miners had no job in {PATIENCE:g} s")
            self._swarm.turn(0.1, stamped=True)

    def probe(self, a_second: float) -> dict[str, Any]:
        """Some miners send shares, so many a second, until all miners have a new job; tells when to send that. When
        each share was sent (Unix nanoseconds), and how long its answer took; and when the last miner had the job."""
        swarm, began = self._swarm, time.time_ns()
        step = max(2, len(swarm.miners) // PROBERS)
        probers = swarm.miners[::step]
        others = [miner for number, miner in enumerate(swarm.miners) if number % step]
        swarm.waits = []
        with watched(probers) as near, Sample(others) as sample:
            self._probe(a_second, probers, near, sample)
        self._gather(began)
        swarm.settle()
        waits, swarm.waits = swarm.waits, None
        return {"shares": [(sent, wait / 1e9) for sent, wait in waits],
                "last": max(miner.job_at for miner in swarm.miners)}

    def _probe(self, a_second: float, probers: Sequence[Miner], near: select.epoll, sample: Sample) -> None:
        swarm = self._swarm
        turn, now = itertools.cycle(probers), time.monotonic()
        due = look = now
        answered, until, told = swarm.answered + SHARES_BEFORE, now + PATIENCE, False
        while now < until:
            if now >= due:
                swarm.share(next(turn))
                due += 1 / a_second
            for descriptor, _ in near.poll(max(0.0, due - time.monotonic()), PROBERS):
                swarm.take(swarm.by_descriptor[descriptor], stamped=True)
            now = time.monotonic()
            if not told and swarm.answered >= answered:
                told = True
                tell("begun")
            elif told and now >= look:
                if sample.has_heard():
                    return
                look = now + LOOK_EVERY
        raise BenchError(f"no job for all miners within {PATIENCE:g} s")


class Sample:
    """Some miners of all, the last among them, that nobody reads from meanwhile."""

    def __init__(self, miners: Sequence[Miner]) -> None:
        self._miners = miners[::-max(1, len(miners) // SAMPLE)]

    def __enter__(self) -> Sample:
        self._epoll = watched(self._miners)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._epoll.close()

    def has_heard(self) -> bool:
        """Whether something waits for each of them."""
        return len(self._epoll.poll(0, len(self._miners))) == len(self._miners)


def watched(miners: Sequence[Miner]) -> select.epoll:
    epoll = select.epoll()
    for miner in miners:
        epoll.register(miner.sock, select.EPOLLIN)
    return epoll


def main() -> None:
    """The process: its arguments are those of a Swarm."""
    descriptors.raise_limit()
    load = Load(Swarm(int(sys.argv[1]), *map(float, sys.argv[2:])))
    commands = {name: getattr(load, name) for name in
                ("connect", "leave", "each", "books", "flood", "rate", "collect", "probe")}
    for line in sys.stdin:
        obey(commands, line)


if __name__ == "__main__":
    main()
