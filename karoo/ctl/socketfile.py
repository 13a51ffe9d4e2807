"""The file of a Unix socket: made with its rights, in place of a dead process's, and removed if it is still ours."""

from __future__ import annotations

import _socket
import errno
import fcntl
import logging
import os
import socket as stdlib_socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from gevent import socket

from karoo.log import clean

log = logging.getLogger("karoo.ctl")

LONGEST_PATH = 107  # bytes; sun_path of unix(7) has 108, the last of which is zero
BACKLOG = 64
LOCK_TRIES, LOCK_PAUSE = 40, 0.05  # seconds between two looks at whether another process is done with the folder

_CREDENTIALS = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid


class ControlError(Exception):
    """The socket cannot be had; the text says which and why."""


class SocketFile:
    """A gevent socket, ``sock``, that listens at `path` with the rights `mode` ("600"). Raises ControlError."""

    def __init__(self, path: str, mode: str) -> None:
        self.path = path
        self._rights = int(mode, 8)
        fault = path_fault(path)
        if fault:
            raise ControlError(fault)
        with _alone_in(os.path.dirname(path) or "."):
            self._make_room()
            self.sock, self._identity = self._bind()

    def _make_room(self) -> None:
        """Remove what a dead process left at the path. Raises ControlError where something else is there."""
        try:
            there = os.lstat(self.path)
        except FileNotFoundError:
            return
        except OSError as failure:
            raise ControlError(f"{shown(self.path)}: {failure.strerror}") from failure
        if not stat.S_ISSOCK(there.st_mode):
            raise ControlError(f"{shown(self.path)} is there and is no socket: name another with control.socket, or "
                               "remove it")
        owner = _listens(self.path)
        if owner is not None:
            raise ControlError(f"{shown(self.path)} belongs to another proxy that runs{owner}: give each its own "
                               "control.socket")
        try:
            os.unlink(self.path)
            log.info("removed %s, which a process that is gone left behind", shown(self.path))
        except FileNotFoundError:
            pass
        except OSError as failure:
            raise ControlError(f"{shown(self.path)} was left behind by a process that is gone, and cannot be removed: "
                               f"{failure.strerror}") from failure

    def _bind(self) -> tuple[Any, tuple[int, int]]:
        """The rights are there with the file: bind() takes them from the umask. That is the process's, but nothing else
        happens in between, and a file that another thread might make would only be closed to more people."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            former = os.umask(0o777 & ~self._rights)
            try:
                sock.bind(self.path)
            finally:
                os.umask(former)
            there = os.lstat(self.path)
            sock.listen(BACKLOG)
        except OSError as failure:
            sock.close()
            raise ControlError(f"cannot make {shown(self.path)}: {failure.strerror or failure}") from failure
        return sock, (there.st_dev, there.st_ino)

    @property
    def is_gone(self) -> bool:
        """Whether there is no file at the path any more: somebody removed it, and the socket is reached by nobody."""
        try:
            os.lstat(self.path)
        except FileNotFoundError:
            return True
        except OSError:
            pass
        return False

    def remove(self) -> None:
        """Remove the file, unless another process has put its own there. To be called before the socket is closed: till
        then no other file can have the same number."""
        try:
            there = os.lstat(self.path)
            if (there.st_dev, there.st_ino) == self._identity:
                os.unlink(self.path)
        except FileNotFoundError:
            pass
        except OSError as failure:
            log.warning("%s cannot be removed: %s", shown(self.path), failure.strerror)


def path_fault(path: str) -> str:
    """Why no socket can have this path; empty where one can."""
    length = len(os.fsencode(path))
    if "\0" in path:
        return f"{shown(path)} holds a zero byte"
    if length > LONGEST_PATH:
        return (f"{shown(path)} has {length} bytes, and the path of a Unix socket may have {LONGEST_PATH}: choose a "
                "shorter control.socket, such as /run/karoo.sock")
    return ""


def shown(path: str) -> str:
    """A path as messages show it."""
    return clean(path).replace("\n", "\\n")


def peer_of(sock: Any) -> tuple[int, int] | None:
    """(process, user) at the other end of a Unix socket, as the kernel knows them; None where it does not tell. The
    process is 0 where it is in a namespace that is not seen from here."""
    wanted = getattr(stdlib_socket, "SO_PEERCRED", None)
    if wanted is None:  # no Linux
        return None
    try:
        pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(stdlib_socket.SOL_SOCKET, wanted, _CREDENTIALS.size))
    except OSError:
        return None
    return pid, uid


def _listens(path: str) -> str | None:
    """None where nobody listens at the path any more; else who does, in words that may be empty. Raises
    ControlError where it cannot be told."""
    # Python's own class: gevent's would wait where the other's queue is full.
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(path)
        peer = peer_of(sock)
        return f" (process {peer[0]})" if peer is not None and peer[0] else ""
    except BlockingIOError:  # its queue is full
        return ""
    except OSError as failure:
        if failure.errno in (errno.ECONNREFUSED, errno.ENOENT):
            return None
        raise ControlError(f"{shown(path)} is there, and whether a proxy listens at it cannot be told: "
                           f"{failure.strerror}") from failure
    finally:
        sock.close()


@contextmanager
def _alone_in(folder: str) -> Iterator[None]:
    """Two proxies that start at once would each take the other's file for one that is left behind: the folder is locked
    meanwhile, where that can be done. Raises ControlError."""
    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        pass  # it may be one that can be written to and not read
    except OSError as failure:
        raise ControlError(f"the folder {shown(folder)} of the control socket: {failure.strerror}") from failure
    try:
        if descriptor is not None:
            _lock(descriptor)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)  # which unlocks it


def _lock(descriptor: int) -> None:
    """Wait for a lock, but not for ever."""
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            gevent.sleep(LOCK_PAUSE)
        except OSError:  # a file system without locks
            return
