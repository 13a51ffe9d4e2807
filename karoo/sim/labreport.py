"""The vardiff laboratory's table and picture: `scripts/vardiff-lab`."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from karoo.policy.tuner import Tuner
from karoo.policy.vardiff import Former, Vardiff
from karoo.sim import lab
from karoo.stratum import difficulty as dif

APPLIED = {True: "at once", False: "next job"}
SESSIONS = 10_000
# Of the runs from any start, so many have to be right: what is told from a count of random events is never certain.
PART_NEAR = 0.98  # one run may always miss


@dataclass(frozen=True)
class Row:
    """One property; `holds` is None where nothing is asked, and the number is for information."""

    name: str
    asked: str
    measured: str
    holds: bool | None = None


def rows(measured: lab.Measurements) -> Iterator[Row]:
    """Every property, measured one after the other."""
    for at_once in APPLIED:
        yield from _converged(measured, at_once)
        yield _recovered(measured, at_once)
    for at_once in APPLIED:
        yield from _steady(measured, at_once)
    for factor in (2.0, 0.5):
        for at_once in APPLIED:
            yield from _followed(measured, factor, at_once)
    yield _limits(measured)
    yield Row("(e) shares refused", "0", f"{measured.refused:,} of {measured.shares:,} at {measured.changes:,} changes",
              measured.refused == 0)
    yield Row(f"    cost of a look at {SESSIONS:,} settled sessions", "", f"{sweep_ms():.0f} ms")


def _converged(measured: lab.Measurements, at_once: bool) -> Iterator[Row]:
    due = "90 s or 20 shares" if at_once else "3 jobs more"
    for powers in (range(-6, -3), range(-3, 0), range(0, 1), range(1, 4), range(4, 7)):
        parts = [measured.converged(power, at_once) for power in powers]
        span = f"10^{powers[0]} .. 10^{powers[-1]}" if len(powers) > 1 else f"10^{powers[0]}"
        missed = round((1.0 - min(parts)) * measured.seeds)
        yield Row(f"(a) within {lab.NEAR:g}x after {due}, from {span}x ({APPLIED[at_once]})",
                  f">= {PART_NEAR:.0%} of runs", " / ".join(f"{100 * part:g}%" for part in parts),
                  missed <= max(1.0, (1.0 - PART_NEAR) * measured.seeds))


def _recovered(measured: lab.Measurements, at_once: bool) -> Row:
    parts = [measured.recovered(power, at_once) for power in (-3, -1, 1, 3)]
    missed = round((1.0 - min(parts)) * measured.seeds)
    return Row(f"(a) the same and a minute, start remembered 10^-3, 10^-1, 10, 10^3x off ({APPLIED[at_once]})",
               f">= {PART_NEAR:.0%} of runs", " / ".join(f"{100 * part:g}%" for part in parts),
               missed <= max(1.0, (1.0 - PART_NEAR) * measured.seeds))


def _steady(measured: lab.Measurements, at_once: bool) -> Iterator[Row]:
    steady = measured.steady(at_once)
    yield Row(f"(b) changes in 10 minutes ({APPLIED[at_once]})", "< 1", f"{steady.changes:.2f}", steady.changes < 1.0)
    yield Row(f"(b) mean share interval, of the target ({APPLIED[at_once]})", "0.90 .. 1.10", f"{steady.interval:.3f}",
              0.9 <= steady.interval <= 1.1)


def _followed(measured: lab.Measurements, factor: float, at_once: bool) -> Iterator[Row]:
    followed = measured.followed(factor, at_once)
    what = f"{'twice' if factor > 1 else 'half'} the speed ({APPLIED[at_once]})"
    yield Row(f"(c) {what}: median time to within {lab.NEAR:g}x", f"median <= {lab.FOLLOW:.0f} s",
              f"{followed.median:.0f} s", followed.median <= lab.FOLLOW)
    yield Row(f"    {what}: typical difficulty after 180 s", "", f"{followed.typical:.2f}x the right one")
    yield Row(f"    {what}: runs that are there within 180 s", "", f"{followed.part:.0%}")


def _limits(measured: lab.Measurements) -> Row:
    before = measured.changes
    wrong = measured.limits()
    text = f"{len(wrong)} of {measured.changes - before:,}" + (f", first {wrong[0]}" if wrong else "")
    return Row("(d) told above the upstream's, out of bounds, or not rounded", "0", text, not wrong)


def sweep_ms() -> float:
    """Milliseconds to look once at each of many settled sessions (every one different), best of five sweeps."""
    sessions = []
    for number in range(SESSIONS):
        tuner = Tuner(lab.POLICY, dif.DIFF1_SHA256D)
        tuner.begin("", Former(1.0, None), 0.0)  # known from a former session: no probe
        tuner.change(1.0, 0, 0.0)
        for share in range(60):
            tuner.learn(0, True, 0, (share + 1) * lab.POLICY.target + number % 7)
        sessions.append(tuner)
    best = math.inf
    for sweep in range(5):
        begun = perf_counter()
        for tuner in sessions:
            tuner.look(0, 910.0 + sweep)
        best = min(best, perf_counter() - begun)
    return best * 1e3


def table(found: list[Row]) -> str:
    """The rows under their headings, in columns."""
    cells = [("property", "asked", "measured", "holds")]
    cells += [(row.name, row.asked, row.measured, {True: "yes", False: "NO", None: ""}[row.holds]) for row in found]
    widths = [max(len(cell[column]) for cell in cells) for column in range(4)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(cell, widths, strict=True)).rstrip() for cell in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def failed(found: list[Row]) -> list[str]:
    """The names of the properties that do not hold."""
    return [row.name.strip() for row in found if row.holds is False]


def measure(seeds: int, hours: float, controller: Callable[[float], Vardiff] = Vardiff,
            progress: Callable[[Row], None] = lambda row: None) -> list[Row]:
    """All rows; `progress` is told of each as it comes."""
    found = []
    for row in rows(lab.Measurements(seeds, hours, controller)):
        progress(row)
        found.append(row)
    return found


def parser() -> argparse.ArgumentParser:
    """The options of the script."""
    options = argparse.ArgumentParser(prog="vardiff-lab", description="Measure the properties of vardiff on simulated "
                                      "miners, and draw what it does. Ends with 1 if a property does not hold.")
    options.add_argument("--seeds", type=int, default=100, metavar="N", help="runs for each case, four "
                         "times as many for a change of speed (default: %(default)s)")
    options.add_argument("--hours", type=float, default=4.0, metavar="H",
                         help="simulated hours of each run in steady state (default: %(default)s)")
    options.add_argument("--quick", action="store_true", help="16 runs for each case: done in seconds, less certain")
    options.add_argument("--picture", type=Path, default=Path("vardiff.svg"), metavar="FILE",
                         help="where the picture goes, .svg or .png (default: %(default)s)")
    options.add_argument("--no-picture", action="store_true", help="only the table")
    return options


def main(arguments: list[str] | None = None) -> int:
    """The script; returns its exit status."""
    options = parser().parse_args(arguments)
    if options.seeds < 1 or options.hours <= 0:
        parser().error("--seeds and --hours must be positive")
    if not options.no_picture and options.picture.suffix not in (".svg", ".png"):
        parser().error("--picture must end in .svg or .png")
    begun, seen = perf_counter(), 0

    def progress(row: Row) -> None:
        nonlocal seen
        seen += 1
        if sys.stderr.isatty():
            print(f"\r\033[K{seen:3} {row.name.strip()}", end="", file=sys.stderr, flush=True)

    found = measure(16 if options.quick else options.seeds, options.hours, progress=progress)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    print(table(found))
    if not options.no_picture:
        from karoo.sim.labpicture import draw
        try:
            draw(options.picture)
        except ImportError as missing:
            print(f"vardiff-lab: no picture: {missing}. Install the tools: pip install -r requirements-dev.txt "
                  "(or leave it out: --no-picture)", file=sys.stderr)
            return 2
        print(f"\npicture: {options.picture}")
    bad = failed(found)
    print(f"\n{f'DOES NOT HOLD: {len(bad)}' if bad else 'everything asked holds'} "
          f"({perf_counter() - begun:.0f} s)")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
