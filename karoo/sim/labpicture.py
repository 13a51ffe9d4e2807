"""The vardiff laboratory's picture: difficulty and share interval over time in a few instructive runs.

Importing it raises ImportError where matplotlib is missing, which is among the tools for tests and checks only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MultipleLocator

from karoo.sim import lab, picture

MINUTE = 60.0
COLOURS = {True: picture.BLUE, False: picture.ORANGE}  # at once, with the next job
NAMES = {True: "applies a change at once", False: "applies it with the next job (every 30 s)"}
RIGHT = picture.GREEN
APART = 0.05  # seconds, at least, between two dots: a flood has more shares than a picture needs


@dataclass(frozen=True)
class Scene:
    """One column: a start (times the right difficulty), and the factor by which the speed changes at minute 20."""

    title: str
    start: float = 1.0
    factor: float = 1.0
    seed: int = 1
    limits: tuple[float, float] = (0.2, 5.0)

    @property
    def origin(self) -> float:
        """The second that is minute 0 of the picture."""
        return lab.SETTLED if self.factor != 1.0 else 0.0

    @property
    def minutes(self) -> tuple[float, float]:
        """From where to where it is shown."""
        return (-4.0, 10.0) if self.factor != 1.0 else (-0.25, 8.0)


SCENES = (
    Scene("start a million times too low", start=1e-6, seed=3, limits=(1e-7, 1e7)),
    Scene("start a million times too high", start=1e6, seed=5, limits=(1e-7, 1e7)),
    Scene("the miner gets twice as fast", factor=2.0, seed=18),
    Scene("the miner gets half as fast", factor=0.5, seed=122),
)


def draw(path: Path) -> None:
    """Write the picture, as SVG or PNG by the name of the file."""
    with picture.style("vardiff"):
        figure = Figure(figsize=(15, 7.2), layout="constrained")
        axes = figure.subplots(2, len(SCENES), sharex="col")
        for column, scene in enumerate(SCENES):
            _scene(scene, axes[0][column], axes[1][column])
        axes[0][0].set_ylabel("difficulty told\n(1 was right at the start)")
        axes[1][0].set_ylabel("seconds between two shares")
        _legend(figure)
        figure.suptitle("Vardiff in the laboratory: one share every 15 s is wanted", fontsize=13, fontweight="bold")
        picture.save(figure, path)


def _scene(scene: Scene, difficulty: Any, interval: Any) -> None:
    measured = lab.Measurements(1, 0.0)
    start, end = scene.minutes
    for at_once in (False, True):
        run = measured.run(scene.seed, scene.start, scene.origin + end * MINUTE, at_once=at_once, factor=scene.factor,
                           since=scene.origin)
        told = [*run.told, (scene.origin + end * MINUTE, run.told[-1][1])]
        difficulty.step([(when - scene.origin) / MINUTE for when, _ in told], [one for _, one in told], where="post",
                        color=COLOURS[at_once], linewidth=1.8, alpha=0.9)
        dots = thinned(intervals(run), scene.origin + start * MINUTE)
        moments = [(when - scene.origin) / MINUTE for when, _ in dots]
        interval.plot(moments, [seconds for _, seconds in dots], ".", color=COLOURS[at_once], markersize=4, alpha=0.5)
        interval.plot(moments, averaged([seconds for _, seconds in dots]), color=COLOURS[at_once], linewidth=1.4)
    right = [(start, 1.0), (0.0, 1.0), (0.0, scene.factor), (end, scene.factor)]
    x, y = [at for at, _ in right], [one for _, one in right]
    difficulty.plot(x, y, "--", color=RIGHT, linewidth=1.2)
    difficulty.fill_between(x, [one / lab.NEAR for one in y], [one * lab.NEAR for one in y], color=RIGHT, alpha=0.13,
                            linewidth=0)
    interval.axhline(lab.POLICY.target, color=RIGHT, linestyle="--", linewidth=1.2)
    _axes(scene, difficulty, interval)


def _axes(scene: Scene, difficulty: Any, interval: Any) -> None:
    difficulty.set_title(scene.title, fontsize=10.5)
    for axes in (difficulty, interval):
        axes.set_yscale("log")
        axes.set_xlim(*scene.minutes)
        axes.minorticks_off()
        for minute in ((3.0,) if scene.factor != 1.0 else (1.5, 3.0)):
            axes.axvline(minute, color=picture.GREY, linestyle=":", linewidth=1.0)
    difficulty.set_ylim(*scene.limits)
    difficulty.set_yticks([10.0 ** power for power in range(-6, 7, 2)] if scene.factor == 1.0 else [0.25, 0.5, 1, 2, 4])
    interval.xaxis.set_major_locator(MultipleLocator(2.0 if scene.factor != 1.0 else 1.0))
    interval.set_xlabel("minutes since the change" if scene.factor != 1.0 else "minutes since the start")
    if scene.factor == 1.0:
        interval.set_ylim(3e-6, 1e3)
    else:
        interval.set_ylim(0.1, 300.0)
    interval.yaxis.set_major_formatter(FuncFormatter(plain))
    difficulty.yaxis.set_major_formatter(FuncFormatter(plain))


def plain(value: float, _position: object = None) -> str:
    """A power of ten as people write it, while that is short."""
    return f"{value:g}" if 1e-3 <= value <= 1e3 else f"$10^{{{round(math.log10(value))}}}$"


def _legend(figure: Figure) -> None:
    handles = [*(Line2D([], [], color=COLOURS[at_once], linewidth=1.8, marker=".", label=f"miner that {NAMES[at_once]}")
                 for at_once in (True, False)),
               Line2D([], [], color=RIGHT, linestyle="--", linewidth=1.2, label="right difficulty, target interval"),
               Patch(color=RIGHT, alpha=0.13, linewidth=0, label=f"within {lab.NEAR:g} times of it"),
               Line2D([], [], color=picture.GREY, marker=".", linewidth=1.4, label="one interval, mean of eight"),
               Line2D([], [], color=picture.GREY, linestyle=":", linewidth=1.0,
                      label="due: after 90 s at once, 180 s with jobs; 3 min after a change")]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)


def intervals(run: lab.Run) -> list[tuple[float, float]]:
    """(time, seconds since the share before); of a flood its mean, once."""
    single = [(later, later - earlier) for earlier, later in zip(run.shares, run.shares[1:], strict=False)
              if later > earlier and not any(start < later <= end for start, end, _ in run.floods)]
    return sorted([*single, *((end, (end - start) / count) for start, end, count in run.floods)])


def averaged(seconds: list[float]) -> list[float]:
    """The mean of each and those before it, eight in all."""
    return [sum(some) / len(some) for some in (seconds[max(0, end - 8):end] for end in range(1, len(seconds) + 1))]


def thinned(points: Iterable[tuple[float, float]], since: float) -> list[tuple[float, float]]:
    """Those from a moment on; where they come thick, one for each stretch of time."""
    shown: list[tuple[float, float]] = []
    for point in points:
        if point[0] >= since and (not shown or point[0] - shown[-1][0] > APART):
            shown.append(point)
    return shown
