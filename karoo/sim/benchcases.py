"""The benchmark's cases: one number of miners before the proxy, from its start to all figures."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

import gevent

from karoo.sim.benchfigures import ANSWER_RATE, Figure, Run, curve, median_curve, percentile
from karoo.sim.benchhelper import BenchError, Helper, cpu_seconds, keep_to
from karoo.sim.proxyprocess import LOOK_EVERY, ProxyProcess

EVERY_HASH = 1e-10  # a difficulty that every hash reaches, so that no miner has to search
OUT_OF_REACH = 1e6
SOME_SHARES = 3  # of each miner, after which memory is looked at again
ROUNDS = 5  # of what is measured for a given time
JOBS_LEAST, JOBS_MOST = 3, 100
PROBE_RATE = 1000  # shares a second while a job goes out
MOST_READING = 60.0  # seconds beyond those of the case until each page was read once
LEAVE_SECONDS = 60.0  # the longest that the proxy may take to notice that miners left

Say = Callable[[str], None]


class Site:
    """A pool, the proxy before it, and one miner that keeps the pool connected. With `forwarded` every share goes to
    the pool; else none, since its difficulty is out of reach."""

    def __init__(self, folder: Path, miners: int, forwarded: bool) -> None:
        self.miners, self.forwarded = miners, forwarded
        self._folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Site:
        with ExitStack() as stack:
            self._folder.mkdir()
            self.pool = stack.enter_context(
                Helper("karoo.sim.benchpool", EVERY_HASH if self.forwarded else OUT_OF_REACH))
            try:
                self.proxy = ProxyProcess(self._folder, self._settings(self.pool.take()))
            except RuntimeError as failure:
                raise BenchError(str(failure)) from None
            stack.callback(self.proxy.stop)
            self.load = stack.enter_context(Helper("karoo.sim.benchload", self.proxy.port))
            self.load.call("connect", 1)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._stack.close()

    def _settings(self, pool_port: int) -> dict[str, Any]:
        vardiff: dict[str, Any] = {"enabled": False}  # everybody has the pool's difficulty
        if not self.forwarded:
            vardiff = dict.fromkeys(("start_diff", "min_diff", "max_diff"), EVERY_HASH)
        return {"proxy": {"listen": "127.0.0.1:0", "max_clients": self.miners + 10},
                "http": {"listen": "127.0.0.1:0"}, "upstream": {"host": "127.0.0.1", "port": pool_port, "user": "w"},
                "vardiff": vardiff, "ratelimit": {"enabled": False}, "log": {"report_every_seconds": 0}}

    # ------------------------------------------------------------------ what it takes

    @property
    def cpu(self) -> float:
        """Seconds of processor time that the proxy has taken."""
        return cpu_seconds(self.proxy.pid)

    def storm(self) -> tuple[list[float], float]:
        """All miners but the first come at once: the seconds until each had a job, and the processor time of the proxy
        for each."""
        cpu = self.cpu
        waits = self.load.call("connect", self.miners - 1, seconds=90.0)
        return waits, (self.cpu - cpu) / len(waits)

    def leave(self) -> None:
        """All but the first leave, and the proxy notices."""
        self.load.call("leave", 1)
        until = monotonic() + LEAVE_SECONDS
        while (left := self.proxy.status()["sessions"]) != 1:
            if monotonic() > until:
                raise BenchError(f"the proxy still has {left} sessions {LEAVE_SECONDS:g} s after all but one left")
            gevent.sleep(LOOK_EVERY)

    @contextmanager
    def apart(self, *more: Helper) -> Iterator[None]:
        """The proxy alone on a processor, where there is another one for the rest, `more` helpers among it."""
        processors = sorted(os.sched_getaffinity(0))
        others = [self.pool.pid, self.load.pid, *(helper.pid for helper in more)]
        if len(processors) > 1:
            keep_to(self.proxy.pid, set(processors[:1]))
            for pid in others:
                keep_to(pid, set(processors[1:]))
        try:
            yield
        finally:
            for pid in (self.proxy.pid, *others):
                keep_to(pid, set(processors))

    def flood(self, seconds: float) -> dict[str, float]:
        """All miners at full speed, the proxy alone on a processor where there is another one for the rest."""
        with self.apart():
            measured: dict[str, float] = self.load.call("flood", seconds, self.proxy.pid, seconds=seconds + 60)
        return measured

    def answers(self, seconds: float) -> list[float]:
        """How long each answer took at ANSWER_RATE shares a second, in microseconds."""
        return [wait * 1e6 for wait in self.load.call("rate", ANSWER_RATE, seconds, seconds=seconds + 60)]

    def faults(self) -> tuple[int, list[str]]:
        """How many shares were sent, and what became of them that should not have, in words."""
        books = self.load.call("books")
        taken, wrong = self.pool.call("check", seconds=600.0)
        found = faults_of(books, taken if self.forwarded else None, wrong)
        if exceptions := self.proxy.status()["exceptions"]:
            found.append(f"{exceptions} bugs met by the proxy")
        where = "shares to the pool" if self.forwarded else "shares answered here"
        return books["sent"], [f"{self.miners:,} miners, {where}: {fault}" for fault in found]


class Cases:
    """Measures so many miners. Each case is loaded for about so many seconds; `say` is told what is measured."""

    def __init__(self, folder: Path, miners: int, seconds: float, storms: int, say: Say) -> None:
        self.run = Run(miners)
        self._folder, self._seconds, self._storms = folder, seconds, storms
        self._say = say

    def measure(self) -> Run:
        """All of them. Raises BenchError."""
        with Site(self._folder / f"{self.run.miners}-forwarded", self.run.miners, forwarded=True) as site:
            storms = [self._arrival(site)]
            self._jobs(site)
            self._answers(site)
            self._answers_and_pages(site)
            self._answers_in_jobs(site)
            self._shares(site, "forwarded")
            self._more_storms(site, storms)
            self._close(site)
        with Site(self._folder / f"{self.run.miners}-here", self.run.miners, forwarded=False) as site:
            site.storm()
            site.load.call("each", SOME_SHARES)
            self._shares(site, "here")
            self._close(site)
        return self.run

    def _tell(self, text: str) -> None:
        self._say(f"{self.run.miners:,} miners: {text}")

    def _close(self, site: Site) -> None:
        shares, faults = site.faults()
        self.run.shares += shares
        self.run.faults += faults

    def _arrival(self, site: Site) -> tuple[float, float]:
        """A storm on a proxy that is as new, and the memory that it takes."""
        self._tell("storm and memory")
        more = site.miners - 1
        empty = site.proxy.resident
        waits, cpu = site.storm()
        quiet = (site.proxy.resident - empty) / more / 1e3
        site.load.call("each", SOME_SHARES)
        busy = (site.proxy.resident - empty) / more / 1e3
        for name, size in (("memory_quiet", quiet), ("memory_busy", busy)):
            if size > 0:  # of very few miners it is lost in what the process has to spare
                self.run.figures[name] = Figure.of([size])
        return max(waits), cpu

    def _more_storms(self, site: Site, storms: list[tuple[float, float]]) -> None:
        for _ in range(self._storms - 1):
            self._tell("storm")
            site.leave()
            waits, cpu = site.storm()
            storms.append((max(waits), cpu))
        self.run.figures["storm"] = Figure.of([wait * 1e3 for wait, _ in storms])
        self.run.figures["storm_cpu"] = Figure.of([cpu * 1e6 for _, cpu in storms])

    def _until_enough(self) -> Callable[[int], bool]:
        """Whether so many jobs are enough."""
        until = monotonic() + self._seconds
        return lambda jobs: jobs >= JOBS_LEAST and (jobs >= JOBS_MOST or monotonic() >= until)

    def _jobs(self, site: Site) -> None:
        self._tell("jobs")
        enough, cpu, curves = self._until_enough(), list[float](), list[list[float]]()
        parts: dict[str, list[float]] = {"job_half": [], "job_99": [], "job_all": []}
        while not enough(len(cpu)):
            before = site.cpu
            waits = sorted(wait * 1e3 for wait in site.load.call("collect", site.pool.call("job", True)))
            cpu.append((site.cpu - before) / site.miners * 1e6)
            curves.append(curve(waits))
            for name, percent in (("job_half", 50), ("job_99", 99), ("job_all", 100)):
                parts[name].append(percentile(waits, percent))
        self.run.figures |= {name: Figure.of(rounds) for name, rounds in parts.items()}
        self.run.figures["job_cpu"] = Figure.of(cpu)
        self.run.curves["job"] = median_curve(curves)

    def _answers(self, site: Site) -> None:
        self._tell("answers")
        curves = [curve(site.answers(self._seconds / ROUNDS)) for _ in range(ROUNDS)]
        self.run.figures["answer_half"] = Figure.of([one[50] for one in curves])
        self.run.figures["answer_99"] = Figure.of([one[99] for one in curves])
        self.run.curves["answer"] = median_curve(curves)

    def _answers_and_pages(self, site: Site) -> None:
        """Rounds without a reader of pages and with one in turn, until it has read all of them."""
        self._tell("answers while pages are read")
        alone, beside, rates, faults = list[float](), list[float](), list[float](), Counter[str]()
        with Helper("karoo.sim.benchreader", site.proxy.http_port) as reader, site.apart(reader):
            until = monotonic() + self._seconds + MOST_READING
            while len(alone) < ROUNDS or (reader.call("unread") and monotonic() < until):
                alone.append(percentile(sorted(site.answers(self._seconds / ROUNDS)), 99))
                reader.call("begin")
                beside.append(percentile(sorted(site.answers(self._seconds / ROUNDS)), 99))
                read = reader.call("end", seconds=120.0)
                rates.append(read["pages"] / read["seconds"])
                faults.update(read["faults"])
            if unread := reader.call("unread"):
                faults[f"{unread} were not read in time"] += 1
        self.run.faults += [f"{self.run.miners:,} miners, pages: {fault}" for fault in faults]
        self.run.figures |= {
            "answer_unread_99": Figure.of(alone), "answer_read_99": Figure.of(beside), "pages_rate": Figure.of(rates),
            "answer_pages_99": Figure.of([added(*both) / 1e3 for both in zip(alone, beside, strict=True)])}

    def _answers_in_jobs(self, site: Site) -> None:
        self._tell("answers while a job goes out")
        enough, worst = self._until_enough(), list[float]()
        while not enough(len(worst)):
            site.load.begin("probe", PROBE_RATE)
            site.load.take()
            since = site.pool.call("job", False)  # not clean: shares of the former job count on
            probed = site.load.take()
            worst.append(worst_wait(probed["shares"], since, probed["last"]) * 1e3)
        self.run.figures["answer_job"] = Figure.of(worst)

    def _shares(self, site: Site, name: str) -> None:
        self._tell("shares to the pool" if site.forwarded else "shares answered here")
        rounds = [site.flood(self._seconds / ROUNDS) for _ in range(ROUNDS)]
        if not all(one["shares"] for one in rounds):
            raise BenchError("no share was answered")
        cpu = Figure.of([one["cpu"] / one["shares"] * 1e6 for one in rounds])
        self.run.figures |= {f"{name}_cpu": cpu, f"{name}_rate": cpu.inverse(1e6)}


def faults_of(books: dict[str, Any], taken: int | None, wrong: dict[str, int]) -> list[str]:
    """What is wrong with the miners' books beside the pool's, in words: `taken` shares were right there (None: it was
    to get none), and the `wrong` ones were not, by reason."""
    found = [f"{books[what]} {words}" for what, words in
             (("lost", "answers lost"), ("doubled", "answers that nobody waited for")) if books[what]]
    found += [f"{count} shares refused: {reason}" for reason, count in books["refused"].items()]
    found += [f"{count} shares at the pool that it would not have taken: {reason}" for reason, count in wrong.items()]
    if taken is not None and taken != books["accepted"]:
        found.append(f"{books['accepted']} shares told true, and the pool took {taken}")
    return found


def added(alone: float, beside: float) -> float:
    """What comes to the time of an answer, in microseconds; 1 at least, since less is not to be measured, and what is
    nothing or below has no ratio."""
    return max(beside - alone, 1.0)


def worst_wait(shares: list[tuple[int, float]], since: int, last: int) -> float:
    """Seconds that the slowest answer took of the shares (when sent, how long) that were under way between two times,
    in nanoseconds; where there was none, of the nearest one."""
    during = [wait for sent, wait in shares if sent <= last and sent + wait * 1e9 >= since]
    return max(during) if during else min(shares, key=lambda share: abs(share[0] - since))[1]
