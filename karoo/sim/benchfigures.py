"""The figures of a benchmark: what they mean, their statistics, and the file that keeps them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1
ANSWER_RATE = 500  # shares a second for which answer times are told


@dataclass(frozen=True, slots=True)
class Meaning:
    """A figure's title in the table, its unit, and whether more of it is better."""

    title: str
    unit: str
    more_is_better: bool = False


MEANINGS: dict[str, Meaning] = {
    "job_half": Meaning("a new block, until half of the miners have it", "ms"),
    "job_99": Meaning("a new block, until 99 % have it", "ms"),
    "job_all": Meaning("a new block, until all have it", "ms"),
    "job_cpu": Meaning("CPU a job and miner", "us"),
    "forwarded_cpu": Meaning("CPU a share that goes to the pool", "us"),
    "forwarded_rate": Meaning("such shares a second that one core carries", "", more_is_better=True),
    "here_cpu": Meaning("CPU a share that is answered here", "us"),
    "here_rate": Meaning("such shares a second that one core carries", "", more_is_better=True),
    "answer_half": Meaning(f"answer to a share at {ANSWER_RATE} a second, half of them", "us"),
    "answer_99": Meaning("the same, 99 % of them", "us"),
    "answer_unread_99": Meaning("the same, the proxy with a processor to itself", "us"),
    "answer_read_99": Meaning("the same, while all its pages are read", "us"),
    "answer_pages_99": Meaning("what reading them adds", "ms"),
    "pages_rate": Meaning("pages read a second meanwhile", "", more_is_better=True),
    "answer_job": Meaning("worst answer while a job goes out", "ms"),
    "storm": Meaning("all miners at once, until each has a job", "ms"),
    "storm_cpu": Meaning("CPU a miner that comes", "us"),
    "memory_quiet": Meaning("resident memory a connection, quiet", "kB"),
    "memory_busy": Meaning("the same, after each sent some shares", "kB"),
}
# Lines that a picture draws: at 0, 1, ... 100 %
CURVES = ("job", "answer")


class ResultError(Exception):
    """A file holds no result of a benchmark; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Figure:
    """The median of some rounds, and the least and the most of them."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, rounds: Sequence[float]) -> Figure:
        """Of one round at least."""
        ordered = sorted(rounds)
        return cls(percentile(ordered, 50), ordered[0], ordered[-1])

    def inverse(self, scale: float) -> Figure:
        """So much divided by each."""
        return Figure(scale / self.value, scale / self.high, scale / self.low)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The value, of ascending ones, that so many percent do not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def curve(values: Sequence[float]) -> list[float]:
    """The percentiles from 0 to 100."""
    ordered = sorted(values)
    return [percentile(ordered, percent) for percent in range(101)]


def median_curve(curves: Sequence[Sequence[float]]) -> list[float]:
    """The median of some curves at each of their points."""
    return [percentile(sorted(values), 50) for values in zip(*curves, strict=True)]


@dataclass(slots=True)
class Run:
    """So many miners measured. ``faults`` says in words what was lost; it should be empty."""

    miners: int
    shares: int = 0
    figures: dict[str, Figure] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Result:
    """What a file holds: the machine in words, how fast it was just then (a round trip over loopback, in
    microseconds), which part of the processors' time a hypervisor gave to others meanwhile, and a run for each number
    of miners."""

    machine: dict[str, Any]
    loopback_us: float
    stolen: float
    runs: list[Run]

    def run(self, miners: int) -> Run | None:
        """The one with so many miners."""
        return next((run for run in self.runs if run.miners == miners), None)

    def write(self, path: Path) -> None:
        """Raises OSError."""
        runs = [{"miners": run.miners, "shares": run.shares, "faults": run.faults, "curves": run.curves,
                 "figures": {name: [one.value, one.low, one.high] for name, one in run.figures.items()}}
                for run in self.runs]
        path.write_text(json.dumps({"karoo_bench": FORMAT, "machine": self.machine, "loopback_us": self.loopback_us,
                                    "stolen": self.stolen, "runs": runs}) + "\n")


def read(path: Path) -> Result:
    """The result in a file. Raises ResultError."""
    try:
        found = json.loads(path.read_text())
    except OSError as failure:
        raise ResultError(f"{path} cannot be read: {failure.strerror or failure}") from None
    except ValueError:
        raise ResultError(f"{path} holds no JSON: it is not a result that --out wrote") from None
    if not isinstance(found, dict) or "karoo_bench" not in found:
        raise ResultError(f"{path} is not a result that --out wrote")
    if found["karoo_bench"] != FORMAT:
        raise ResultError(f"{path} is of format {found['karoo_bench']!r}, and this program reads {FORMAT} only")
    try:
        return Result(_table(found["machine"]), _number(found["loopback_us"]), _number(found["stolen"]),
                      [_run(one) for one in found["runs"]])
    except (KeyError, TypeError, ValueError) as fault:
        raise ResultError(f"{path} is damaged: {type(fault).__name__}: {fault}") from None


def _run(found: dict[str, Any]) -> Run:
    figures = {}
    for name, numbers in _table(found["figures"]).items():
        value, low, high = (_number(one) for one in numbers)
        if not 0 < low <= value <= high:
            raise ValueError(f"{name} is {numbers}")
        figures[name] = Figure(value, low, high)
    curves = {name: [_number(one) for one in points] for name, points in _table(found["curves"]).items()}
    return Run(int(found["miners"]), int(found["shares"]), figures, curves, [str(one) for one in found["faults"]])


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r:.50} is no table")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{value!r:.50} is no number")
    return float(value)
