"""A miner driven by hand: each test says what it sends, and sees all that it gets."""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gevent
from gevent.event import AsyncResult

from karoo.sim import grind
from karoo.sim.client import StratumClient
from karoo.stratum import difficulty as dif
from karoo.stratum import messages, methods
from karoo.stratum.job import Job
from karoo.stratum.messages import Id, Message, Notification, Request, Response
from karoo.stratum.share import rolled_version

SLICE = 20_000  # hashes without letting others run
MAX_HASHES = 20_000_000


@dataclass(frozen=True)
class FoundShare:
    """A share that was ground; `value` is its hash, `difficulty` what that reaches."""

    job: Job
    extranonce2: bytes
    ntime: int
    nonce: int
    version_bits: int | None
    value: int
    difficulty: float

    def params(self, user: str) -> list[str]:
        """Those of mining.submit."""
        return methods.submit_params(user, self.job.notify.job_id, self.extranonce2, self.ntime, self.nonce,
                                     self.version_bits)


class ScriptedMiner(StratumClient):
    """A miner for tests. Whatever it waits for in vain raises AssertionError with all that it received.

    ``received`` holds the notifications and requests that came, ``messages`` all messages,
    ``lines`` their lines, each in order over all connections.
    """

    def __init__(self, agent: str = "scripted/1.0", algorithm: str = "sha256d") -> None:
        super().__init__(agent, algorithm)
        self.received: list[Notification | Request] = []
        self.messages: list[Message] = []
        self.lines: list[bytes] = []
        self._seen: dict[str, int] = {}  # by method: where in `received` to look for the next one
        self._skipped = 0
        self._extranonce2 = itertools.count(1)
        self._answers: dict[Id, deque[AsyncResult]] = {}

    @property
    def job_params(self) -> list[Any]:
        """The parameters of the newest mining.notify as they came."""
        return next(m.params for m in reversed(self.received) if m.method == "mining.notify")

    def start(self, host: str, port: int, user: str = "user.rig", mask: int | None = None) -> Job:
        """What most tests begin with: connect, configure if a mask is asked for, subscribe, authorize;
        returns the first job. What came until then is not waited for again."""
        self.connect(host, port)
        if mask is not None:
            self.configure(mask)
        self.subscribe()
        assert self.authorize(user), f"{user} is not let in"
        job = self.wait_job()
        self.skip()
        return job

    # ------------------------------------------------------------------ sending

    def send(self, message: Any) -> None:
        """A message as an object, or a line as text or bytes; the answer to a request is for `answer`."""
        if isinstance(message, str):
            message = message.encode()
        if not isinstance(message, bytes):
            if message.get("method") and message.get("id") is not None:
                self._remember(message["id"], self._expect(message["method"], message["id"]))
            message = json.dumps(message).encode()
        self.send_bytes(message if message.endswith(b"\n") else message + b"\n")

    def notify(self, method: str, params: Any) -> None:
        """A call that wants no answer."""
        self.send_bytes(messages.notification(method, params))

    def request_async(self, method: str, params: Any, message_id: Id = None) -> Id:
        """Send a request and return its id; its answer is for `answer`."""
        message_id = self.new_id() if message_id is None else message_id
        self._remember(message_id, self.call(method, params, message_id))
        return message_id

    def answer(self, message_id: Id, timeout: float = 5.0) -> Response:
        """The answer to the oldest such request that it was not asked for yet."""
        answers = self._answers.get(message_id)
        if not answers:
            raise self._failure(f"no request with the id {message_id!r} waits for an answer")
        return self.take(answers.popleft(), timeout, f"request {message_id!r}")

    def _remember(self, message_id: Id, answer: AsyncResult) -> None:
        self._answers.setdefault(message_id, deque()).append(answer)

    # ------------------------------------------------------------------ shares

    def find_share(self, difficulty: float | None = None, at_most: float | None = None, job: Job | None = None, *,
                   extranonce2: bytes | None = None, ntime: int | None = None,
                   version_bits: int | None = None, xor: bool = False) -> FoundShare:
        """A share of the newest job (or of `job`) that reaches `difficulty` (the miner's own) and not `at_most`.

        Each call takes another extranonce2, thus gives another share, unless one is named. `version_bits`
        are set in the version as BIP 310 says, or with `xor` as Bitaxe does.
        """
        job = job or self.job
        if job is None:
            raise self._failure("there is no job to find a share for")
        extranonce2 = self._new_extranonce2() if extranonce2 is None else extranonce2
        ntime = job.notify.ntime if ntime is None else ntime
        version = rolled_version(job.notify.version, self.mask, version_bits)
        if xor:
            version = job.notify.version ^ (version_bits or 0)
        start = grind.header_start(job, extranonce2, ntime, version)
        diff1 = self.algorithm.diff1
        target = dif.target_of(self.difficulty if difficulty is None else difficulty, diff1)
        lowest = dif.target_of(at_most, diff1) + 1 if at_most is not None else 0
        for first in range(0, MAX_HASHES, SLICE):
            for nonce, value in grind.hits(start, target, first, SLICE, self.algorithm):
                if value >= lowest:
                    return FoundShare(job, extranonce2, ntime, nonce, version_bits, value,
                                      dif.difficulty_of(value, diff1))
            gevent.sleep(0.0001)  # not 0, which lets only other greenlets run but no I/O
        raise self._failure(f"no share within {MAX_HASHES} hashes")

    def _new_extranonce2(self) -> bytes:
        size = self.job_extranonce2_size
        return (next(self._extranonce2) % (1 << 8 * size)).to_bytes(size, "big")

    def submit(self, share: FoundShare, message_id: Id = None, user: str | None = None, timeout: float = 5.0) -> Any:
        """Submit and wait: True, or the error as it came (None where the pool gave none)."""
        return self.verdict(self.submit_async(share, message_id, user), timeout)

    def submit_async(self, share: FoundShare, message_id: Id = None, user: str | None = None) -> Id:
        """Submit and return the id at once; its verdict is for `verdict`."""
        return self.request_async("mining.submit", share.params(self.user if user is None else user), message_id)

    def verdict(self, message_id: Id, timeout: float = 5.0) -> Any:
        """What became of a `submit_async`: as `submit`."""
        response = self.answer(message_id, timeout)
        return True if response.result is True else response.error

    # ------------------------------------------------------------------ waiting

    def wait(self, predicate: Callable[[], object], timeout: float = 5.0, what: str = "the condition") -> None:
        """Wait until the predicate holds; it is asked again after every message."""
        if not self.changes.wait(predicate, timeout):
            raise self._failure(f"{what}: not within {timeout} s")

    def wait_notification(self, method: str, timeout: float = 5.0) -> Notification | Request:
        """The next call of this method that this did not return yet, perhaps one that came long ago."""
        position = max(self._seen.get(method, 0), self._skipped)

        def unseen() -> Notification | Request | None:
            return next((m for m in itertools.islice(self.received, position, None) if m.method == method), None)

        self.wait(unseen, timeout, method)
        message = unseen()
        assert message is not None
        self._seen[method] = next(i for i, m in enumerate(self.received) if m is message) + 1
        return message

    def skip(self) -> None:
        """What came so far is of no interest: `wait_notification` returns only what comes later."""
        self._skipped = len(self.received)

    def wait_job(self, timeout: float = 5.0) -> Job:
        """The next job, as `wait_notification`; the newest one is then ``job``."""
        self.wait_notification("mining.notify", timeout)
        assert self.job is not None
        return self.job

    def wait_closed(self, timeout: float = 5.0) -> None:
        """Wait until the other side closed (this one must be reading)."""
        self.wait(lambda: self.closed, timeout, "the end of the connection")

    def count(self, method: str) -> int:
        """How many calls of a method came so far."""
        return sum(message.method == method for message in self.received)

    def stop_reading(self) -> None:
        """Read nothing any more and stay connected. The system still takes what fits its buffer."""
        if self._reader is not None:
            self._reader.kill()

    def resume_reading(self) -> None:
        if self._connection is not None:
            self._reader = gevent.spawn(self._read, self._connection)

    # ------------------------------------------------------------------ what StratumClient tells

    def on_line(self, message: Message, line: bytes) -> None:
        self.lines.append(line)
        self.messages.append(message)
        if isinstance(message, (Notification, Request)):
            self.received.append(message)

    def _failure(self, text: str, kind: type[Exception] = AssertionError) -> Exception:
        got = "\n".join(f"  {line[:200]!r}" for line in self.lines[-20:]) or "  nothing"
        return AssertionError(f"{text}; closed: {self.closed} {self.fault}\nreceived:\n{got}")
