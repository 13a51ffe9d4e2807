"""A report as people read it, and as programs do. No I/O."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from karoo import __version__
from karoo.ctl.words import as_json as as_escaped_json
from karoo.doctor.findings import Finding, Report, Section

WIDEST_LABEL = 30
_LEVELS = {"ok": "ok", "note": "note", "warning": "warning", "failed": "FAILED"}
_COLOURS = {"ok": "32", "note": "36", "warning": "33", "failed": "1;31"}
_VERDICTS = {
    "well": "all is well",
    "warnings": "mining works, but see the warnings",
    "unavailable": "something that mining needs is not to be had",
    "faulty": "the configuration is faulty",
}


def text(report: Report, width: int = 100, colour: bool = False) -> str:
    """The whole report, lines wrapped to `width`."""
    lines = []
    for section in report.sections:
        if section.findings:
            lines += [*section_lines(section, width, colour), ""]
    return "\n".join([*lines, verdict(report, colour)])


def section_lines(section: Section, width: int = 100, colour: bool = False) -> list[str]:
    """Its title, and a line or more for each finding."""
    column = min(WIDEST_LABEL, max((len(finding.label) for finding in section.findings), default=0))
    lines = [_coloured(section.title, "1", colour)]
    for finding in section.findings:
        lines += _lines(finding, column, width, colour)
    return lines


def _lines(finding: Finding, column: int, width: int, colour: bool) -> Iterator[str]:
    head = f"  {_LEVELS[finding.level]:<8} "
    margin = " " * (len(head) + column + 2)
    label = finding.label.ljust(column) + "  "
    wrapped = _wrapped(label + finding.text, width, len(head), len(margin))
    yield _coloured(head, _COLOURS[finding.level], colour) + wrapped[0]
    yield from (margin + line for line in wrapped[1:])
    if finding.mend:
        yield from (margin + line for line in _wrapped("> " + finding.mend, width, len(margin), len(margin) + 2, "  "))


def _wrapped(words: str, width: int, first: int, other: int, indent: str = "") -> list[str]:
    """In lines that fit `width`, where the first is moved right by `first` columns and the others by `other`."""
    room = max(30, width)
    lines = textwrap.wrap(words, room, initial_indent="\0" * first,
                          subsequent_indent="\0" * (other - len(indent)) + indent,
                          break_long_words=False, break_on_hyphens=False, drop_whitespace=True)
    return [line.lstrip("\0") for line in lines] or [""]


def verdict(report: Report, colour: bool = False) -> str:
    """The last line."""
    word = report.verdict()
    counts = [f"{number} {name}{'s' * (number != 1 and name != 'failed')}" for name, number in (
        ("failed", report.count("failed")), ("warning", report.count("warning"))) if number]
    counted = f" ({', '.join(counts)})" if counts else ""
    level = {"well": "ok", "warnings": "warning"}.get(word, "failed")
    return _coloured(f"verdict: {_VERDICTS[word]}{counted}", _COLOURS[level], colour)


def as_json(report: Report, strict: bool = False) -> str:
    """The same for programs; keys and the names of checks do not change."""
    return as_escaped_json({
        "karoo": __version__, "config": report.config, "verdict": report.verdict(),
        "exit_code": report.exit_code(strict),
        "counts": {level: report.count(level) for level in ("ok", "note", "warning", "failed")},
        "sections": [{
            "section": section.key, "subject": section.subject, "title": section.title,
            "findings": [{"check": finding.check, "level": finding.level, "label": finding.label, "text": finding.text,
                          "mend": finding.mend, "data": finding.data} for finding in section.findings],
        } for section in report.sections]})


def _coloured(words: str, code: str, colour: bool) -> str:
    return f"\x1b[{code}m{words}\x1b[0m" if colour else words
