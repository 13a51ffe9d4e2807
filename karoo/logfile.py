"""Where the lines of the log go: a descriptor, or a file that is put aside when it is large. Nothing here raises into
who logs, and nothing waits until somebody takes a line."""

from __future__ import annotations

import errno
import math
import os
import stat
import time
from collections import deque
from collections.abc import Callable

from gevent import monkey

from karoo.stderr import close, may_wait, own_way, put, takes, to_stderr

KEPT = 1 << 20  # bytes of lines that are kept while they cannot be written
AGAIN_AFTER = 1.0  # seconds until what failed is tried again, with the next line
FULL_AGAIN_AFTER = 0.001  # the same where who reads has only not kept up
END_SECONDS = 1.0  # at the end of the program, for what is kept
ROTATE_AGAIN_AFTER = 60.0
NEW_MODE = 0o640  # of a file that is new, less the umask: the log names miners and addresses
_HOW = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY  # a FIFO that nobody reads must not stop the program

_start_thread = monkey.get_original("_thread", "start_new_thread")


class LogFileError(Exception):
    """The log cannot go to that file; the text says why."""


class Output:
    """A descriptor that others may share (None: nobody wants the lines). What it does not take now is kept, up to KEPT
    bytes, and written later: with a line that follows, or by `again`. Nothing but `close` waits, and only so long."""

    name = "standard error"

    def __init__(self, descriptor: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._shared = descriptor
        self._own = None if descriptor is None else own_way(descriptor)
        self._descriptor = descriptor if self._own is None else self._own
        self._polled = descriptor is not None and self._own is None and may_wait(descriptor)
        self._clock = clock
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._begun = 0  # bytes of the first that are written already
        self._failing = 0  # what the last try ended with, of errno
        self._again_at = -math.inf
        self._lost = 0

    def write(self, line: bytes) -> bool:
        """Write a line, which ends in a line feed; whether there are lines that wait."""
        if self._kept_bytes and self._kept_bytes + len(line) > KEPT:
            self._spill(line)
        else:
            self._kept.append(line)
            self._kept_bytes += len(line)
        return self.again()

    def again(self) -> bool:
        """Write what waits, if it is time for that; whether there is more."""
        if not self._failing or self._clock() >= self._again_at:
            self._catch_up()
        return bool(self._failing)

    def urgent(self, line: bytes) -> None:
        """Write a line at once, past what is kept; from any thread, while the loop may hang anywhere in `write`."""
        to_stderr(line)

    def take_lost(self) -> int:
        """How many lines were lost, once that can be told."""
        lost, self._lost = (0, self._lost) if self._failing else (self._lost, 0)
        return lost

    def close(self, successor: Output | None = None) -> None:
        """Write what can be; the rest goes to the successor. Without one the program ends: who reads has END_SECONDS
        to take it."""
        self._catch_up()
        end = time.monotonic() + END_SECONDS
        while (successor is None and self._failing == errno.EAGAIN and self._descriptor is not None
               and (left := end - time.monotonic()) > 0 and takes(self._descriptor, left)):
            self._catch_up()
        for line in self._kept:
            if successor is not None:
                successor.write(line)
            else:
                self._spill(line)
        self._kept.clear()
        self._kept_bytes = self._begun = 0
        if self._own is not None:
            close(self._own)
            self._own, self._descriptor, self._polled = None, self._shared, True

    def _spill(self, line: bytes) -> None:
        """Do with a line for which there is no room what can be done."""
        self._lost += 1

    def _catch_up(self) -> None:
        kept = self._kept
        try:
            while kept:
                descriptor = self._for(len(kept[0]))
                line = kept[0]
                if descriptor is not None:
                    rest = line[self._begun:] if self._begun else line
                    self._begun += put(descriptor, rest) if self._polled else os.write(descriptor, rest)
                    if self._begun < len(line):
                        continue
                kept.popleft()
                self._kept_bytes -= len(line)
                self._begun = 0
        except OSError as failure:
            if not self._failing:
                self._tell_failing(failure)
            self._failing = failure.errno or errno.EIO
            full = self._failing == errno.EAGAIN
            self._again_at = self._clock() + (FULL_AGAIN_AFTER if full else AGAIN_AFTER)
        else:
            if self._failing:
                self._failing = 0
                self._tell_works()

    def _for(self, size: int) -> int | None:
        """The descriptor for a line of so many bytes. Raises OSError."""
        return self._descriptor

    def _tell_failing(self, failure: OSError) -> None:
        """Say that lines cannot be written; of standard error itself nobody can be told."""

    def _tell_works(self) -> None:
        """Say that lines can be written again."""


class LogFile(Output):
    """A file that lines are added to. Raises LogFileError.

    At `rotate_bytes` (0: never) it becomes NAME.1, the former NAME.1 becomes NAME.2, and so on; `keep` of them stay.
    A file that was deleted is made anew. One that was moved away is written to until `reopen`, as logrotate wants it.
    What the disk does not take is kept and written later; what is too much to keep goes to standard error.
    """

    def __init__(self, path: str, rotate_bytes: int = 0, keep: int = 1,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.path = self.name = path
        self.rotate_bytes, self.keep = rotate_bytes, keep
        self._rotate_again_at = -math.inf
        super().__init__(None, clock)
        try:
            self._descriptor = _open(path, None)
        except OSError as failure:
            raise LogFileError(f"the log cannot go to {path}: {failure.strerror}") from failure

    def reopen(self) -> None:
        """Open the file by its name again: the former was moved away. Raises LogFileError; the former is used on."""
        try:
            self._open_again()
        except OSError as failure:
            raise LogFileError(f"{self.path} cannot be opened again: {failure.strerror}") from failure
        self._catch_up()

    def urgent(self, line: bytes) -> None:
        super().urgent(line)
        try:
            # A descriptor of its own: another thread may close the other one and open a connection by its number.
            descriptor = os.open(self.path, _HOW)
            try:
                os.write(descriptor, line)
            finally:
                close(descriptor)
        except OSError:
            pass  # it is on standard error

    def close(self, successor: Output | None = None) -> None:
        super().close(successor)
        if self._descriptor is not None:
            _close_aside(self._descriptor)
        self._descriptor = None

    def write(self, line: bytes) -> bool:
        if self._descriptor is not None:
            return super().write(line)
        to_stderr(line)  # as the program ends
        return False

    def _spill(self, line: bytes) -> None:
        to_stderr(line)

    def _for(self, size: int) -> int | None:
        assert self._descriptor is not None
        found = os.fstat(self._descriptor)
        if not found.st_nlink and stat.S_ISREG(found.st_mode):
            self._open_again()  # nobody could ever read what is written to the deleted one
        elif (self.rotate_bytes and found.st_size + size > self.rotate_bytes and found.st_size and not self._begun
              and stat.S_ISREG(found.st_mode)):
            self._rotate(found)
        return self._descriptor

    def _open_again(self) -> None:
        """Raises OSError; nothing has changed then."""
        assert self._descriptor is not None
        former = self._descriptor
        self._descriptor = _open(self.path, os.fstat(former))
        self._begun = 0  # a line that was begun in the former stands in the new one whole
        _close_aside(former)

    def _rotate(self, found: os.stat_result) -> None:
        """Put the file aside and begin a new one; if that fails, go on with this one. Never raises."""
        if self._clock() < self._rotate_again_at:
            return
        try:
            path = os.path.realpath(self.path)  # a link to the file stays where it is
            if _is(path, found):
                put_aside(path, self.keep)
            self._open_again()
        except OSError as failure:
            if self._rotate_again_at == -math.inf:
                _say(f"the log file {self.path} cannot be put aside ({failure.strerror}): it grows on")
            self._rotate_again_at = self._clock() + ROTATE_AGAIN_AFTER
        else:
            self._rotate_again_at = -math.inf

    def _tell_failing(self, failure: OSError) -> None:
        _say(f"the log file {self.path} cannot be written ({failure.strerror}): lines are kept until it can be, and "
             "shown here when they are too many")

    def _tell_works(self) -> None:
        _say(f"the log file {self.path} can be written again")


def put_aside(path: str, keep: int) -> None:
    """Make PATH PATH.1, PATH.1 PATH.2, and so on; `keep` of them stay. Raises OSError: nothing is lost then, but there
    may be a gap in the numbers."""
    last = 0
    while last < keep and os.path.lexists(f"{path}.{last + 1}"):
        last += 1
    for number in range(last, 0, -1):
        if number == keep:
            _remove(f"{path}.{number}")
        else:
            os.replace(f"{path}.{number}", f"{path}.{number + 1}")
    os.replace(path, f"{path}.1")
    beyond = keep + 1  # when fewer are to be kept than were
    while os.path.lexists(f"{path}.{beyond}"):
        _remove(f"{path}.{beyond}")
        beyond += 1


def _open(path: str, like: os.stat_result | None) -> int:
    """The descriptor of a file to add to; a new one gets owner and mode of a former one. Raises OSError."""
    try:
        descriptor = os.open(path, _HOW | os.O_CREAT | os.O_EXCL, NEW_MODE)
    except FileExistsError:
        return os.open(path, _HOW | os.O_CREAT, NEW_MODE)  # O_CREAT: a link may point to nothing yet
    if like is not None and stat.S_ISREG(like.st_mode):
        try:
            new = os.fstat(descriptor)
            if (new.st_uid, new.st_gid) != (like.st_uid, like.st_gid):
                os.fchown(descriptor, like.st_uid, like.st_gid)
        except OSError:
            pass  # only root may
        try:
            os.fchmod(descriptor, stat.S_IMODE(like.st_mode))
        except OSError:
            pass  # a file system without modes
    return descriptor


def _is(path: str, found: os.stat_result) -> bool:
    """Whether the file of that name is the one found."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino)


def _remove(path: str) -> None:
    """Remove a file. To give back the room of a gigabyte takes 0.25 s: a thread does it, when it closes the file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        os.unlink(path)
        return
    try:
        os.unlink(path)
    finally:
        _close_aside(descriptor)


def _close_aside(descriptor: int) -> None:
    """Close a file whose last name may be gone, without waiting."""
    try:
        _start_thread(close, (descriptor,))
    except RuntimeError:  # no more threads to be had
        close(descriptor)


def _say(text: str) -> None:
    to_stderr(f"karoo: {text}\n".encode(errors="replace"))
