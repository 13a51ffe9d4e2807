"""The benchmark: `scripts/bench`. The proxy as its user runs it, before a pool and under miners of ours, and what it
takes; docs/benchmark.md tells how each figure is taken."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from karoo import descriptors
from karoo.sim import benchmachine, benchtable
from karoo.sim.benchcases import Cases
from karoo.sim.benchfigures import Figure, Result, ResultError, read
from karoo.sim.benchhelper import Awake, BenchError

GROWTH = (100, 1000, 5000, 10_000, 20_000)
MINERS, SECONDS = 1000, 10.0
GROWTH_SECONDS = 5.0
STORMS = 5
LEAST_MINERS = 10


def measure(sizes: Sequence[int], seconds: float, storms: int) -> Result:
    """A run for each number of miners. Raises BenchError."""
    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)
    with Awake() as awake, tempfile.TemporaryDirectory(prefix="karoo-bench-") as folder:
        facts, runs, loopback = benchmachine.facts(awake.granted), [], [benchmachine.loopback_us()]
        stolen = benchmachine.Stolen()
        for miners in sizes:
            runs.append(Cases(Path(folder), miners, seconds, storms, say).measure())
            loopback.append(benchmachine.loopback_us())
    return Result(facts, Figure.of(loopback).value, stolen.part, runs)


def growth_sizes(room: int | None) -> list[int]:
    """The numbers of miners for which there is room; the last as many as fit."""
    fit = [size for size in GROWTH if room is None or size <= room]
    if room is not None and len(fit) < len(GROWTH) and (most := room // 100 * 100) > max(fit, default=0):
        fit.append(most)
    return fit


def report(result: Result, earlier: Result | None) -> str:
    """What is printed."""
    parts = [benchtable.machine(result)]
    if len(result.runs) > 1:
        parts.append(benchtable.growth(result.runs))
    for run in result.runs:
        before = earlier.run(run.miners) if earlier else None
        if before or len(result.runs) == 1:
            parts.append(f"{run.miners:,} miners, {run.shares:,} shares\n\n"
                         f"{benchtable.compared(run, before) if before else benchtable.table(run)}")
    if earlier:
        parts.append("\n".join(["Ratios are now / earlier. Marked is what differs by more than 10 %; with ? the rounds "
                                "of the two overlap.",
                                *benchtable.differences(result, earlier)]))
    faults = [fault for run in result.runs for fault in run.faults]
    parts.append("\n".join(["NOT WELL:", *faults]) if faults else
                 "Every share was answered once, none was refused, and all that should were at the pool.")
    return "\n\n".join(parts)


def parser() -> argparse.ArgumentParser:
    """The options of the script."""
    options = argparse.ArgumentParser(prog="bench", description="Measure the proxy before a simulated pool, under "
                                      "simulated miners, all on this machine. Ends with 1 if an answer was lost, came "
                                      "twice, or was wrong.")
    options.add_argument("--miners", type=int, metavar="N", help=f"how many (default: {MINERS})")
    options.add_argument("--seconds", type=float, metavar="S",
                         help=f"of each case (default: {SECONDS:g}; with --growth {GROWTH_SECONDS:g})")
    options.add_argument("--growth", action="store_true", help=f"measure {listed(GROWTH)} miners, as far as the "
                         "limit of open files goes")
    options.add_argument("--out", type=Path, metavar="FILE", help="write the result to a JSON file")
    options.add_argument("--compare", type=Path, metavar="EARLIER", help="show an earlier result beside this one")
    options.add_argument("--picture", type=Path, metavar="FILE", help="draw it, .svg or .png (default with --growth: "
                         "growth.svg)")
    return options


def checked(options: argparse.Namespace) -> tuple[list[int], float, Result | None]:
    """The sizes, the seconds and the earlier result that are asked for. Ends the program, with 2, where they make no
    sense."""
    room = descriptors.room()
    if options.growth and options.miners is not None:
        parser().error("--growth says itself how many miners: leave --miners out")
    sizes = growth_sizes(room) if options.growth else [MINERS if options.miners is None else options.miners]
    seconds = options.seconds if options.seconds is not None else GROWTH_SECONDS if options.growth else SECONDS
    if not sizes or min(sizes) < LEAST_MINERS or (room is not None and max(sizes) > room):
        parser().error(f"--miners must be from {LEAST_MINERS} to {room}: what the limit of open files (ulimit -n) "
                       "leaves room for")
    if not 0 < seconds <= 600:
        parser().error("--seconds must be above 0, and 600 at most")
    if options.picture and options.picture.suffix not in (".svg", ".png"):
        parser().error("--picture must end in .svg or .png")
    try:
        earlier = read(options.compare) if options.compare else None
    except ResultError as fault:
        parser().error(str(fault))
    if earlier and not any(earlier.run(size) for size in sizes):
        parser().error(f"{options.compare} was taken with {listed(run.miners for run in earlier.runs)} miners, and not "
                       f"with {listed(sizes)}")
    return sizes, seconds, earlier


def listed(sizes: Iterable[int]) -> str:
    return ", ".join(f"{size:,}" for size in sizes)


def draw(path: Path, result: Result, earlier: Result | None) -> None:
    """The picture."""
    from karoo.sim import benchpicture  # needs matplotlib, which is among the tools for tests only
    if len(result.runs) > 1:
        benchpicture.growth(path, result)
    else:
        benchpicture.run(path, result.runs[0], earlier.run(result.runs[0].miners) if earlier else None)


def main(arguments: list[str] | None = None) -> int:
    """The script; returns its exit status."""
    options = parser().parse_args(arguments)
    descriptors.raise_limit()
    sizes, seconds, earlier = checked(options)
    try:
        result = measure(sizes, seconds, 1 if options.growth else STORMS)
        print(report(result, earlier))
        if options.out:
            result.write(options.out)
        if options.growth or options.picture:
            draw(options.picture or Path("growth.svg"), result, earlier)
    except (BenchError, OSError) as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 1 if any(run.faults for run in result.runs) else 0


if __name__ == "__main__":
    sys.exit(main())
