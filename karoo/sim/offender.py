"""An attacker's connections: to this machine only, from addresses of their own, counted, and all closed in the end."""

from __future__ import annotations

import itertools
import json
import os
import resource
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from time import monotonic
from typing import Any

from gevent import socket
from gevent.pool import Pool

from karoo.net.layers import Layer
from karoo.pace import pause
from karoo.sim import grind
from karoo.sim.via import PLAIN, Via
from karoo.stratum import messages, methods
from karoo.stratum.difficulty import DIFF1_SHA256D
from karoo.stratum.errors import StratumError
from karoo.stratum.job import Job
from karoo.stratum.methods import Notify

STEP_SECONDS = 5.0  # the longest that a connect, a write or an answer is waited for
SPARE_DESCRIPTORS = 256  # left to whatever else this process does
BATCH = 50  # lines of a flood, or connections, between two short pauses
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Target:
    """A proxy on this machine, the loopback addresses that its attackers have, one after the other, and what is spoken
    there.

    Raises ValueError for any address that is not of this machine: nobody else is ever attacked.
    """

    host: str
    port: int
    sources: tuple[str, ...]
    via: Via = PLAIN

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("an attacker needs an address to come from")
        for address in (self.host, *self.sources):
            if not is_loopback(address):
                raise ValueError(f"{address!r} is no loopback address (127.0.0.0/8 or ::1): attacks stay on this "
                                 "machine")


def is_loopback(address: str) -> bool:
    """Whether it is an address of 127.0.0.0/8, or ::1. A name is none, nor is an IPv4 address in IPv6 clothes."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return found.is_loopback and getattr(found, "ipv4_mapped", None) is None


def addresses(number: int, count: int) -> tuple[str, ...]:
    """So many loopback addresses (250 at most) that differ for each number from 0 to 60,000; never 127.0.0.1."""
    return tuple([f"127.{1 + number // 250}.{number % 250}.{1 + last}" for last in range(count)])


@dataclass(slots=True)
class Record:
    """What happened in an attack. ``cut`` connections were closed by the other side, ``refused`` ones never came
    about; ``lines`` and ``sent_bytes`` were sent, ``read_bytes`` came back. ``over_time``: it had to be stopped."""

    connections: int = 0
    refused: int = 0
    cut: int = 0
    lines: int = 0
    sent_bytes: int = 0
    read_bytes: int = 0
    logged_in: int = 0
    seconds: float = 0.0
    over_time: bool = False

    def __str__(self) -> str:
        return (f"{self.connections} connections ({self.refused} refused, {self.cut} cut, {self.logged_in} logged in), "
                f"{self.lines} lines, {self.sent_bytes / 1e6:.2f} MB sent, {self.read_bytes / 1e6:.2f} MB read, "
                f"{self.seconds:.1f} s{', stopped' if self.over_time else ''}")


@dataclass(frozen=True, slots=True)
class Login:
    """What a logged-in attacker was given; `job` holds its whole extranonce1 and its difficulty."""

    user: str
    job: Job
    extranonce2_size: int

    def share(self, nonce: int, **other: Any) -> list[Any]:
        """The parameters of a mining.submit, good or not; `other` replaces some by name."""
        parts: dict[str, Any] = {"user": self.user, "job_id": self.job.notify.job_id,
                                 "extranonce2": bytes(self.extranonce2_size), "ntime": self.job.notify.ntime} | other
        return methods.submit_params(parts["user"], parts["job_id"], parts["extranonce2"], parts["ntime"],
                                     nonce & 0xFFFFFFFF, parts.get("version_bits"))


class Offender:
    """One connection. ``cut`` once the other side has closed or reset it, which is what an attacker has to expect.

    What is sent and read goes through ``layer``, once there is one."""

    __slots__ = ("_partial", "_record", "_until", "cut", "layer", "sock")

    def __init__(self, sock: Any, record: Record, until: float) -> None:
        self.sock = sock
        self.cut = False
        self.layer: Layer | None = None
        self._until = until
        self._record = record
        self._partial = b""

    def enter(self, host: str, via: Via) -> bool:
        """Go in as somebody honest does; whether it was let in."""
        self.sock.settimeout(self.step())
        try:
            self.layer, self._partial = via.enter(self.sock, host)
        except TimeoutError:
            return False
        except OSError:
            self._lost()
            return False
        return True

    def send(self, data: bytes) -> bool:
        """Whether it could be sent. Waits until the other side took it, for a while."""
        return self.send_raw(data if self.layer is None else self.layer.encode(data), data.count(b"\n"))

    def send_raw(self, data: bytes, lines: int = 0) -> bool:
        """The same, past the layer."""
        if self.cut:
            return False
        self.sock.settimeout(self.step())
        try:
            self.sock.sendall(data)
        except TimeoutError:
            return False
        except OSError:
            self._lost()
            return False
        self._record.sent_bytes += len(data)
        self._record.lines += lines
        return True

    def flood(self, lines: Iterable[bytes], read: bool = True) -> bool:
        """Send as fast as it goes, and read what comes back meanwhile or not; whether it got through to the end."""
        batch: list[bytes] = []
        for line in lines:
            batch.append(line)
            if len(batch) >= BATCH:
                if not self.send(b"".join(batch)):
                    return False
                batch.clear()
                pause()
                if read:
                    self.discard()
        return self.send(b"".join(batch))

    def discard(self) -> None:
        """Read what is there, without waiting."""
        while data := self._receive(0.0):
            self._decoded(data)
        self._partial = b""

    def read(self, until: float) -> list[bytes]:
        """The next lines; none when it is cut, or nothing came until then (monotonic seconds)."""
        while not self.cut and (data := self._receive(max(0.001, until - monotonic()))):
            *lines, self._partial = (self._partial + self._decoded(data)).split(b"\n")
            if lines:
                return lines
        return []

    def read_answers(self, count: int, until: float) -> None:
        """Read so many lines, or until it is cut, or until then (monotonic seconds)."""
        while count > 0 and (lines := self.read(until)):
            count -= len(lines)

    def wait_cut(self, until: float) -> bool:
        """Read and forget until the other side closes, or until then (monotonic seconds); whether it closed."""
        while not self.cut and monotonic() < until:
            self._receive(max(0.001, until - monotonic()))
        return self.cut

    def hear(self, until: float) -> bool:
        """Read and forget what comes next; whether anything came until then (monotonic seconds)."""
        data = self._receive(max(0.001, until - monotonic()))
        return bool(data) and self._decoded(data) is not None

    def _receive(self, seconds: float) -> bytes:
        self.sock.settimeout(seconds)
        try:
            data: bytes = self.sock.recv(65536)
        except (TimeoutError, BlockingIOError):
            return b""
        except OSError:
            data = b""
        if not data:
            self._lost()
        self._record.read_bytes += len(data)
        return data

    def _decoded(self, data: bytes) -> bytes:
        return data if self.layer is None else self.layer.decode(data)

    def step(self) -> float:
        """How long something may be waited for now, in seconds."""
        return max(0.001, min(STEP_SECONDS, self._until - monotonic()))

    def _lost(self) -> None:
        if not self.cut:
            self.cut = True
            self._record.cut += 1

    def log_in(self, user: str, agent: str = "abuse/1.0", password: str = "x") -> Login | None:
        """Subscribe, authorize and wait for a job; None when it is not let in."""
        self.send(messages.request(1, "mining.subscribe", [agent])
                  + messages.request(2, "mining.authorize", [user, password]))
        until = monotonic() + self.step()
        extranonce, difficulty = None, 1.0
        while lines := self.read(until):
            for line in lines:
                message = json.loads(line)
                if message.get("id") == 1 and message.get("result"):
                    extranonce = methods.subscribe_result(message["result"])[1]
                elif message.get("error"):
                    return None
                elif message.get("method") == "mining.set_difficulty":
                    difficulty = float(message["params"][0])
                elif message.get("method") == "mining.notify" and extranonce is not None:
                    job = grind.job_of(Notify.parse(message["params"]), extranonce.extranonce1, difficulty,
                                       DIFF1_SHA256D)
                    self._record.logged_in += 1
                    return Login(user, job, extranonce.extranonce2_size)
        return None

    def reset(self) -> None:
        """Close so that the other side gets a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.close()

    def close(self) -> None:
        self.sock.close()


class Crowd:
    """The attackers of one attack. `scale` says how many of the full number there are; ``until`` is when all must be
    over, in monotonic seconds."""

    def __init__(self, target: Target, scale: float, seconds: float) -> None:
        self.target, self.scale = target, scale
        self.until = monotonic() + seconds
        self.record = Record()
        self.offenders: list[Offender] = []
        self._sources = itertools.cycle(target.sources)
        self._pool = Pool()

    def many(self, full: int) -> int:
        """The scaled number; 1 at least."""
        return max(1, round(full * self.scale))

    @property
    def over(self) -> bool:
        """The time is used up."""
        return monotonic() >= self.until

    def connect(self, receive_buffer: int | None = None) -> Offender | None:
        """One more connection, from the next address, that has gone in as the target asks for; None when it is refused.
        `receive_buffer` is in bytes."""
        family = socket.AF_INET6 if ":" in self.target.host else socket.AF_INET
        sock = None
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.bind((next(self._sources), 0))
            sock.settimeout(STEP_SECONDS)
            sock.connect((self.target.host, self.target.port))
        except OSError:
            self.record.refused += 1
            if sock is not None:
                sock.close()
            return None
        self.record.connections += 1
        offender = Offender(sock, self.record, self.until)
        self.offenders.append(offender)
        if self.record.connections % BATCH == 0:
            pause()
        return offender if offender.enter(self.target.host, self.target.via) else None

    def connect_many(self, count: int, receive_buffer: int | None = None) -> list[Offender]:
        """So many connections, or as many as the descriptors allow and are not refused."""
        count = min(count, free_descriptors() - SPARE_DESCRIPTORS)
        made = (self.connect(receive_buffer) for _ in range(count) if not self.over)
        return [offender for offender in made if offender is not None]

    def each(self, things: Iterable[Any], do: Callable[[Any], None], at_once: int = 20) -> None:
        """Do something with each, so many at a time, and wait until all is done."""
        pool = self._pool = Pool(at_once)
        for thing in things:
            if self.over:
                break
            pool.spawn(self._do, do, thing)
        pool.join()

    @staticmethod
    def _do(do: Callable[[Any], None], thing: Any) -> None:
        # An answer may make no sense to an attacker that is being turned away: that is the end of this one.
        with suppress(OSError, ValueError, LookupError, StratumError):
            do(thing)

    def hold(self) -> None:
        """Wait until every one is cut, or the time is over."""
        for offender in self.offenders:
            offender.wait_cut(self.until)

    @staticmethod
    def standing(offenders: list[Offender]) -> list[Offender]:
        """Those that are not cut."""
        return [offender for offender in offenders if not offender.cut]

    def forget(self, offender: Offender) -> None:
        """Close one before the end."""
        offender.close()
        self.offenders.remove(offender)

    def close(self) -> None:
        self._pool.kill()
        for offender in self.offenders:
            offender.close()


def free_descriptors() -> int:
    """How many more this process may open, after the soft limit was raised as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return (1 << 20 if hard == resource.RLIM_INFINITY else hard) - len(os.listdir("/proc/self/fd"))
