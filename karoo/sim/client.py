"""The miner's side of a Stratum connection: sends requests, keeps the state that the pool sets."""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Any

import gevent
from gevent import socket
from gevent.event import AsyncResult

from karoo.net.connection import Connection, LineTooLong
from karoo.net.layers import Garbled, Layer
from karoo.sim import grind
from karoo.sim.changes import Changes
from karoo.sim.via import PLAIN, Via
from karoo.stratum import messages, methods
from karoo.stratum.errors import Malformed, ProtocolError
from karoo.stratum.job import Job
from karoo.stratum.messages import Id, Message, Response
from karoo.stratum.methods import Extranonce, Notify
from karoo.stratum.share import ALGORITHMS

FULL_MASK = 0x1FFFE000  # the bits that BIP 320 frees for version rolling
KEEP_JOBS = 64


class StratumClient:
    """A connection that may be made again and again; its state is that of the present one.

    ``difficulty`` is the newest, ``job`` the newest with the extranonce1 and the difficulty in force
    when it came (``job_extranonce2_size`` is its extranonce2's, in bytes), ``mask`` the granted version mask
    (0: none). ``session_id`` outlives a connection.
    """

    def __init__(self, agent: str = "karoo-miner", algorithm: str = "sha256d") -> None:
        self.agent = agent
        self.algorithm = ALGORITHMS[algorithm]
        self.changes = Changes()
        self.session_id: str | None = None
        self.layer: Layer | None = None
        self._connection: Connection | None = None
        self._reader: gevent.Greenlet | None = None
        self._next_id = 1
        self._reset()

    def _reset(self) -> None:
        self.closed = True
        self.extranonce1 = b""
        self.extranonce2_size = 0
        self.job_extranonce2_size = 0
        self.mask = 0
        self.difficulty = 1.0
        self.job: Job | None = None
        self.jobs: deque[Job] = deque(maxlen=KEEP_JOBS)
        self.user = ""
        self.fault = ""  # why this side closed
        self._waiting: dict[Id, deque[tuple[str, AsyncResult]]] = {}

    # ------------------------------------------------------------------ life

    def connect(self, host: str, port: int, timeout: float = 5.0, receive_buffer: int | None = None,
                source: str = "", via: Via = PLAIN) -> None:
        """Connect, and read from then on; raises OSError. `receive_buffer` bytes makes a miner that stops
        reading be felt sooner by whoever writes to it. `source` is the address to come from."""
        self.close()
        self._reset()
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            if source:
                sock.bind((source, 0))
            sock.settimeout(timeout)
            sock.connect((host, port))
            layer, early = via.enter(sock, host)
            sock.settimeout(None)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            sock.close()
            raise
        self.layer = layer
        self._connection = Connection(sock, max_line=1 << 20, layer=layer, early=early)
        self.closed = False
        self._reader = gevent.spawn(self._read, self._connection)

    def close(self) -> None:
        """Close this side; does nothing when it is closed."""
        if self._connection is not None:
            self._connection.close()
        if self._reader is not None and self._reader is not gevent.getcurrent():
            self._reader.kill()
        self._closed()

    @property
    def silent_seconds(self) -> float:
        """How long ago the other side was heard last."""
        return monotonic() - self._connection.last_heard if self._connection else 0.0

    def _read(self, connection: Connection) -> None:
        try:
            while (line := connection.read_line()) is not None:
                self._receive(line)
                self.changes.notify()
        except (LineTooLong, Garbled, ProtocolError, Malformed) as error:
            self.fault = str(error)
        except gevent.GreenletExit:  # stops reading, stays connected
            return
        connection.close()
        self._closed()

    def _closed(self) -> None:
        if self.closed:
            return
        self.closed = True
        for waiting in self._waiting.values():
            for method, answer in waiting:
                answer.set_exception(self._failure(f"{method}: closed before the answer"))
        self._waiting.clear()
        self.on_closed()
        self.changes.notify()

    # ------------------------------------------------------------------ requests

    def send_bytes(self, data: bytes) -> None:
        """Bytes as they are; lost when the connection is closed."""
        if self._connection is not None:
            self._connection.push(data)

    def new_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1

    def call(self, method: str, params: Any, message_id: Id = None) -> AsyncResult:
        """Send a request (with an id of its own when none is given); the result is its Response, later.

        Answers to requests of the same id are taken in the order of the requests.
        """
        if message_id is None:
            message_id = self.new_id()
        answer = self._expect(method, message_id)
        self.send_bytes(messages.request(message_id, method, params))
        return answer

    def _expect(self, method: str, message_id: Id) -> AsyncResult:
        answer = AsyncResult()
        if self.closed:
            answer.set_exception(self._failure(f"{method}: the connection is closed"))
        else:
            self._waiting.setdefault(message_id, deque()).append((method, answer))
        return answer

    def request(self, method: str, params: Any, timeout: float = 5.0, message_id: Id = None) -> Response:
        """Send a request and wait for its answer. Raises TimeoutError or ConnectionError."""
        return self.take(self.call(method, params, message_id), timeout, method)

    def take(self, answer: AsyncResult, timeout: float, what: str) -> Response:
        """The Response of a `call`, once it is there."""
        try:
            response: Response = answer.get(timeout=timeout)
        except gevent.Timeout:
            raise self._failure(f"{what}: no answer within {timeout} s", TimeoutError) from None
        return response

    def configure(self, mask: int = FULL_MASK, timeout: float = 5.0) -> int:
        """Ask for version rolling; the mask that is granted, 0 when it is refused."""
        options = {"version-rolling.mask": f"{mask:08x}", "version-rolling.min-bit-count": 2}
        response = self.request("mining.configure", [[methods.VERSION_ROLLING], options], timeout)
        return methods.configure_mask(response.result)

    def subscribe(self, agent: str | None = None, session_id: str | None = None, timeout: float = 5.0) -> Extranonce:
        """Subscribe; raises Malformed when the answer is an error or no subscribe result."""
        params = [self.agent if agent is None else agent]
        if session_id is not None:
            params.append(session_id)
        return methods.subscribe_result(self.request("mining.subscribe", params, timeout).result)[1]

    def authorize(self, user: str, password: str = "x", timeout: float = 5.0) -> bool:
        """Whether the user is let in; it is then the one that submits."""
        if not self.user:
            self.user = user
        return self.request("mining.authorize", [user, password], timeout).result is True

    def extranonce_subscribe(self, timeout: float = 5.0) -> bool:
        return self.request("mining.extranonce.subscribe", [], timeout).result is True

    def suggest_difficulty(self, difficulty: float, timeout: float = 5.0) -> bool:
        return self.request("mining.suggest_difficulty", [difficulty], timeout).result is True

    # ------------------------------------------------------------------ what comes in

    def _receive(self, line: bytes) -> None:
        message = messages.parse(line)
        self.on_line(message, line)
        if isinstance(message, Response):
            self._take_answer(message)
        elif message.method == "mining.notify":
            notify = Notify.parse(message.params)
            self.job = grind.job_of(notify, self.extranonce1, self.difficulty, self.algorithm.diff1)
            self.jobs.append(self.job)
            self.job_extranonce2_size = self.extranonce2_size
        elif message.method == "mining.set_difficulty":
            self.difficulty = methods.positive(methods.members(message.params, 1, message.method)[0], "the difficulty")
        elif message.method == "mining.set_extranonce":
            self._take_extranonce(Extranonce.parse(*methods.members(message.params, 2, message.method)[:2]))
        elif message.method == "mining.set_version_mask":
            self.mask = methods.u32(methods.members(message.params, 1, message.method)[0], "the mask")
        self.on_message(message)

    def _take_answer(self, response: Response) -> None:
        """Take over what an answer sets here and not where it is waited for: the lines behind it count after it."""
        waiting = self._waiting.get(response.id)
        if not waiting:
            return
        method, answer = waiting.popleft()
        if not waiting:
            del self._waiting[response.id]
        if method == "mining.subscribe" and response.result is not None:
            self.session_id, extranonce = methods.subscribe_result(response.result)
            self._take_extranonce(extranonce)
        elif method == "mining.configure":
            self.mask = methods.configure_mask(response.result)
        answer.set(response)

    def _take_extranonce(self, extranonce: Extranonce) -> None:
        """It counts from the next job on: the job in hand keeps its own."""
        self.extranonce1, self.extranonce2_size = extranonce.extranonce1, extranonce.extranonce2_size

    # ------------------------------------------------------------------ for subclasses

    def on_line(self, message: Message, line: bytes) -> None:
        """A message came; the state is that before it."""

    def on_message(self, message: Message) -> None:
        """A message came; the state is that after it."""

    def on_closed(self) -> None:
        """The connection is closed, from either side."""

    def _failure(self, text: str, kind: type[Exception] = ConnectionError) -> Exception:
        return kind(text)
