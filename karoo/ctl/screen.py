"""A terminal as a screen of lines: taken over, drawn on where something changed, and given back as it was."""

from __future__ import annotations

import os
import re
import signal
import termios
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from types import ModuleType, TracebackType
from typing import Any

import gevent
from gevent.socket import wait_write

from karoo.ctl import words

CHUNK = 256  # bytes that a terminal is sure to take when it says that it takes any (the kernel's WAKEUP_CHARS)
WRITE_SECONDS = 5.0  # for a terminal to take a frame: it may be at the end of a slow line, or have been stopped
LEAVE_SECONDS = 1.0

Segment = tuple[str, str]  # a text, and the name of its style: one of `words.STYLES`, "line" (reversed) or ""
Line = Sequence[Segment]

_PADDING = re.compile(rb"\$<[0-9.]+[*/]*>")  # pauses for terminals of the seventies, as terminfo writes them
_COLORS = {"good": 2, "warn": 3, "bad": 1}


@dataclass(slots=True, frozen=True)
class Strings:
    """What steers a terminal. ``move`` gives the bytes for row and column, from 0; ``styles`` those that begin one."""

    move: Callable[[int, int], bytes]
    clear: bytes
    to_end: bytes  # clears the rest of a line
    begin: bytes
    end: bytes
    styles: dict[str, bytes]
    plain: bytes


def strings_of(term: str, descriptor: int, color: bool = True) -> Strings | None:
    """Those of a kind of terminal (TERM); None where none can be drawn on."""
    if term in ("", "dumb", "unknown"):
        return None
    try:
        import curses
    except ImportError:  # a Python without it
        return _ansi(color)
    try:
        curses.setupterm(term, descriptor)
    except curses.error:  # one that this machine has never heard of: nearly all know these
        return _ansi(color)
    return _from_terminfo(curses, color)


def _from_terminfo(curses: ModuleType, color: bool) -> Strings | None:
    def text(name: str) -> bytes:
        return _PADDING.sub(b"", curses.tigetstr(name) or b"")

    move, clear = text("cup"), text("clear")
    if not move or not clear:
        return None
    bold, reverse, plain = text("bold"), text("rev"), text("sgr0")
    styles = {"head": bold, "line": reverse, "dim": text("dim")}
    paint = text("setaf") if color and curses.tigetnum("colors") >= 8 else b""
    for name, number in _COLORS.items():
        styles[name] = curses.tparm(paint, number) if paint else bold if name == "bad" else b""
    return Strings(lambda row, column: curses.tparm(move, row, column), clear, text("el"),
                   text("smcup") + text("civis"), text("cnorm") + text("rmcup"), styles, plain)


def _ansi(color: bool) -> Strings:
    styles = {"head": b"\x1b[1m", "line": b"\x1b[7m", "dim": b"",
              **{name: b"\x1b[3%dm" % number if color else b"" for name, number in _COLORS.items()}}
    return Strings(lambda row, column: b"\x1b[%d;%dH" % (row + 1, column + 1), b"\x1b[H\x1b[2J", b"\x1b[K",
                   b"\x1b[?25l", b"\x1b[?25h", styles, b"\x1b[m")


class Screen:
    """The terminal at two descriptors, taken over while this is entered: keys come at once and are not shown."""

    def __init__(self, strings: Strings, keys: int = 0, out: int = 1, encoding: str = "utf-8") -> None:
        self._strings, self._keys, self._out, self._encoding = strings, keys, out, encoding
        self._shown: list[bytes] = []
        self._former: list[Any] | None = None
        self._size = (0, 0)

    def __enter__(self) -> Screen:
        self.enter()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.leave()

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows. Raises OSError where the terminal is gone."""
        columns, rows = os.get_terminal_size(self._out)
        return columns or 80, rows or 24  # a line without a size, as a serial one, says 0

    @property
    def in_front(self) -> bool:
        """The terminal is this process's, and not a shell's that has it in the background."""
        try:
            return os.tcgetpgrp(self._out) == os.getpgrp()
        except OSError:
            return True  # a terminal that does not control us

    def enter(self) -> None:
        """Take the terminal over."""
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # else to give it back from the background would stop us
        self._former = termios.tcgetattr(self._keys)
        changed = termios.tcgetattr(self._keys)
        changed[3] &= ~(termios.ECHO | termios.ICANON)
        changed[6][termios.VMIN], changed[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self._keys, termios.TCSANOW, changed)
        self._write(self._strings.begin + self._strings.clear, WRITE_SECONDS)
        self.forget()

    def leave(self) -> None:
        """Give the terminal back. Does not wait for one that takes nothing any more."""
        if self._former is None:
            return
        former, self._former = self._former, None
        try:
            last = self._strings.move(max(self._size[1] - 1, 0), 0)
            self._write(self._strings.plain + last + self._strings.to_end + self._strings.end, LEAVE_SECONDS)
        except OSError:
            pass  # it is gone
        finally:
            try:
                termios.tcsetattr(self._keys, termios.TCSANOW, former)
            except termios.error:
                pass  # it is gone

    def forget(self) -> None:
        """Draw everything anew the next time."""
        self._shown = []

    def draw(self, lines: Sequence[Line]) -> None:
        """Show these lines, from the top; each is cut at the edge. Raises OSError where the terminal is gone."""
        if self.size != self._size:
            self._size = self.size
            self.forget()
        columns, rows = self._size
        strings = self._strings
        new = [self._encoded(line, columns - 1) for line in lines[:rows]]
        data = b"" if self._shown else strings.clear
        for row in range(max(len(new), len(self._shown))):
            before = self._shown[row] if row < len(self._shown) else b""
            now = new[row] if row < len(new) else b""
            if now != before:
                data += strings.move(row, 0) + now + strings.plain + strings.to_end
        self._shown = new or [b""]
        if not self._write(data, WRITE_SECONDS):
            self.forget()

    def _encoded(self, line: Line, columns: int) -> bytes:
        """At most so many columns: in the last one some terminals would begin a new line."""
        data, left = b"", columns
        for text, style in line:
            text = words.cut(text, left)
            left -= words.width(text)
            begin = self._strings.styles.get(style, b"")
            coded = text.encode(self._encoding, "replace")
            data += begin + coded + self._strings.plain if begin and coded else coded
        return data

    def _write(self, data: bytes, seconds: float) -> bool:
        """Whether the terminal took all of it in time. Raises OSError where it is gone."""
        until = monotonic() + seconds
        for start in range(0, len(data), CHUNK):
            try:
                wait_write(self._out, timeout=max(until - monotonic(), 1e-3))
            except (TimeoutError, gevent.Timeout):
                return False
            part = data[start:start + CHUNK]
            while part:
                part = part[os.write(self._out, part):]
        return True
