"""One connection at the simulated pool: answers the miner's requests."""

from __future__ import annotations

import json
import logging
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import gevent
from gevent import socket

from karoo.net.connection import Connection, LineTooLong
from karoo.sim import pool_judge
from karoo.sim.books import ShareRecord
from karoo.sim.pool_judge import SentJob, Session, SubmitFacts
from karoo.stratum import messages, methods
from karoo.stratum.errors import Malformed, ProtocolError, StratumError, Unauthorized
from karoo.stratum.job import Job
from karoo.stratum.messages import Id, Notification, Request

if TYPE_CHECKING:
    from karoo.sim.pool import SimulatedPool

log = logging.getLogger("karoo.sim.pool")
KEEP_LINES = 1000
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class PoolClient:
    """One connection. ``users`` holds who was authorized on it, with the passwords."""

    def __init__(self, pool: SimulatedPool, connection: Connection, sock: Any, serial: int) -> None:
        self.pool = pool
        self.connection = connection
        self._sock = sock
        self.serial = serial
        self.session: Session | None = None
        self.asked_session: str | None = None
        self.agent = ""
        self.users: dict[str, str] = {}
        self.refused_users: list[str] = []
        self.asked_mask: int | None = None
        self.mask = 0
        self.takes_extranonce = False
        self.gets_jobs = False
        self.difficulty: float | None = None
        self.suggested: float | None = None
        self.lines: deque[bytes] = deque(maxlen=KEEP_LINES)
        self.greenlet = gevent.getcurrent()
        self._delayed: deque[tuple[float, bytes]] = deque()
        self._sender: gevent.Greenlet | None = None
        # mining.ping is answered although few miners send it: some proxies do.
        self._handlers: dict[str, Callable[[Request], None]] = {
            "mining.configure": self._on_configure,
            "mining.subscribe": self._on_subscribe,
            "mining.authorize": self._on_authorize,
            "mining.submit": self._on_submit,
            "mining.extranonce.subscribe": self._on_extranonce_subscribe,
            "mining.suggest_difficulty": self._on_suggest_difficulty,
            "mining.ping": lambda request: self.send(messages.result(request.id, "pong")),
        }

    @property
    def extranonce1(self) -> bytes:
        return self.session.extranonce1 if self.session else b""

    def run(self) -> None:
        """Read and answer until either side closes."""
        pool = self.pool
        try:
            while pool.reading.wait() and (line := self.connection.read_line()) is not None:
                pool.reading.wait()  # what arrived while the pool is paused stays unread
                self._receive(line)
                pool.changes.notify()
        except (LineTooLong, ProtocolError) as error:
            log.info("connection %d: cut: %s", self.serial, error)
            pool.books.bad_lines += 1
        finally:
            if self._sender is not None:
                self._sender.kill(block=False)
            self.connection.close()

    def reset_on_close(self) -> None:
        """When it is closed the peer gets a reset, and loses what it did not read yet."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)

    # ------------------------------------------------------------------ sending

    def send(self, data: bytes) -> None:
        """Send a line, late if the pool is slow, always in order."""
        delay = self.pool.options.reply_delay
        if delay <= 0 and not self._delayed:
            self.connection.push(data)
            return
        self._delayed.append((time.monotonic() + delay, data))
        if not self._sender:
            self._sender = gevent.spawn(self._send_delayed)

    def _send_delayed(self) -> None:
        while self._delayed:
            due, data = self._delayed[0]
            gevent.sleep(max(0.0, due - time.monotonic()))
            self.connection.push(data)
            self._delayed.popleft()  # only now: until it is sent, later lines must queue behind it

    def send_difficulty(self) -> None:
        self.difficulty = self.pool.difficulty
        self.send(messages.notification("mining.set_difficulty", [self.difficulty]))

    def send_job(self, job: Job, clean: bool) -> None:
        """Send a job and note under which extranonce1 and difficulty."""
        assert self.session is not None
        self.session.sent = {i: sent for i, sent in self.session.sent.items() if self.pool.jobs.get(i)}
        self.session.sent[job.wire_id] = SentJob(job, self.session.extranonce1, self.difficulty or 1.0)
        self.send(job.clean_line if clean else job.line)

    def send_extranonce(self, extranonce1: bytes) -> None:
        assert self.session is not None
        self.session.extranonce1 = extranonce1
        options = self.pool.options
        self.send(messages.notification("mining.set_extranonce", [extranonce1.hex(), options.extranonce2_size]))

    def send_mask(self) -> None:
        if self.asked_mask is not None:
            self.mask = self.asked_mask & self.pool.options.version_mask
            self.send(messages.notification("mining.set_version_mask", [f"{self.mask:08x}"]))

    def _refuse(self, message_id: Id, error: StratumError, result: Literal[False] | None = None) -> bytes:
        """The line that refuses a request, in the form that this pool gives its errors."""
        forms: dict[str, Any] = {
            "array": [error.code, error.message, None],
            "object": {"code": error.code, "message": error.message, "traceback": None},
            "string": error.message,
        }
        answer = {"id": message_id, "result": result, "error": forms.get(self.pool.options.error_form)}
        if self.pool.options.error_form == "reason":
            answer["result"], answer["reject-reason"] = False, error.message
        return json.dumps(answer).encode() + b"\n"

    # ------------------------------------------------------------------ requests

    def _receive(self, line: bytes) -> None:
        self.lines.append(line)
        self.pool.lines.append(line)
        log.debug("connection %d < %s", self.serial, line)
        try:
            message = messages.parse(line)
        except Malformed as error:
            self.send(self._refuse(None, error))
            return
        if not isinstance(message, Request):
            if isinstance(message, Notification):
                self.pool.books.methods[message.method] += 1
            return
        self.pool.books.methods[message.method] += 1
        before = message.method in ("mining.subscribe", "mining.configure")
        if self.pool.options.subscribe_first and self.session is None and not before:
            raise ProtocolError(f"{message.method} before mining.subscribe")
        try:
            handler = self._handlers.get(message.method)
            if handler is None:
                raise StratumError(f"Method {message.method[:40]!r} not found")
            handler(message)
        except StratumError as error:
            self.send(self._refuse(message.id, error))

    def _on_configure(self, request: Request) -> None:
        options = self.pool.options
        asked = methods.Configure.parse(request.params)
        if options.configure == "ignore":
            return
        if options.configure == "error":
            raise StratumError("Unknown method")
        result: dict[str, Any] = dict.fromkeys(asked.unknown, False)
        if asked.version_mask is not None:
            self.asked_mask = asked.version_mask
            self.mask = asked.version_mask & options.version_mask
            result[methods.VERSION_ROLLING] = bool(self.mask)
            if self.mask:
                result["version-rolling.mask"] = f"{self.mask:08x}"
        if asked.minimum_difficulty is not None:
            result[methods.MINIMUM_DIFFICULTY] = False
        if asked.subscribe_extranonce:
            self.takes_extranonce = options.extranonce_subscribe == "accept"
            result[methods.EXTRANONCE_SUBSCRIBE] = self.takes_extranonce
        self.send(messages.result(request.id, result))

    def _on_subscribe(self, request: Request) -> None:
        options = self.pool.options
        asked = methods.Subscribe.parse(request.params)
        self.agent, self.asked_session = asked.agent, asked.session_id
        if self.session is None:
            self.session = self.pool.open_session(self, asked.session_id)
        name = self.session.session_id
        first = {"pairs": [["mining.set_difficulty", name], ["mining.notify", name]],
                 "pair": ["mining.notify", name], "null": None, "string": name}[options.first_member]
        size = str(options.extranonce2_size) if options.e2_as_text else options.extranonce2_size
        self.send(messages.result(request.id, [first, self.session.extranonce1.hex(), size]))
        self._begin()

    def _on_authorize(self, request: Request) -> None:
        options = self.pool.options
        asked = methods.Authorize.parse(request.params)
        further = bool(self.users) and asked.user not in self.users
        if further and options.second_authorize == "ignore":
            return
        refused = further and options.second_authorize == "refuse"
        if refused or (options.allowed is not None and not options.allowed(asked.user)):
            self.refused_users.append(asked.user)
            log.info("connection %d: user %s refused", self.serial, asked.user)
            self.send(self._refuse(request.id, Unauthorized("Unauthorized worker"), False))
            return
        self.users[asked.user] = asked.password
        log.info("connection %d: user %s authorized", self.serial, asked.user)
        self.send(messages.result_true(request.id))
        self._begin()

    def _begin(self) -> None:
        """The first difficulty and the first job, each once this pool sends it. Some miners authorize first."""
        options = self.pool.options
        if self.session is None:
            return
        begun = {"subscribe": True, "authorize": bool(self.users)}
        if self.difficulty is None and begun[options.difficulty_after or options.notify_after]:
            self.send_difficulty()
        if not self.gets_jobs and begun[options.notify_after]:
            self.gets_jobs = True
            if self.pool.jobs.current:
                self.send_job(self.pool.jobs.current, True)

    def _on_extranonce_subscribe(self, request: Request) -> None:
        if self.pool.options.extranonce_subscribe == "error":
            raise StratumError("Method not found")
        if self.pool.options.extranonce_subscribe == "accept":
            self.takes_extranonce = True
            self.send(messages.result_true(request.id))

    def _on_suggest_difficulty(self, request: Request) -> None:
        """Noted and agreed to; the pool's difficulty stays what it is."""
        params = methods.members(request.params, 1, "mining.suggest_difficulty")
        self.suggested = methods.positive(params[0], "the difficulty")
        self.send(messages.result_true(request.id))

    # ------------------------------------------------------------------ shares

    def _on_submit(self, request: Request) -> None:
        facts = SubmitFacts()
        error: StratumError | None = None
        try:
            pool_judge.judge_submit(self, request.params, facts)
            answer = messages.result_true(request.id)
            log.info("accepted: %s, job %s, difficulty %.6g of %.6g", facts.user, facts.job_id, facts.found,
                     facts.needed)
        except StratumError as failure:
            error = failure
            answer = self._refuse(request.id, failure)
            log.info("refused: %s, job %s: %d %s", facts.user, facts.job_id, error.code, error.message)
        if facts.block:
            log.warning("BLOCK found by %s with job %s", facts.user, facts.job_id)
        self.pool.books.record(ShareRecord(
            facts.user, facts.job_id, self.serial, facts.extranonce1, error.code if error else 0,
            error.message if error else "", facts.found, facts.needed, facts.block, request.params))
        self.pool.answer_submit(self, answer)
