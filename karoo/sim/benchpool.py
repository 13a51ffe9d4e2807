"""The benchmark's pool, a process of its own: one plain loop, so that it costs less than the proxy that is measured.

It says true to every share at once, and keeps it; `check` judges them all afterwards, as the simulated pool would have.
"""

from __future__ import annotations

import os
import re
import selectors
import socket
import sys
import time
from collections import Counter

from karoo import speed
from karoo.sim.benchhelper import Command, obey, tell
from karoo.sim.work import WorkMaker
from karoo.stratum import difficulty as dif
from karoo.stratum import messages, methods
from karoo.stratum.errors import JobNotFound, Malformed, StratumError, Unauthorized
from karoo.stratum.job import Job, JobTable
from karoo.stratum.messages import Message, Request
from karoo.stratum.methods import Submit
from karoo.stratum.share import Judge

EXTRANONCE1_BYTES, EXTRANONCE2_BYTES = 4, 8
MASK = 0x1FFFE000
BRANCHES = 12
VERSION, NBITS = 0x20000000, 0x17034219
READ = 1 << 18  # bytes at once
_ID = re.compile(rb'"id": ?(\d+)')


class Connection:
    """One of the proxy's: ``users`` are those that it may submit for."""

    def __init__(self, sock: socket.socket, extranonce1: bytes) -> None:
        self.sock, self.extranonce1 = sock, extranonce1
        self.users: set[str] = set()
        self.rest = b""  # of a line that has not come whole


class BenchPool:
    """Listens on a free port of 127.0.0.1 and gives everybody the same difficulty."""

    def __init__(self, difficulty: float) -> None:
        self.difficulty = difficulty
        self._target = dif.target_of(difficulty)
        self._judge = Judge("sha256d", tolerant=False, make_work=speed.load().make_work)
        self._table = JobTable()
        self._jobs: dict[str, Job] = {}  # all of them: shares are judged long after their job
        self._work = WorkMaker(1, EXTRANONCE1_BYTES + EXTRANONCE2_BYTES, BRANCHES, VERSION, NBITS)
        self._make_job(True)
        self._connections: list[Connection] = []
        self._opened = 0
        self._kept: list[tuple[Connection, bytes]] = []  # lines with shares that are not judged yet
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    # ------------------------------------------------------------------ the loop

    def run(self) -> None:
        """Serve until stdin ends."""
        commands: dict[str, Command] = {"job": self.job, "check": self.check}
        with selectors.DefaultSelector() as selector:
            selector.register(0, selectors.EVENT_READ)
            selector.register(self._listener, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if isinstance(key.data, Connection):
                        if not self._read(key.data):
                            selector.unregister(key.data.sock)
                            key.data.sock.close()
                            self._connections.remove(key.data)
                    elif key.fd == 0:
                        line = os.read(0, 1 << 16)
                        if not line:
                            return
                        obey(commands, line)
                    else:
                        self._accept(selector)

    def _accept(self, selector: selectors.BaseSelector) -> None:
        sock, _ = self._listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._opened += 1
        connection = Connection(sock, self._opened.to_bytes(EXTRANONCE1_BYTES, "big"))
        self._connections.append(connection)
        selector.register(sock, selectors.EVENT_READ, connection)

    def _read(self, connection: Connection) -> bool:
        """Take what has come; False when that was the end."""
        try:
            data = connection.sock.recv(READ)
            if data:
                lines, end, connection.rest = (connection.rest + data).rpartition(b"\n")
                if end:
                    self._take(connection, lines + end)
            return bool(data)
        except ConnectionError:
            return False

    def _take(self, connection: Connection, lines: bytes) -> None:
        """Whole lines: shares in one go, all else line by line."""
        if lines.count(b'"mining.submit"') == lines.count(b"\n"):
            self._kept.append((connection, lines))
            connection.sock.sendall(b"".join([b'{"id":%s,"result":true,"error":null}\n' % number
                                              for number in _ID.findall(lines)]))
            return
        for line in lines.splitlines(keepends=True):
            if b'"mining.submit"' in line:
                self._take(connection, line)
            else:
                self._answer(connection, messages.parse(line))

    def _answer(self, connection: Connection, message: Message) -> None:
        if not isinstance(message, Request):
            return
        answer: object = True
        if message.method == "mining.configure":
            answer = {methods.VERSION_ROLLING: True, "version-rolling.mask": f"{MASK:08x}"}
        elif message.method == "mining.subscribe":
            answer = [[["mining.notify", "bench"]], connection.extranonce1.hex(), EXTRANONCE2_BYTES]
        connection.sock.sendall(messages.result(message.id, answer))
        if message.method == "mining.authorize":
            first = not connection.users
            connection.users.add(methods.Authorize.parse(message.params).user)
            if first:
                job = self._table.current
                assert job is not None
                connection.sock.sendall(messages.set_difficulty(self.difficulty) + job.clean_line)

    # ------------------------------------------------------------------ commands

    def _make_job(self, clean: bool) -> Job:
        job = self._table.add(self._work.next(clean, int(time.time())), b"", self.difficulty)
        assert job is not None  # no two jobs are alike
        self._jobs[job.wire_id] = job
        return job

    def job(self, clean: bool) -> int:
        """A new job to all; when it went out, in Unix nanoseconds."""
        line = self._make_job(clean).line
        began = time.time_ns()
        for connection in self._connections:
            if connection.users:
                connection.sock.sendall(line)
        return began

    def check(self) -> tuple[int, dict[str, int]]:
        """Judge the shares since the last check: how many were right, and how many were not, by reason."""
        kept, self._kept = self._kept, []
        taken, wrong = 0, Counter[str]()
        for connection, lines in kept:
            for line in lines.splitlines():
                try:
                    self._judge_line(connection, line)
                    taken += 1
                except StratumError as fault:
                    wrong[fault.message] += 1
        return taken, dict(wrong)

    def _judge_line(self, connection: Connection, line: bytes) -> None:
        """Raises StratumError, as a pool would have answered."""
        message = messages.parse(line)
        if not isinstance(message, Request):
            raise Malformed("A submit without an id")
        submit = Submit.parse(message.params)
        job = self._jobs.get(submit.job_id)
        if job is None:
            raise JobNotFound("Job not found")
        if submit.user not in connection.users:
            raise Unauthorized("Unauthorized worker")
        if len(submit.extranonce2) != EXTRANONCE2_BYTES:
            raise Malformed("Invalid extranonce2 size")
        self._judge.judge(job, submit, connection.extranonce1, MASK, self._target, time.time())


def main() -> None:
    """The process: the difficulty is its argument; it tells its port first."""
    pool = BenchPool(float(sys.argv[1]))
    tell(pool.port)
    pool.run()


if __name__ == "__main__":
    main()
