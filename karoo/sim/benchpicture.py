"""The benchmark's pictures: how soon a block and an answer are there, and what grows with the miners.

Importing it raises ImportError where matplotlib is missing, which is among the tools for tests and checks only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from karoo.sim import picture
from karoo.sim.benchfigures import ANSWER_RATE, Result, Run

BLUE, ORANGE = "#2b8cc4", "#d9772f"  # seen on white and on near black
EARLIER = picture.GREY

# For each part of the growth: its title, the unit of the figures, whether both its axes are logarithmic, and the
# figures with their names and colours
Line = tuple[str, str, str]
GROWTH: tuple[tuple[str, str, bool, tuple[Line, ...]], ...] = (
    ("CPU a share", "us", False, (("forwarded_cpu", "goes to the pool", BLUE), ("here_cpu", "answered here", ORANGE))),
    ("CPU a job and miner", "us", False, (("job_cpu", "", BLUE),)),
    ("resident memory a connection", "kB", False,
     (("memory_busy", "after some shares", BLUE), ("memory_quiet", "quiet", ORANGE))),
    ("a new block, until it has reached", "ms", True,
     (("job_99", "99 % of the miners", BLUE), ("job_half", "half of them", ORANGE))),
)


def run(path: Path, now: Run, earlier: Run | None) -> None:
    """Write the picture of a run, the earlier one behind it, as SVG or PNG by the name of the file."""
    with picture.style("bench", **picture.NEUTRAL):
        drawing = Drawing(figsize=(12, 3.6), layout="constrained")
        block, answer, rates = drawing.subplots(1, 3)
        _curves(block, "job", now, earlier, 100)
        block.set_title("a new block at the pool")
        block.set_xlabel("ms until a miner has it")
        block.set_ylabel("% of the miners")
        _curves(answer, "answer", now, earlier, 99)
        answer.set_title(f"answer to a share, at {ANSWER_RATE} a second")
        answer.set_xlabel("us until the answer is there")
        answer.set_ylabel("% of the shares")
        _rates(rates, now, earlier)
        drawing.suptitle(f"Karoo with {now.miners:,} miners", fontweight="bold")
        picture.save(drawing, path)


def _curves(axes: Any, name: str, now: Run, earlier: Run | None, most: int) -> None:
    drawn = [(now, BLUE, "-", "now")]
    if earlier is not None:
        drawn.insert(0, (earlier, EARLIER, "--", "earlier"))
    for one, colour, dashes, label in drawn:
        points = one.curves.get(name, [])[:most + 1]
        axes.plot(points, range(len(points)), dashes, color=colour, linewidth=1.8, label=label)
    axes.set_ylim(0, 101)
    axes.set_xlim(left=0)
    if earlier is not None:
        axes.legend(frameon=False, loc="lower right")


def _rates(axes: Any, now: Run, earlier: Run | None) -> None:
    names = {"here_rate": "answered here", "forwarded_rate": "to the pool"}
    bars = [(f"{label}{when}", one.figures[name].value, colour)
            for name, label in names.items()
            for one, when, colour in ((earlier, ", earlier", EARLIER), (now, "", BLUE))
            if one is not None and name in one.figures]
    drawn = axes.barh([label for label, _, _ in bars], [value for _, value, _ in bars], height=0.6,
                      color=[colour for _, _, colour in bars])
    axes.bar_label(drawn, labels=[f"{round(value, -2):,.0f}" for _, value, _ in bars], padding=4)
    axes.set_title("shares a second that one core carries")
    axes.margins(x=0.2)
    axes.grid(False)
    axes.xaxis.set_major_locator(NullLocator())
    axes.spines["bottom"].set_visible(False)


def growth(path: Path, result: Result) -> None:
    """Write the picture of several runs, likewise."""
    with picture.style("growth", **picture.NEUTRAL):
        drawing = Drawing(figsize=(10, 6.4), layout="constrained")
        parts = drawing.subplots(2, 2).flat
        for axes, (title, unit, both, lines) in zip(parts, GROWTH, strict=True):
            for name, label, colour in lines:
                _line(axes, result.runs, name, label, colour)
            _axes(axes, [one.miners for one in result.runs], both)
            axes.set_title(title)
            axes.set_ylabel(unit)
            if len(lines) > 1:
                axes.legend(frameon=False, loc="best")
        drawing.supxlabel("shaded: from the lowest to the highest round", fontsize=8)
        drawing.suptitle("What grows with the miners, and what does not", fontsize=12, fontweight="bold")
        picture.save(drawing, path)


def _line(axes: Any, runs: Sequence[Run], name: str, label: str, colour: str) -> None:
    """The medians, and how far the rounds were apart."""
    found = [(one.miners, one.figures[name]) for one in runs if name in one.figures]
    miners = [count for count, _ in found]
    axes.plot(miners, [one.value for _, one in found], "o-", color=colour, linewidth=1.8, markersize=4, label=label)
    axes.fill_between(miners, [one.low for _, one in found], [one.high for _, one in found], color=colour, alpha=0.15,
                      linewidth=0)


def _axes(axes: Any, miners: Sequence[int], both: bool) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(miners))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(plain))
    axes.set_xlabel("miners")
    if both:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(plain))
    else:
        axes.set_ylim(bottom=0)


def plain(value: float, _position: object = None) -> str:
    """A number as people write it."""
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"
