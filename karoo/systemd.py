"""What the daemon gets from systemd and says to it: sockets that listen already, and how it goes. Knows no Stratum.

The protocols are those of sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3).
"""

from __future__ import annotations

import _socket
import errno
import logging
import math
import os
import re
import time
from collections import deque
from collections.abc import Callable, MutableMapping
from typing import Any

from gevent import socket

from karoo.log import clean

log = logging.getLogger("karoo")

FIRST_DESCRIPTOR = 3
MOST_SOCKETS = 1024  # that are believed: a number beyond is a mistake
UNNAMED = "unknown"  # what systemd calls a descriptor without a name
USEC_INFINITY = 2**64 - 1  # systemd's "never"

# Bytes of a status: `systemctl status` shows it in one line. Of a datagram systemd reads 4096 (NOTIFY_BUFFER_MAX), and
# one that is longer it ignores as a whole.
LONGEST_STATUS = 500
MOST_OWED = 4  # changes of state that are kept to be told later: two reloads

_NUMBER = re.compile("[0-9]{1,20}")
_KINDS = {socket.SOCK_DGRAM: "a datagram socket", socket.SOCK_SEQPACKET: "a socket of sequential packets"}


class ActivationError(Exception):
    """What systemd passed cannot be used; the text says what it is and how to mend it."""


def passed_sockets(environ: MutableMapping[str, str] = os.environ) -> dict[str, list[int]]:
    """The descriptors that systemd passed to this process, by name, in its order. Raises ActivationError.

    They are not handed on to children, and neither are the variables that tell of them: those are removed.
    """
    pid, count, names, _ = (environ.pop(name, None) for name in (
        "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"))
    if pid is None or count is None or _number("LISTEN_PID", pid) != os.getpid():
        return {}
    number = _number("LISTEN_FDS", count)
    if number > MOST_SOCKETS:
        raise ActivationError(f"LISTEN_FDS is {number}: so many sockets are passed to nobody")
    called = names.split(":") if names else [UNNAMED] * number
    if len(called) != number:
        raise ActivationError(f"LISTEN_FDNAMES names {len(called)} descriptors ({', '.join(called)}), "
                              f"but LISTEN_FDS says that {number} were passed")
    passed: dict[str, list[int]] = {}
    for descriptor, name in enumerate(called, FIRST_DESCRIPTOR):
        try:
            os.set_inheritable(descriptor, False)
        except OSError as failure:
            raise ActivationError(f"LISTEN_FDS says that {number} descriptors were passed, but descriptor {descriptor} "
                                  f"cannot be used: {failure.strerror}") from failure
        passed.setdefault(name or UNNAMED, []).append(descriptor)
    return passed


def _number(variable: str, text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ActivationError(f"{variable} is {text!r}, which is no number")
    return int(text)


class Activation:
    """The sockets that systemd passed, each to be taken once. Raises ActivationError where the variables are faulty."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        self._meant_for = environ.get("LISTEN_PID", "")
        self._passed = passed_sockets(environ)
        self._taken: set[str] = set()

    def take(self, name: str) -> list[int]:
        """The descriptors of that name, one or more, each of which listens for TCP connections. They belong to the
        caller then. Raises ActivationError."""
        if not self._passed:
            raise ActivationError(f"there is no socket named {name}: {self._why_none()}")
        if name not in self._passed:
            raise ActivationError(f"systemd passed no socket named {name}: it passed {', '.join(self._passed)} "
                                  "(FileDescriptorName= of the socket unit names it)")
        if name in self._taken:
            raise ActivationError(f"the socket named {name} is wanted for two things")
        for descriptor in self._passed[name]:
            try:
                check_listening(descriptor)
            except ActivationError as fault:
                raise ActivationError(f"the socket named {name} cannot be used: {fault}") from None
        self._taken.add(name)
        return list(self._passed[name])

    def unused(self) -> list[str]:
        """The names of what nobody took: whoever connects there waits for ever."""
        return [name for name in self._passed if name not in self._taken]

    def _why_none(self) -> str:
        """Why nothing was passed."""
        if self._meant_for and self._meant_for != str(os.getpid()):
            return (f"systemd passed its sockets to process {self._meant_for}, and this is {os.getpid()} "
                    "(a script in between has to start karoo with exec)")
        return "this process was not started by a socket unit"


def check_listening(descriptor: int) -> None:
    """Raises ActivationError unless it is a TCP socket that listens; the text says what it is. It stays open."""
    try:
        # Python's own class: gevent's would set it non-blocking, for systemd too, and watch it.
        sock = _socket.socket(fileno=descriptor)
    except OSError as failure:
        kind = "no socket" if failure.errno == errno.ENOTSOCK else f"unusable: {failure.strerror}"
        raise ActivationError(f"descriptor {descriptor} is {kind}") from failure
    try:
        if fault := _no_listener(sock):
            raise ActivationError(f"descriptor {descriptor} is {fault}")
    finally:
        sock.detach()


def _no_listener(sock: _socket.socket) -> str:
    """What a socket is that no miner can connect to by TCP; empty for one that is fine."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        kind = "a Unix socket" if sock.family == socket.AF_UNIX else f"a socket of the address family {sock.family}"
        return f"{kind}, not one of an IP address: ListenStream= has to be a port, or an address and a port"
    if sock.type != socket.SOCK_STREAM:
        return f"{_KINDS.get(sock.type, f'a socket of the type {sock.type}')}: it has to be ListenStream="
    if sock.proto != socket.IPPROTO_TCP:
        return f"a socket of the protocol {sock.proto}, not TCP: the socket unit must not set SocketProtocol="
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "a socket that does not listen, such as a single connection: the socket unit has to have Accept=no"
    return ""


class Notifier:
    """Tells systemd how it goes; does nothing where nobody wants to know. It never waits and never raises.

    What cannot be told is logged, once until something could be told again. Changes of state are told later then, with
    the next call; calls of `watchdog` once a second see to that.
    """

    def __init__(self, environ: MutableMapping[str, str] = os.environ,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._address = _address(environ.pop("NOTIFY_SOCKET", ""))
        self.watchdog_seconds = _watchdog_seconds(environ.pop("WATCHDOG_USEC", None), environ.pop("WATCHDOG_PID", None))
        self._clock = clock
        self._socket: Any = None
        self._failing = False
        self._owed: deque[bytes] = deque(maxlen=MOST_OWED)
        self._status = b""  # the last that was told
        self._last_ping = -math.inf

    @property
    def active(self) -> bool:
        """Somebody wants to know."""
        return bool(self._address)

    def ready(self) -> None:
        """It has started, or has read its configuration again (well or not): miners are served."""
        self._change(b"READY=1")

    def reloading(self) -> None:
        """It begins to read its configuration again; `ready` has to follow."""
        # By the time systemd knows which of its requests this is for (Type=notify-reload).
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._change(b"RELOADING=1\nMONOTONIC_USEC=%d" % now)

    def stopping(self) -> None:
        """It has begun to stop."""
        self._change(b"STOPPING=1")

    def status(self, text: str) -> None:
        """How it goes, for people, in one line; told when it differs from the last."""
        line = _one_line(text)
        if line != self._status and self._catch_up() and self._send(b"STATUS=" + line):
            self._status = line

    def watchdog(self) -> None:
        """A sign of life. Many more of them than systemd needs are not sent."""
        if not self._catch_up() or self.watchdog_seconds is None:
            return
        now = self._clock()
        if now - self._last_ping >= self.watchdog_seconds / 4 and self._send(b"WATCHDOG=1"):
            self._last_ping = now

    def close(self) -> None:
        """Say nothing any more."""
        self._address = b""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _change(self, message: bytes) -> None:
        """Tell a change of state, which must not get lost: systemd ends a service whose READY=1 it never heard."""
        self._owed.append(message)
        self._catch_up()

    def _catch_up(self) -> bool:
        """Tell the changes that are owed; whether none is any more."""
        while self._owed:
            if not self._send(self._owed[0]):
                return False
            self._owed.popleft()
        return True

    def _send(self, message: bytes) -> bool:
        """Whether the message could be left with systemd, or need not be."""
        if not self._address:
            return True
        try:
            if self._socket is None:  # kept from then on: signs of life must not need a free descriptor
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
            self._socket.sendto(message, self._address)
        except OSError as failure:
            if not self._failing:
                log.warning("systemd could not be told %s over %s: %s", message.split(b"\n")[0].decode(),
                            _shown(self._address), failure.strerror or failure)
            self._failing = True
            return False
        if self._failing:
            log.info("systemd could be told %s again", message.split(b"=")[0].decode())
        self._failing = False
        return True


def _address(text: str) -> bytes:
    """The address for the kernel of what NOTIFY_SOCKET names; empty for none."""
    if text[:1] in ("/", "@") and len(text) > 1:
        address = os.fsencode(text)
        return b"\0" + address[1:] if text[0] == "@" else address
    if text:
        log.warning("systemd wants to be told over %s, which this program cannot: NOTIFY_SOCKET has to be a path or an "
                    "abstract Unix socket", text)
    return b""


def _shown(address: bytes) -> str:
    return os.fsdecode(b"@" + address[1:] if address[:1] == b"\0" else address)


def _watchdog_seconds(usec: str | None, pid: str | None) -> float | None:
    """Seconds without a sign of life after which systemd ends this process; None: it does not watch."""
    if usec is None:
        return None
    try:
        number = _number("WATCHDOG_USEC", usec)
        if pid is not None and _number("WATCHDOG_PID", pid) != os.getpid():
            return None
        if not 0 < number < USEC_INFINITY:
            raise ActivationError(f"WATCHDOG_USEC is {number}, which is no time")
    except ActivationError as fault:
        log.warning("systemd gets no signs of life: %s", fault)
        return None
    return number / 1e6


def _one_line(text: str) -> bytes:
    """A status as systemd takes it: no line feeds, as with them it would say more than a status, and not too long."""
    line = clean(" ".join(text.split())).encode()
    if len(line) > LONGEST_STATUS:
        line = line[:LONGEST_STATUS - len("…".encode())].decode(errors="ignore").encode() + "…".encode()
    return line
