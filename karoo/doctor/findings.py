"""What was found, by section, and what follows from it: the verdict and the exit code. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from karoo.log import clean

Level = Literal["ok", "note", "warning", "failed"]

EX_OK, EX_WARNINGS, EX_UNAVAILABLE, EX_CONFIG = 0, 3, 69, 78


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    ``check`` names it for programs and never changes; ``label`` and ``text`` are for people, and so is ``mend``: what
    to do, where there is something to do. ``data`` holds the numbers in the text, plain and in full. ``faulty``: it is
    the configuration that is wrong.
    """

    check: str
    level: Level
    label: str
    text: str
    mend: str = ""
    faulty: bool = False
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Section:
    """The findings of one part. ``key`` and ``subject`` are for programs (such as pool, backups[0]), ``title`` for
    people. What peers said stands in texts: control characters are shown as escapes."""

    key: str
    title: str
    subject: str = ""
    findings: list[Finding] = field(default_factory=list)

    def ok(self, check: str, label: str, text: str, **data: Any) -> None:
        """As it should be."""
        self._add(check, "ok", label, text, "", False, data)

    def note(self, check: str, label: str, text: str, mend: str = "", **data: Any) -> None:
        """Worth knowing; nothing is wrong."""
        self._add(check, "note", label, text, mend, False, data)

    def warn(self, check: str, label: str, text: str, mend: str = "", **data: Any) -> None:
        """Mining works, but not for all, not as meant, or not for long."""
        self._add(check, "warning", label, text, mend, False, data)

    def fail(self, check: str, label: str, text: str, mend: str = "", faulty: bool = False, **data: Any) -> None:
        """Something that mining needs is not to be had; with `faulty` only another configuration mends that."""
        self._add(check, "failed", label, text, mend, faulty, data)

    def _add(self, check: str, level: Level, label: str, text: str, mend: str, faulty: bool,
             data: dict[str, Any]) -> None:
        self.findings.append(Finding(check, level, clean(label), _line(text), _line(mend), faulty, data))

    @property
    def well(self) -> bool:
        """Nothing failed here."""
        return all(finding.level != "failed" for finding in self.findings)


@dataclass(slots=True)
class Report:
    """All sections of an examination."""

    config: str
    sections: list[Section] = field(default_factory=list)

    def section(self, key: str, title: str, subject: str = "") -> Section:
        """A new one, at the end."""
        self.sections.append(Section(key, title, subject))
        return self.sections[-1]

    def findings(self) -> Iterator[Finding]:
        for section in self.sections:
            yield from section.findings

    def count(self, level: Level) -> int:
        return sum(finding.level == level for finding in self.findings())

    def exit_code(self, strict: bool = False) -> int:
        """0 well, 3 well but for warnings, where `strict`; 69 something is not to be had; 78 a faulty configuration,
        whatever else there is: nothing else mends that."""
        failed = [finding for finding in self.findings() if finding.level == "failed"]
        if any(finding.faulty for finding in failed):
            return EX_CONFIG
        if failed:
            return EX_UNAVAILABLE
        return EX_WARNINGS if strict and self.count("warning") else EX_OK

    def verdict(self) -> str:
        """In one word: faulty, unavailable, warnings or well."""
        words = {EX_CONFIG: "faulty", EX_UNAVAILABLE: "unavailable", EX_WARNINGS: "warnings"}
        return words.get(self.exit_code(strict=True), "well")


def _line(text: str) -> str:
    return clean(text.replace("\n", "; "))
