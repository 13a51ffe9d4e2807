"""Logging: text for people or JSON for machines, to standard error or to a file."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

import gevent
from gevent import monkey

from karoo.logfile import LogFile, LogFileError, Output
from karoo.logflood import FloodLimit
from karoo.stderr import to_stderr

if TYPE_CHECKING:
    from karoo.config import Log

__all__ = ["JsonFormatter", "LogFileError", "TextFormatter", "clean", "colored", "prepare", "reopen", "set_level",
           "setup", "setup_from", "urgent", "wire"]

log = logging.getLogger("karoo")

_UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
_EXTRAS = ("session", "peer", "worker", "report")
_COLORS = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}  # ECMA-48: faint, green, ...
MEGABYTE = 1_000_000
STDERR = 2
AGAIN_EVERY = 0.02  # seconds between two looks whether lines that wait are taken, while there are some
_make_lock, _get_ident = monkey.get_original("_thread", ["RLock", "get_ident"])
_LINE_FEED, _INDENTED = "\n", "\n  "


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
    """`2026-01-31 12:00:00 INFO    karoo.session  #12 10.0.0.7:4711 rig7: connected`

    The lines of a traceback are indented: what a peer made an error say cannot pass for a line of the log.
    """

    def __init__(self, color: bool = False) -> None:
        super().__init__()
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        session = getattr(record, "session", None)
        who = f"#{session} {record.peer} {record.worker or '-'}: " if session is not None else ""  # type: ignore[attr-defined]
        message = clean(who + record.getMessage()).replace("\n", "\\n")
        level = f"{record.levelname:<7}"
        if self._color and (color := _COLORS.get(record.levelname)):
            level = f"\x1b[{color}m{level}\x1b[0m"
        line = f"{stamp} {level} {record.name:<15} {message}"
        below = _below(self, record)
        return f"{line}\n  {clean(below).replace(_LINE_FEED, _INDENTED)}" if below else line


def _below(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """What stands below a line: the traceback of an exception, or a stack that was seen."""
    if record.exc_info:
        return formatter.formatException(record.exc_info)
    return str(getattr(record, "stack", ""))


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message and what the record knows besides."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        # JSON has escapes for control characters, but what shows a message to people undoes them: `jq -r`.
        entry: dict[str, object] = {"time": f"{stamp}.{int(record.msecs):03d}Z", "level": record.levelname.lower(),
                                    "logger": record.name, "message": clean(record.getMessage())}
        entry.update({key: getattr(record, key) for key in _EXTRAS if hasattr(record, key)})
        if below := _below(self, record):
            entry["traceback" if record.exc_info else "stack"] = clean(below)
        return json.dumps(entry, default=str)


class _Stream(Output):
    """A stream that is no file of the system's: a test's, or one that somebody put in the place of standard error."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(None)
        self._stream = stream

    def write(self, line: bytes) -> bool:
        try:
            self._stream.write(line.decode())
            self._stream.flush()
        except (OSError, ValueError):
            pass  # it was closed
        return False

    def urgent(self, line: bytes) -> None:
        self.write(line)


class _LoopsWords:
    """Where gevent shows the traceback of what died in the loop or of a greenlet that nobody looks after."""

    def write(self, text: str) -> None:
        to_stderr(text.encode(errors="replace"))

    def flush(self) -> None:
        pass


class _Handler(logging.Handler):
    """Writes lines, but no flood of them (`limit`; None: all). Whatever happens, it does not raise."""

    def __init__(self, output: Output, formatter: logging.Formatter, limit: FloodLimit | None) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.output, self.limit = output, limit
        self._thread = _get_ident()
        self._timer: Any = None  # of the loop, while lines wait

    def createLock(self) -> None:
        """The system's lock, not gevent's: threads write too (the accounts', for one), and may hang in gevent's. No
        greenlet switches to another one while it holds this."""
        super().createLock()
        self.lock = _make_lock()

    def handle(self, record: logging.LogRecord) -> bool:
        if self.limit is not None:
            for count in self.limit.counts():
                super().handle(count)
            if not self.limit.shows(record):
                return False
        return super().handle(record)

    def emit(self, record: logging.LogRecord) -> None:
        self._tell_lost()
        if self.output.write(self.line(record)):
            self._look_after()

    def line(self, record: logging.LogRecord) -> bytes:
        """A record as it is written."""
        try:
            text = self.format(record)
        except Exception as fault:  # a bug of who logs: what it wanted to say is shown as far as it goes
            text = self.format(_record(logging.ERROR, record.name,
                                       f"a line of the log cannot be made ({fault!r}): {record.msg!r}"))
        return f"{text}\n".encode()

    def tell_counts(self) -> None:
        """Tell how many lines were not shown, as this handler ends."""
        if self.limit is not None:
            for count in self.limit.counts(at_once=True):
                super().handle(count)

    def _tell_lost(self) -> bool:
        """Tell how many lines were lost, if that can be told; whether this line waits."""
        lost = self.output.take_lost()
        return bool(lost) and self.output.write(self.line(_record(
            logging.WARNING, "karoo", f"{lost} lines of the log were lost before, as {self.output.name} did not take "
            "them")))

    def _look_after(self) -> None:
        """See to it that what waits is written even if no line follows. The loop does: from another thread it cannot
        be asked, and its next line does it then."""
        if self._timer is None and _get_ident() == self._thread:
            self._timer = gevent.get_hub().loop.timer(AGAIN_EVERY, AGAIN_EVERY, ref=False)
            self._timer.start(self._again)

    def _again(self) -> None:
        self.acquire()
        try:
            if not self.output.again() and not self._tell_lost():
                self._stop_timer()
        finally:
            self.release()

    def _stop_timer(self) -> bool:
        """Whether it ran."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
            timer.close()
        return timer is not None

    def give_way(self, successor: _Handler) -> None:
        """End, as another takes over."""
        if self._stop_timer():
            successor._look_after()
        if self.output is not successor.output:
            self.acquire()
            try:
                self.output.close(successor.output)
            finally:
                self.release()
        super().close()

    def close(self) -> None:
        """As the program ends: logging.shutdown calls it."""
        self.tell_counts()
        self.output.close()
        super().close()
        self._stop_timer()


def _record(level: int, name: str, message: str, stack: str = "") -> logging.LogRecord:
    return logging.makeLogRecord({"levelno": level, "levelname": logging.getLevelName(level), "name": name,
                                  "msg": message, "stack": stack})


def setup(level: str = "info", form: str = "text", stream: TextIO | None = None, color: str = "auto") -> None:
    """Send the log to a stream, or to standard error; called by the program and not by the library.

    Floods of like lines are cut short, but not with the level debug. `color`: auto, always or never. It may be called
    again at any time; no line is lost.
    """
    stream = stream or sys.stderr
    _install(level, form, _output(stream), form == "text" and colored(color, stream))


def setup_from(options: Log) -> None:
    """Send the log where the options say. Raises LogFileError, and has changed nothing then."""
    prepare(options)()
    gevent.get_hub().exception_stream = _LoopsWords()  # its own way is to wait for standard error


def prepare(options: Log) -> Callable[[], None]:
    """Open the file that the options say, if it is another one; what is returned sends the log there. Raises
    LogFileError."""
    former, size = _handler(), options.rotate_mb * MEGABYTE
    output = former.output if former is not None else None
    if options.file and not (isinstance(output, LogFile) and output.path == options.file):
        output = LogFile(options.file, size, options.keep_files)

    def install() -> None:
        if not options.file:
            setup(options.level, options.format, color=options.color)
            return
        assert isinstance(output, LogFile)
        output.rotate_bytes, output.keep = size, options.keep_files
        _install(options.level, options.format, output, False)

    return install


def set_level(level: str) -> None:
    """Change the least that is logged, and nothing else."""
    handler = _handler()
    if handler is not None:
        handler.tell_counts()
        handler.limit = _limit(level)
    logging.getLogger().setLevel(level.upper())


def reopen() -> bool:
    """Open the log file by its name again, after it was moved away (SIGUSR1); whether that went well. If it did not,
    the log says so, in the former file, and on standard error."""
    handler = _handler()
    if handler is None or not isinstance(handler.output, LogFile):
        return True
    handler.acquire()
    try:
        handler.output.reopen()
    except LogFileError as fault:
        text = f"the log goes on in the former file: {fault}"
    else:
        text = ""
    finally:
        handler.release()
    if text:
        to_stderr(f"karoo: {text}\n".encode(errors="replace"))
        log.error("%s", text)
        return False
    log.info("the log file was opened again")
    return True


def urgent(level: int, name: str, message: str, stack: str = "") -> None:
    """Write a line to standard error, and to the log file if there is one, past locks, limits and what waits to be
    written. For a thread that sees the loop hang, maybe in the log."""
    handler = _handler()
    record = _record(level, name, message, stack)
    if handler is None:
        to_stderr(f"{TextFormatter().format(record)}\n".encode())
    else:
        handler.output.urgent(handler.line(record))


def colored(color: str, stream: TextIO | None) -> bool:
    """Whether levels are coloured on a stream; on a terminal as long as the environment does not object
    (https://no-color.org)."""
    if color != "auto":
        return color == "always"
    try:
        terminal = stream is not None and stream.isatty()
    except (OSError, ValueError, AttributeError):
        return False
    return terminal and os.environ.get("TERM", "dumb") != "dumb" and not os.environ.get("NO_COLOR")


def _output(stream: TextIO | None) -> Output:
    if stream is None:  # the program was started with standard error closed
        return Output(None)
    former = _handler()
    try:
        if stream is not sys.stderr or stream.fileno() != STDERR:
            return _Stream(stream)
    except (OSError, ValueError, AttributeError):
        return _Stream(stream)
    return former.output if former is not None and type(former.output) is Output else Output(STDERR)


def _limit(level: str) -> FloodLimit | None:
    return None if level == "debug" else FloodLimit(time.monotonic)


def _handler() -> _Handler | None:
    """The one that is in force."""
    return next((each for each in logging.getLogger().handlers if isinstance(each, _Handler)), None)


def _install(level: str, form: str, output: Output, color: bool) -> None:
    """Put a new handler in the place of all others."""
    # What no formatter here shows need not be found out for each line: half of what a line costs, and in a rush of
    # miners there are two for each (https://docs.python.org/3/howto/logging.html#optimization).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    root = logging.getLogger()
    formers = list(root.handlers)
    for former in formers:
        if isinstance(former, _Handler):
            former.tell_counts()
    handler = _Handler(output, JsonFormatter() if form == "json" else TextFormatter(color), _limit(level))
    root.addHandler(handler)  # before the others go: a line of another thread's must not find none
    root.setLevel(level.upper())
    for former in formers:
        root.removeHandler(former)
        if isinstance(former, _Handler):
            former.give_way(handler)
