"""The benchmark's miners: as many Stratum connections as wanted in one plain loop, since a greenlet for each would cost
more than the proxy that is measured. They check every answer: none may be lost, come twice, or be a refusal."""

from __future__ import annotations

import errno
import json
import select
import socket
import struct
import time
from collections import Counter
from functools import lru_cache
from typing import Any

from karoo.sim.benchhelper import BenchError

PATIENCE = 10.0  # seconds for an answer or a job; what is not there then is lost
READ = 1 << 14  # bytes at once
EVENTS = 256  # sockets looked at in a turn
PER_SOURCE = 10_000  # connections from each of 127.0.0.1, 127.0.0.2, ...: an address has some 28,000 ports to call from

SUBSCRIBE, AUTHORIZE, FIRST_SHARE = 1, 2, 3  # ids
_TIMESTAMPNS = 35  # SO_TIMESTAMPNS, which Python does not name: the kernel says when it took the data in
_STAMP = struct.Struct("qq")
_STAMP_SPACE = socket.CMSG_SPACE(_STAMP.size)
_BIND_LATER = 24  # IP_BIND_ADDRESS_NO_PORT: the port is chosen when it is known where to
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # leaves no port in TIME_WAIT


@lru_cache(maxsize=8)
def notified(line: bytes) -> tuple[str, str]:
    """Job id and ntime of a mining.notify; all miners get the same line."""
    params = json.loads(line)["params"]
    return params[0], params[7]


class Miner:
    """One connection. ``waiting`` holds its shares without an answer, by id, with when they were sent; ``job_at`` is
    when its newest job came (0: none yet). Times are Unix nanoseconds."""

    __slots__ = ("extranonce2", "job_at", "next_id", "rest", "sock", "template", "user", "waiting")

    def __init__(self, sock: socket.socket, user: str) -> None:
        self.sock, self.user = sock, user
        self.rest = b""  # of a line that has not come whole
        self.extranonce2 = ""
        self.template = b""  # of a share, for its id and its nonce
        self.next_id = FIRST_SHARE
        self.waiting: dict[int, int] = {}
        self.job_at = 0


class Swarm:
    """Miners of the proxy at this port of 127.0.0.1.

    ``answered`` counts the answers to shares. While ``waits`` is a list it gets (when sent, how long until the answer
    was there) of each share, in nanoseconds.
    """

    def __init__(self, port: int, patience: float = PATIENCE) -> None:
        self._port, self._patience = port, patience
        self.miners: list[Miner] = []
        self.by_descriptor: dict[int, Miner] = {}
        self.epoll = select.epoll()
        self.sent = self.answered = self.accepted = self.doubled = self.lost = 0
        self.refused: Counter[str] = Counter()
        self._started = 0  # miners that have had a job
        self.waits: list[tuple[int, int]] | None = None

    @property
    def books(self) -> dict[str, Any]:
        """What became of all shares so far."""
        return {"sent": self.sent, "accepted": self.accepted, "doubled": self.doubled, "lost": self.lost,
                "refused": dict(self.refused)}

    # ------------------------------------------------------------------ life

    def connect(self, count: int) -> list[Miner]:
        """So many more, all at once; those, when each has a job."""
        new: list[Miner] = []
        until = time.monotonic() + 6 * PATIENCE
        while len(new) < count:
            new.append(self._dial())
            if len(new) % 64 == 0:  # those that are there must not wait for all others
                self.turn(0.0)
        while self._started < len(self.miners):
            self.turn(0.1)
            if time.monotonic() > until:
                raise BenchError(f"{len(self.miners) - self._started} of {len(self.miners)} miners have no job "
                                 f"{6 * PATIENCE:g} s after they came")
        return new

    def _dial(self) -> Miner:
        sock = socket.socket()
        sock.setblocking(False)
        number = len(self.miners)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        sock.setsockopt(socket.SOL_SOCKET, _TIMESTAMPNS, 1)
        sock.setsockopt(socket.IPPROTO_IP, _BIND_LATER, 1)
        sock.bind((f"127.0.0.{1 + number // PER_SOURCE}", 0))
        if (failure := sock.connect_ex(("127.0.0.1", self._port))) not in (0, errno.EINPROGRESS):
            raise BenchError(f"miner {number} cannot connect: {errno.errorcode.get(failure, failure)}")
        miner = Miner(sock, f"bench.m{number}")
        self.miners.append(miner)
        self.by_descriptor[sock.fileno()] = miner
        self.epoll.register(sock, select.EPOLLOUT)  # which comes when it is connected
        return miner

    def leave(self, keep: int) -> None:
        """All but the first ones close."""
        for miner in self.miners[keep:]:
            self.epoll.unregister(miner.sock)
            del self.by_descriptor[miner.sock.fileno()]
            miner.sock.close()
        del self.miners[keep:]
        self._started = len(self.miners)

    # ------------------------------------------------------------------ what they say

    @staticmethod
    def _say(miner: Miner, line: bytes) -> None:
        try:
            whole = miner.sock.send(line) == len(line)
        except OSError as failure:
            raise BenchError(f"{miner.user} cannot send: {failure}") from None
        if not whole:
            raise BenchError(f"{miner.user} cannot send: the proxy reads nothing")

    def share(self, miner: Miner) -> None:
        """Send a share. All miners count alike from the same nonce: if two had the same work, a share would come
        twice."""
        number = miner.next_id
        miner.next_id = number + 1
        line = miner.template % (number, number)
        self.sent += 1
        miner.waiting[number] = time.time_ns()
        self._say(miner, line)

    # ------------------------------------------------------------------ what they hear

    def turn(self, seconds: float, stamped: bool = False) -> None:
        """Wait so long for something to come, at most, and take it."""
        for descriptor, event in self.epoll.poll(seconds, EVENTS):
            miner = self.by_descriptor[descriptor]
            if event & select.EPOLLOUT:
                self.epoll.modify(descriptor, select.EPOLLIN)
                self._say(miner, b'{"id":%d,"method":"mining.subscribe","params":["bench/1"]}\n' % SUBSCRIBE)
            else:
                self.take(miner, stamped)

    def take(self, miner: Miner, stamped: bool = False) -> int:
        """Take what a miner was sent; how many answers to shares. `stamped` asks the kernel when it came: dearer, and
        right also where it waited here."""
        ancillary: list[tuple[int, int, bytes]] = []
        try:
            if stamped:
                data, ancillary, _, _ = miner.sock.recvmsg(READ, _STAMP_SPACE)
            else:
                data = miner.sock.recv(READ)
        except OSError as failure:
            raise BenchError(f"{miner.user} lost its connection: {failure}") from None
        if not data:
            raise BenchError(f"{miner.user} was disconnected by the proxy; its last words: {miner.rest!r}")
        at = time.time_ns()
        for _, _, stamp in ancillary:
            seconds, nanoseconds = _STAMP.unpack(stamp)
            at = seconds * 1_000_000_000 + nanoseconds or at
        answered = self.answered
        *lines, miner.rest = (miner.rest + data).split(b"\n")
        for line in lines:
            self._on_line(miner, line, at)
        return self.answered - answered

    def _on_line(self, miner: Miner, line: bytes, at: int) -> None:
        if b'"mining.notify"' in line and b'"method"' in line:
            self._on_job(miner, line, at)
            return
        message = json.loads(line)
        number = message.get("id")
        if message.get("method") is not None:
            return  # a difficulty: every hash reaches it
        if number == SUBSCRIBE:
            miner.extranonce2 = "00" * message["result"][2]
            self._say(miner, b'{"id":%d,"method":"mining.authorize","params":["%s","x"]}\n'
                      % (AUTHORIZE, miner.user.encode()))
        elif number == AUTHORIZE:
            if message["result"] is not True:
                raise BenchError(f"{miner.user} is not let in: {message['error']}")
        else:
            self._on_verdict(miner, message, at)

    def _on_verdict(self, miner: Miner, message: dict[str, Any], at: int) -> None:
        sent = miner.waiting.pop(message["id"], None)
        if sent is None:
            self.doubled += 1
            return
        self.answered += 1
        if message["result"] is True:
            self.accepted += 1
        else:
            error = message.get("error")
            self.refused[str(error[1] if isinstance(error, list) and len(error) > 1 else error)] += 1
        if self.waits is not None:
            self.waits.append((sent, at - sent))

    def _on_job(self, miner: Miner, line: bytes, at: int) -> None:
        self._started += not miner.job_at
        job_id, ntime = notified(line)
        miner.template = (f'{{"id":%d,"method":"mining.submit","params":["{miner.user}","{job_id}",'
                          f'"{miner.extranonce2}","{ntime}","%08x"]}}\n').encode()
        miner.job_at = at

    def settle(self) -> None:
        """Wait until every share has its answer; what has none after `patience` seconds is lost."""
        until = time.monotonic() + self._patience
        while owed := self.sent - self.answered - self.lost:
            if time.monotonic() > until:
                self.lost += owed
                for miner in self.miners:
                    miner.waiting.clear()
                return
            self.turn(0.1, stamped=True)
