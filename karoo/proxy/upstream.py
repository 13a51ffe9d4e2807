"""One pool connection's life: dial, handshake, relay, end; and the answers that it owes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

import gevent

from karoo import config
from karoo.log import wire
from karoo.metrics import Metrics
from karoo.net.connection import Connection, LineTooLong
from karoo.net.dialer import Destination, DialError, Dialled, dial
from karoo.net.dialwords import tls_fault
from karoo.net.layers import Garbled
from karoo.policy.failover import Refusals, same_site
from karoo.policy.versionform import VersionForm
from karoo.policy.workers import WorkerNames
from karoo.proxy import handshake
from karoo.proxy.events import Events, Retired
from karoo.proxy.handshake import AGENT, ANSWER_DEADLINE
from karoo.proxy.lost import Redirected, Replaced, Stuck, UpstreamError
from karoo.proxy.names import UpstreamNames
from karoo.proxy.pending import ACCEPTED, PendingShare, Verdict
from karoo.proxy.waysin import destination_of
from karoo.stratum import messages, methods
from karoo.stratum.errors import Malformed, ProtocolError, StratumError
from karoo.stratum.messages import Notification, Request, Response
from karoo.stratum.methods import Extranonce, Notify, Reconnect
from karoo.units import place

log = logging.getLogger("karoo.upstream")

MAX_LINE = 1 << 20  # a job with 4,000 branches would fit; a line beyond it is an attack or another protocol
MAX_BACKLOG = 8 << 20
MAX_PENDING = 100_000
GRACE = 2.0  # seconds that a replaced connection stays for shares that miners found before they heard of it
MAX_EARLY = 16  # jobs kept that come before the handshake is over


@dataclass(slots=True)
class _Call:
    """A request other than a share that waits for its answer; `None` is handed on when there is none."""

    on_answer: Callable[[Response | None], None]
    deadline: float


class Upstream:
    """One connection to one pool.

    `open()` dials and shakes hands, then `relay()` runs until the end; both raise UpstreamError.
    ``difficulty``, ``mask`` and ``extranonce`` are what the pool said last.
    """

    def __init__(self, pool: config.Upstream, events: Events, metrics: Metrics, *, session_id: str | None = None,
                 address: tuple[str, int] | None = None, one_name: bool = False) -> None:
        self.pool = pool
        self.host, self.port = address or pool.place[:2]
        self.session_id = session_id
        self.resuming = False  # the pool was sent the id of a former session
        self.extranonce: Extranonce | None = None
        self.difficulty = 1.0
        self.mask = 0
        self.connected_at = 0.0
        self.served_since: float | None = None  # monotonic seconds; while and after miners worked on its jobs
        self.refusals = Refusals()
        self._notify: Notify | None = None
        self._job_at = 0.0  # monotonic seconds; when the pool last sent another job than before
        self._retire_at = math.inf
        self.handshake_seconds: dict[str, float] = {}
        self.refused: list[str] = []  # what the pool does not do, in words
        self.names = UpstreamNames(WorkerNames(pool.worker_names, pool.user), pool.password, self._authorize,
                                   self._send_share, one_name)
        self._form = VersionForm()
        self._events, self._metrics = events, metrics
        self._conn: Connection | None = None
        self._dialling: Any = None  # the greenlet in which it dials
        self._next_id = 0
        self._owed: dict[int, PendingShare | _Call] = {}  # by our id, oldest first
        self._early: list[tuple[Notify, float]] | None = []  # None once the handshake is over
        self._end: UpstreamError | None = None

    def __str__(self) -> str:
        address = place(self.host, self.port)
        return address if self.pool.name in ("", address) else f"{self.pool.name} ({address})"

    # ------------------------------------------------------------------ handshake

    def open(self) -> None:
        """Dial, shake hands, wait for the first job."""
        self._metrics.upstream_dials += 1
        try:
            with self.timed("dial"):
                to = replace(destination_of(self.pool), host=self.host, port=self.port)  # the pool may have sent it on
                sock, layer, early = self._dial(to)
            self._conn = Connection(sock, MAX_LINE, MAX_BACKLOG, read_size=65536, layer=layer, early=early)
            if self._end is not None:  # it was told to end while it dialled
                self._conn.close()
                raise self._end
            handshake.shake_hands(self)
        except (DialError, TimeoutError, Malformed) as failure:
            raise UpstreamError(str(failure)) from None
        self.connected_at = monotonic()

    def _dial(self, to: Destination) -> Dialled:
        """Raises DialError, and the reason for which it was told to end meanwhile."""
        self._dialling = gevent.getcurrent()
        try:
            return dial(to, self.pool.handshake_ms / 1e3)
        finally:
            self._dialling = None

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Note how long a step of the handshake took."""
        started = monotonic()
        yield
        self.handshake_seconds[step] = monotonic() - started

    def call(self, method: str, params: Any, seconds: float) -> Response:
        """Ask, and read until the answer is there. Raises TimeoutError, UpstreamError."""
        answers: list[Response | None] = []
        with self.timed(method):
            self.request(method, params, answers.append, math.inf)
            self._read_until(lambda: bool(answers), seconds, f"an answer to {method}")
        assert answers[0] is not None
        return answers[0]

    def wait_for_job(self, seconds: float) -> None:
        """Read until the first job is there. Raises TimeoutError, UpstreamError."""
        with self.timed("first job"):
            self._read_until(lambda: bool(self._early), seconds, "its first job")

    def hear_refusals(self, seconds: float) -> None:
        """After `open`: wait for the answers that the handshake did not wait for."""
        try:
            self._read_until(lambda: not self._owed, seconds, "further answers")
        except TimeoutError as failure:
            self.refused.append(str(failure))

    # ------------------------------------------------------------------ relay

    def relay(self) -> None:
        """Hand on what the pool says, until the connection ends: always by an UpstreamError."""
        early, self._early = self._early or [], None
        for notify, difficulty in early:
            self._events.on_job(notify, difficulty)
        self._read_until(lambda: False, None, "")

    def _read_until(self, done: Callable[[], bool], seconds: float | None, what: str) -> None:
        """Handle lines until `done`. Raises UpstreamError at the end of the connection, TimeoutError when it takes
        more than so many seconds."""
        assert self._conn is not None
        deadline = gevent.Timeout(seconds)
        try:
            with deadline:
                while not done():
                    line = self._conn.read_line()
                    if line is None:
                        raise self._end or UpstreamError(self._conn.cut_reason or self._closed())
                    self._on_line(line)
        except LineTooLong as failure:
            raise UpstreamError(f"the pool sent {failure}") from None
        except Garbled as failure:
            raise UpstreamError(tls_fault(str(failure), bool(self.pool.cert_file))) from None
        except gevent.Timeout as expired:
            if expired is not deadline:
                raise
            raise TimeoutError(f"waited {seconds:g} s for {what}") from None

    def _closed(self) -> str:
        """The pool closed, in words."""
        assert self._conn is not None
        if self._conn.heard or self.pool.place.tls:
            return "the pool closed the connection"
        return "the pool closed the connection; it has said nothing: if this is its port for TLS, set tls: true"

    def _on_line(self, line: bytes) -> None:
        if not line:
            return
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s < %s", self, wire(line))
        taken = messages.taken_id(line)
        if taken is not None:
            self._on_response(Response(taken, True, None))
            return
        try:
            message = messages.parse(line)
        except ProtocolError as failure:
            raise UpstreamError(f"the pool does not speak Stratum: {failure}") from None
        except Malformed as failure:
            log.warning("%s: passed over a message: %s", self, failure)
            return
        if isinstance(message, Response):
            self._on_response(message)
            return
        try:
            self._on_method(message)
        except (StratumError, ValueError) as failure:
            log.warning("%s: passed over a faulty %s: %s", self, message.method, failure)

    def _on_response(self, response: Response) -> None:
        owed = self._owed.pop(response.id, None) if type(response.id) is int else None
        if owed is None:
            self._metrics.unexpected_answers += 1
        elif isinstance(owed, PendingShare):
            now = monotonic()
            owed.waited = now - owed.sent_at
            self._on_verdict(owed, _verdict(response), now)
        else:
            owed.on_answer(response)

    def _on_verdict(self, pending: PendingShare, verdict: Verdict, now: float) -> None:
        """Hand a verdict on; a share whose version bits the pool may have misread is sent once more first."""
        if pending.share.submit.version_bits is not None:
            job, other = pending.share.job, pending.other_form is not None
            mask = job.version_mask | self.mask
            if verdict.accepted:
                self._form.accepted(job.notify.version, mask, other)
            elif not other and self._form.may_be_misread(verdict.code, job.notify.version, mask):
                pending.other_form = verdict
                self.names.submit(pending)
                return
            elif pending.other_form is not None:
                verdict = pending.other_form
        self.refusals.count(verdict.accepted, now)
        pending.asker.settle(pending, verdict)

    def _on_method(self, message: Request | Notification) -> None:
        method, params = message.method, message.params
        if method == "mining.notify":
            notify = Notify.parse(params)
            if notify != self._notify:
                self._notify, self._job_at = notify, monotonic()
            if self._early is None:
                self._events.on_job(notify, self.difficulty)
            else:
                self._early = [*self._early[-MAX_EARLY:], (notify, self.difficulty)]
        elif method == "mining.set_difficulty":
            self.difficulty = methods.positive(methods.members(params, 1, method)[0], "the difficulty")
            if self._early is None:
                self._events.on_difficulty(self.difficulty)
        elif method == "mining.set_extranonce":
            first, size = methods.members(params, 2, method)[:2]
            self.extranonce = Extranonce.parse(first, size)
            if self._early is None:
                self._events.on_extranonce(self.extranonce)
        elif method == "mining.set_version_mask":
            asked = int(self.pool.version_mask, 16)
            self.mask = asked & methods.u32(methods.members(params, 1, method)[0], "the version mask")
            if self._early is None:
                self._events.on_version_mask(self.mask)
        else:
            self._on_rarer_method(message, method, params)

    def _on_rarer_method(self, message: Request | Notification, method: str, params: Any) -> None:
        if method == "client.show_message":
            said = methods.text(methods.members(params, 1, method)[0], "the message", 4096)
            log.info("%s says: %s", self, said)
            self._events.on_other(method, params)
        elif method == "client.reconnect":
            self._reconnect(params)
        elif method == "client.get_version" and isinstance(message, Request):
            self._push(messages.result(message.id, AGENT))
        elif method == "mining.ping" and isinstance(message, Request):
            self._push(messages.result(message.id, "pong"))
        elif isinstance(message, Request):
            self._push(messages.error(message.id, StratumError(f"Unknown method {method[:64]}")))
        elif method.startswith("mining."):
            self._events.on_other(method, params)

    def _reconnect(self, params: Any) -> None:
        asked = Reconnect.parse(params, self.host, self.port)
        if not same_site(self.pool.place.host, asked.host):
            log.warning("%s: client.reconnect to %s refused: another site", self, asked.host)
            return
        self.close(Redirected(asked.host, asked.port, asked.wait))

    # ------------------------------------------------------------------ asking

    def request(self, method: str, params: Any, on_answer: Callable[[Response | None], None], seconds: float) -> None:
        """Ask the pool; `on_answer` gets its response, or None when there was none in so many seconds."""
        if len(self._owed) >= MAX_PENDING:
            on_answer(None)
            return
        self._next_id += 1
        self._owed[self._next_id] = _Call(on_answer, monotonic() + seconds)
        self._push(messages.request(self._next_id, method, params))

    def submit(self, pending: PendingShare) -> None:
        """Forward a share under its worker's name, which is authorized first where it is new."""
        if len(self._owed) >= MAX_PENDING:
            self._events.refuse(pending, Verdict(False, 20, "the pool does not answer"))
            return
        self.names.submit(pending)

    def _send_share(self, pending: PendingShare, user_json: bytes) -> None:
        share = pending.share
        job, submit = share.job, share.submit
        bits = b""
        mask = job.version_mask | self.mask  # as it was judged; a pool without version rolling wants 5 parameters
        if submit.version_bits is not None and mask:
            bits = b',"%08x"' % self._form.bits(share.version, job.notify.version, mask, pending.other_form is not None)
        self._next_id += 1
        self._owed[self._next_id] = pending
        pending.sent_at = monotonic()
        line = b'{"id":%d,"method":"mining.submit","params":[%s,%s,"%s","%08x","%08x"%s]}\n' % (
            self._next_id, user_json, job.id_json, (pending.prefix + submit.extranonce2).hex().encode(),
            submit.ntime, submit.nonce, bits)
        assert self._conn is not None
        if share.is_block:
            self._conn.push(line)
        else:
            self._conn.push_soon(line)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s > %s", self, wire(line))

    def _authorize(self, user: str, password: str, on_answer: Callable[[Response | None], None]) -> None:
        self.request("mining.authorize", [user, password], on_answer, ANSWER_DEADLINE)

    def _push(self, data: bytes) -> None:
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s > %s", self, wire(data))
        assert self._conn is not None
        self._conn.push(data)

    # ------------------------------------------------------------------ the end

    @property
    def last_heard(self) -> float:
        """When its last line was read, monotonic seconds."""
        return self._conn.last_heard if self._conn is not None else 0.0

    @property
    def owed(self) -> int:
        """How many answers the pool owes."""
        return len(self._owed)

    @property
    def owes_verdicts(self) -> bool:
        """It has shares that it did not answer, or will be sent as soon as it knows their names."""
        return self.names.holds_shares or any(isinstance(owed, PendingShare) for owed in self._owed.values())

    def sweep(self, now: float) -> None:
        """Once a second: give up on answers that are overdue, and on a pool that is silent."""
        self.names.sweep(now)
        for key, owed in list(self._owed.items()):
            if isinstance(owed, PendingShare):
                if owed.sent_at + ANSWER_DEADLINE <= now:
                    del self._owed[key]
                    self._events.refuse(owed, Verdict(False, 20, f"the pool did not answer in {ANSWER_DEADLINE:g} s"))
            elif owed.deadline <= now:
                del self._owed[key]
                owed.on_answer(None)
        pool = self.pool
        if self._conn is not None and now - self._conn.last_heard > pool.silence_ms / 1e3:
            self.close(UpstreamError(f"the pool was silent for {pool.silence_ms / 1e3:g} s"))
        elif self._early is None and pool.stale_job_ms and now - self._job_at > pool.stale_job_ms / 1e3:
            block = self._notify.prevhash if self._notify is not None else b""
            self.close(Stuck(f"the pool sent no new job for {pool.stale_job_ms / 1e3:g} s", block))
        elif now >= self._retire_at and not self.owes_verdicts:
            self.close(Replaced("another pool took over"))

    def retire(self, now: float) -> None:
        """Another connection took its place: it only settles what it owes, and the shares that are still on the way."""
        self._events = Retired(self._events)
        self._retire_at = now + GRACE

    def close(self, reason: UpstreamError | None = None) -> None:
        """End the connection, or the dial for it; `open` and `relay` raise the reason."""
        self._end = self._end or reason or UpstreamError("closed")
        if self._conn is not None:
            self._conn.close(str(self._end))
        elif self._dialling is not None:
            gevent.get_hub().loop.run_callback(self._end_dial)

    def _end_dial(self) -> None:
        if self._dialling is not None:  # it may be through meanwhile
            self._dialling.throw(self._end)

    def orphans(self) -> list[PendingShare]:
        """After the end: the shares whose verdict will not come. Other requests are told that there is no answer."""
        owed, self._owed = list(self._owed.values()), {}
        for one in owed:
            if isinstance(one, _Call):
                one.on_answer(None)
        return [one for one in owed if isinstance(one, PendingShare)]

    @property
    def closing(self) -> bool:
        """It was told to end, or has ended."""
        return self._end is not None


def _verdict(response: Response) -> Verdict:
    if response.result is True and not response.error:
        return ACCEPTED
    code, text = methods.error_words(response.error, response.reject_reason)
    return Verdict(False, code, text, response.error, of_pool=True)
