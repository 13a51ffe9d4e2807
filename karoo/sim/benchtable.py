"""A benchmark's figures as text: the table, with an earlier result beside it, and the growth with the miners."""

from __future__ import annotations

from collections.abc import Sequence

from karoo.sim.benchfigures import MEANINGS, Figure, Meaning, Result, Run

MARKED = 0.10  # what differs by more than this part is marked
STOLEN = 0.01  # the part of the processors' time from which on it is told that it was taken away

GROWTH = {  # of the figures, with the heading of each
    "forwarded_cpu": "CPU a share, to the pool", "here_cpu": "CPU a share, answered here",
    "job_cpu": "CPU a job and miner", "job_99": "a new block, 99 % have it", "answer_99": "answer, 99 %",
    "storm": "storm", "memory_quiet": "memory, quiet", "memory_busy": "memory, busy",
}


def number(value: float) -> str:
    """As many digits as are worth reading."""
    if value >= 10_000:
        return f"{round(value, -2):,.0f}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def with_unit(value: float, meaning: Meaning) -> str:
    return f"{number(value)} {meaning.unit}".rstrip()


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equal length under a heading, the first column to the left and numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]),
                        *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]).rstrip()
             for row in rows]
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)


def table(run: Run) -> str:
    """All figures, with the least and the most of the rounds."""
    rows = [("figure", "median", "lowest", "highest")]
    for name, meaning in MEANINGS.items():
        if one := run.figures.get(name):
            rows.append((meaning.title, with_unit(one.value, meaning), number(one.low), number(one.high)))
    return columns(rows)


def compared(now: Run, earlier: Run) -> str:
    """The figures of both, the ratio, and a mark at what differs by more than MARKED."""
    rows = [["figure", "earlier", "now", "ratio", ""]]
    for name, meaning in MEANINGS.items():
        new, old = now.figures.get(name), earlier.figures.get(name)
        if new is None and old is None:
            continue
        cells = [with_unit(one.value, meaning) if one else "-" for one in (old, new)]
        ratio = f"{new.value / old.value:.2f}" if new and old else "-"
        rows.append([meaning.title, *cells, ratio, mark(meaning, old, new)])
    return columns(rows)


def mark(meaning: Meaning, old: Figure | None, new: Figure | None) -> str:
    """`better` or `WORSE`; `?` behind it where the rounds of the two overlap, so that it may be noise."""
    if old is None or new is None or abs(new.value / old.value - 1) <= MARKED:
        return ""
    overlap = new.low <= old.high and old.low <= new.high
    return ("better" if (new.value > old.value) == meaning.more_is_better else "WORSE") + ("?" if overlap else "")


def growth(runs: Sequence[Run]) -> str:
    """A row for each number of miners, as a table in Markdown."""
    lines = ["| miners | " + " | ".join(GROWTH.values()) + " |", "| ---: |" + " ---: |" * len(GROWTH)]
    for run in runs:
        cells = [with_unit(run.figures[name].value, MEANINGS[name]) if name in run.figures else "-" for name in GROWTH]
        lines.append(f"| {run.miners:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machine(result: Result) -> str:
    """Where it was measured, and how well that went."""
    lines = [", ".join(f"{name} {value}" for name, value in result.machine.items())]
    if result.stolen > STOLEN:
        lines.append(f"The hypervisor gave {result.stolen:.0%} of the processors' time to others meanwhile: without "
                     "that the figures were better.")
    return "\n".join(lines)


def differences(now: Result, earlier: Result) -> list[str]:
    """What else is not the same about two results, in words."""
    found = [f"{name}: {earlier.machine.get(name, '?')} earlier, {value} now" for name, value in now.machine.items()
             if name != "taken" and earlier.machine.get(name) != value]
    return [*found, f"the machine itself: a message over loopback and back took {earlier.loopback_us:.1f} us earlier, "
                    f"{now.loopback_us:.1f} us now"]
