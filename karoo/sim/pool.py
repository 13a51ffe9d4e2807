"""A simulated Stratum V1 pool that checks every share by hashing it, and keeps books.

For the demo, for `karoo simulate-pool`, and for every test of the proxy: it does what its
options and its methods say, at once and nothing else.
"""

from __future__ import annotations

import logging
import random
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from gevent import socket
from gevent.event import Event
from gevent.server import StreamServer

from karoo.net.connection import Connection
from karoo.net.tls import Tls
from karoo.sim.books import Books, ShareRecord
from karoo.sim.changes import Changes
from karoo.sim.options import PoolOptions
from karoo.sim.pool_client import PoolClient
from karoo.sim.pool_judge import Session
from karoo.sim.work import WorkMaker
from karoo.stratum import messages
from karoo.stratum.errors import StratumError
from karoo.stratum.job import Job, JobTable
from karoo.stratum.share import Judge

log = logging.getLogger("karoo.sim.pool")
KEEP_LINES = 20_000
KEEP_SESSIONS = 10_000
BACKLOG = 4096  # connections that wait for accept: tests open thousands at once


class SimulatedPool:
    """The pool. Make it with PoolOptions, or with their names: `SimulatedPool(difficulty=1e-6)`.

    ``options`` may be changed while it runs. ``books`` says what was paid and what was called,
    ``shares`` every verdict, ``lines`` every line received, ``connections`` who is there.
    """

    def __init__(self, options: PoolOptions | None = None, **named: Any) -> None:
        if options is not None and named:
            raise TypeError("either PoolOptions or their names")
        self.options = options = options or PoolOptions(**named)
        self.port = options.port
        self.difficulty = options.difficulty
        self.judge = Judge(options.algorithm, tolerant=False)
        self.jobs = JobTable(self.judge.algorithm.diff1)
        self.books = Books()
        self.lines: deque[bytes] = deque(maxlen=KEEP_LINES)
        self.connections: list[PoolClient] = []
        self.changes = Changes()
        self.reading = Event()
        self.reading.set()
        self.hold_answers = False
        self._held: list[tuple[PoolClient, bytes]] = []
        self._sessions: dict[str, Session] = {}
        self._random = random.Random()  # not the seed: two pools must never give the same extranonce1
        self._next_extranonce1 = self._random.getrandbits(64)
        self._work = WorkMaker(options.seed, options.extranonce1_bytes + options.extranonce2_size, options.branches,
                               options.version, options.nbits, options.coinbase_bytes)
        self._server: StreamServer | None = None
        self._timer: gevent.Greenlet | None = None

    @property
    def url(self) -> str:
        """`host:port` of the running pool."""
        return f"{self.options.host}:{self.port}"

    @property
    def shares(self) -> deque[ShareRecord]:
        """The verdicts, oldest first; bounded."""
        return self.books.shares

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Listen; after a stop on the same port again."""
        if self._server is not None:
            raise RuntimeError("the pool runs already")
        if self.jobs.current is None:
            self.new_job()
        server = StreamServer((self.options.host, self.port), self._serve, backlog=BACKLOG)
        server.start()
        self._server = server
        self.port = server.server_port
        if self.options.job_every:
            self._timer = gevent.spawn(self._make_jobs, self.options.job_every)
        log.info("pool on %s, difficulty %g", self.url, self.difficulty)

    def stop(self) -> None:
        """Stop listening and reset every connection, as a pool that crashes. Books and sessions stay."""
        if self._server is not None:
            self._server.stop()
            self._server = None
        if self._timer is not None:
            self._timer.kill()
            self._timer = None
        self._held.clear()
        self._cut(list(self.connections), abruptly=True)

    def __enter__(self) -> SimulatedPool:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def forget(self) -> None:
        """Sessions and jobs are gone, as after a restart that kept nothing; the next extranonce1s are new ones.

        While it runs, the connections are cut and a new job is made.
        """
        self._cut(list(self.connections), abruptly=True)
        self._sessions.clear()
        self.jobs.clear()
        if self._server is not None:
            self.new_job()

    def kick_all(self) -> None:
        """Close every connection; the pool goes on listening."""
        self._cut(list(self.connections), abruptly=False)

    def _serve(self, sock: Any, _address: object) -> None:
        if self._server is None:  # accepted, and stopped before this greenlet ran
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        layer, early = None, b""
        if self.options.tls is not None:
            layer = Tls(self.options.tls)
            try:
                early = layer.shake_hands(sock)
            except OSError as failure:
                log.info("no TLS handshake: %s", failure)
                return
        self.books.connects += 1
        client = PoolClient(self, Connection(sock, layer=layer, early=early), sock, self.books.connects)
        self.connections.append(client)
        log.info("connection %d from %s", client.serial, client.connection.peer)
        self.changes.notify()
        try:
            client.run()
        finally:
            self.connections.remove(client)
            log.info("connection %d closed", client.serial)
            self.changes.notify()

    def _cut(self, clients: list[PoolClient], abruptly: bool) -> None:
        for client in clients:
            if abruptly and not client.connection.closed:
                client.reset_on_close()
            client.connection.close()
        gevent.killall([client.greenlet for client in clients if client.greenlet is not gevent.getcurrent()], timeout=5)

    def open_session(self, client: PoolClient, session_id: str | None) -> Session:
        """The session of a subscribe: the one it asks for if it is known, else a new one (or StratumError).

        Who resumes takes over: a half-dead former connection of the same session is cut.
        """
        session = self._sessions.get(session_id or "") if self.options.resume else None
        if session is not None:
            self._cut([other for other in self.connections if other.session is session], abruptly=True)
            return session
        if session_id and self.options.unknown_session == "refuse":
            raise StratumError("Unknown session")
        session = Session(f"{self._random.getrandbits(32):08x}", self._new_extranonce1())
        self._sessions[session.session_id] = session
        if len(self._sessions) > KEEP_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        return session

    def _new_extranonce1(self) -> bytes:
        """Never the same one twice, until its bytes are used up."""
        self._next_extranonce1 += 1
        size = self.options.extranonce1_bytes
        return (self._next_extranonce1 % (1 << 8 * size)).to_bytes(size, "big")

    # ------------------------------------------------------------------ what it tells the miners

    def new_job(self, clean: bool = True) -> Job:
        """Make a job and send it to everybody who gets jobs."""
        now = time.time() + self.options.ntime_offset
        job = self.jobs.add(self._work.next(clean, int(now)), b"", self.difficulty)
        assert job is not None  # no two jobs are alike
        if job.notify.clean:
            log.info("clean job %s for %d connections", job.wire_id, len(self.connections))
        for client in self._jobbers():
            client.send_job(job, job.notify.clean)
        self.changes.notify()
        return job

    def set_difficulty(self, difficulty: float, then_job: bool = True, clean: bool = False) -> None:
        """A new difficulty for everybody, and a job that it counts for."""
        self.difficulty = difficulty
        for client in self.connections:
            if client.difficulty is not None:
                client.send_difficulty()
        if then_job:
            self.new_job(clean)

    def set_extranonce(self, clean: bool = True) -> None:
        """A new extranonce1 for each connection that subscribed to it, and a job that it counts for."""
        for client in self.connections:
            if client.takes_extranonce and client.session is not None:
                client.send_extranonce(self._new_extranonce1())
        self.new_job(clean)

    def set_version_mask(self, mask: int) -> None:
        """Another mask, for new connections and at once for those that asked for one."""
        self.options.version_mask = mask
        for client in self.connections:
            client.send_mask()

    def reconnect(self, host: str | None = None, port: int | None = None, wait: int = 0) -> None:
        """client.reconnect to everybody; without a host with no parameters (the same place again)."""
        self.send_to_all(messages.notification("client.reconnect", [] if host is None else [host, port, wait]))

    def show_message(self, text: str) -> None:
        self.send_to_all(messages.notification("client.show_message", [text]))

    def send_to_all(self, line: bytes) -> None:
        """A raw line to every connection."""
        for client in self.connections:
            client.send(line if line.endswith(b"\n") else line + b"\n")

    def _jobbers(self) -> list[PoolClient]:
        return [client for client in self.connections if client.gets_jobs and not client.connection.closed]

    def _make_jobs(self, every: float) -> None:
        made = 0
        while True:
            gevent.sleep(every)
            made += 1
            self.new_job(made % self.options.clean_every == 0)

    # ------------------------------------------------------------------ how it misbehaves

    def pause(self) -> None:
        """Read nothing any more: a pool that is silent but connected. Jobs still go out when told."""
        self.reading.clear()

    def resume(self) -> None:
        self.reading.set()

    def answer_submit(self, client: PoolClient, answer: bytes) -> None:
        """Send a verdict, or keep it back while `hold_answers` is set."""
        if self.hold_answers:
            self._held.append((client, answer))
        else:
            client.send(answer)

    def release_answers(self) -> None:
        """Send the verdicts kept back, in their order, and keep none back from now on."""
        self.hold_answers = False
        held, self._held = self._held, []
        for client, answer in held:
            client.send(answer)

    # ------------------------------------------------------------------ for tests

    def wait(self, predicate: Callable[[], object], timeout: float = 5.0) -> None:
        """Wait until the predicate holds; it is asked again whenever something happened at the pool.

        Raises AssertionError with the state of the books.
        """
        if not self.changes.wait(predicate, timeout):
            last = "\n".join(repr(line) for line in list(self.lines)[-10:])
            raise AssertionError(f"not within {timeout} s; {len(self.connections)} connections\n{self.books}\n"
                                 f"last lines:\n{last}")


def run(options: PoolOptions, report_every: float = 60.0) -> int:
    """Run a pool until SIGINT or SIGTERM, with its books in the log from time to time; the exit code."""
    pool = SimulatedPool(options)
    ended = Event()
    watchers = [gevent.signal_handler(number, ended.set) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with pool:
            while not ended.wait(report_every):
                log.info("%s", pool.books.total)
    finally:
        for watcher in watchers:
            watcher.cancel()
    log.info("the books\n%s", pool.books)
    return 0
