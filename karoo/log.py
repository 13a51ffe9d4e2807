"""Logging: text for people or JSON for machines, to standard error."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import TextIO

from karoo.logflood import FloodLimit

_UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
_EXTRAS = ("session", "peer", "worker", "report")


def clean(text: str) -> str:
    """Text whose control characters are shown as escapes: what a miner sends can neither forge a line nor
    steer a terminal. Line feeds stay only where a traceback is added."""
    return _UNSAFE.sub(lambda match: f"\\x{ord(match.group()):02x}", text)


def wire(data: bytes) -> str:
    """A message as DEBUG shows it: of an authorization only the user, never the password."""
    text = data.decode(errors="replace").rstrip()
    if "authorize" not in text and "\\u" not in text:  # an escape may hide the word
        return text
    try:
        message = json.loads(text)
        if "authorize" in str(message.get("method")):
            message["params"] = [message["params"][0], "(hidden)"]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return "(a message that may hold a password, and cannot be read)"
    return json.dumps(message)


class TextFormatter(logging.Formatter):
    """`2026-01-31 12:00:00 INFO    karoo.session  #12 10.0.0.7:4711 rig7: connected`"""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        session = getattr(record, "session", None)
        who = f"#{session} {record.peer} {record.worker or '-'}: " if session is not None else ""  # type: ignore[attr-defined]
        message = clean(who + record.getMessage()).replace("\n", "\\n")
        line = f"{stamp} {record.levelname:<7} {record.name:<15} {message}"
        return f"{line}\n{clean(self.formatException(record.exc_info))}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message and what the record knows besides."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, object] = {"time": f"{stamp}.{int(record.msecs):03d}Z", "level": record.levelname.lower(),
                                    "logger": record.name, "message": record.getMessage()}
        entry.update({key: getattr(record, key) for key in _EXTRAS if hasattr(record, key)})
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes lines, but no flood of them."""

    def __init__(self, stream: TextIO, limit: FloodLimit) -> None:
        super().__init__(stream)
        self._limit = limit

    def handle(self, record: logging.LogRecord) -> bool:
        for count in self._limit.counts():
            super().handle(count)
        return self._limit.shows(record) and super().handle(record)


def setup(level: str = "info", form: str = "text", stream: TextIO | None = None) -> None:
    """Send the log to standard error; called once, by the program and not by the library.

    Floods of like lines are cut short, but not with the level debug.
    """
    # What no formatter here shows need not be found out for each line: half of what a line costs, and in a rush of
    # miners there are two for each (https://docs.python.org/3/howto/logging.html#optimization).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    where = stream or sys.stderr
    handler = logging.StreamHandler(where) if level == "debug" else _Handler(where, FloodLimit(time.monotonic))
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    for former in list(root.handlers):
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(level.upper())
