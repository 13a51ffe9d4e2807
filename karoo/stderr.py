"""Standard error, and other descriptors that somebody else opened, written to without ever waiting for who reads them.

A terminal after Ctrl-S, a pager, a log driver that is stuck: their pipe fills, and who writes on hangs. O_NONBLOCK is
no way out: it is set for all that share the pipe or the terminal, the shell and the service manager too.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import sys

from gevent import monkey

_poll = monkey.get_original("select", "poll")  # gevent's asks the loop, which other threads have not
_os_close = monkey.get_original("os", "close")  # and so does its close

# Where poll says that there is room, so many bytes are taken without waiting: POSIX says it of pipes, sockets in Linux
# take more, and terminals tell of room for 256 or more; but there a line feed that follows something may wait for room
# of its own.
PIECE, TERMINAL_PIECE = select.PIPE_BUF, 128


def stderr_descriptor() -> int | None:
    """That of standard error; None where there is none. If it is closed as the program starts, Python has no
    `sys.stderr`: the number 2 is somebody else's then."""
    try:
        return None if sys.stderr is None else sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):  # closed since, or put in place by somebody who has no descriptor
        return None


def to_stderr(data: bytes) -> None:
    """Write to standard error past all else; what it does not take at once is lost. From any thread."""
    descriptor = stderr_descriptor()
    if descriptor is None:
        try:
            if sys.stderr is not None:
                sys.stderr.write(data.decode(errors="replace"))
        except (OSError, ValueError):
            pass  # there is no other place to tell it
        return
    way = own_way(descriptor)
    try:
        while data:
            data = data[put(descriptor, data) if way is None else os.write(way, data):]
    except OSError:
        pass
    finally:
        if way is not None:
            close(way)


def may_wait(descriptor: int) -> bool:
    """Whether a write may wait for who reads: files and devices like /dev/null have nobody."""
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return True
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)


def own_way(descriptor: int) -> int | None:
    """A descriptor that leads to the same pipe or terminal, does not wait, and shares its flags with nobody. None where
    there is none to be had: it leads to something else or is another user's, or the system is not Linux."""
    if not may_wait(descriptor):  # of a file it would have a place of its own, and write over what others wrote
        return None
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None


def put(descriptor: int, data: bytes) -> int:
    """Write as much as is taken at once; the number of bytes. Raises OSError: BlockingIOError if nothing is.

    Another process that fills the same pipe at the same moment, or Ctrl-S at that moment, can still make it wait: where
    there is an `own_way`, that is to be taken.
    """
    if not takes(descriptor):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    size = PIECE
    if os.isatty(descriptor):
        feed = data.find(b"\n", 0, TERMINAL_PIECE)
        size = TERMINAL_PIECE if feed < 0 else feed or 1
    return os.write(descriptor, data[:size])


def takes(descriptor: int, timeout: float = 0.0) -> bool:
    """Whether a descriptor takes something, or fails at once, within so many seconds; the whole thread waits."""
    poll = _poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(timeout * 1000))


def close(descriptor: int) -> None:
    """Close a descriptor, from any thread; never raises."""
    try:
        _os_close(descriptor)
    except OSError:
        pass  # a late fault of the disk; what was written is left anyway
