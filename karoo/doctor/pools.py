"""A pool as the proxy would find it: dialled, asked up to its first job, and left. What it means is in `poolwords`."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import monotonic, time

import gevent
from cryptography import x509

from karoo import config
from karoo.metrics import Metrics
from karoo.net.dialer import DialError, dial
from karoo.net.tls import ClientFiles
from karoo.policy.workers import PASSTHROUGH, SINGLE
from karoo.proxy import handshake
from karoo.proxy.events import Unheard
from karoo.proxy.lost import UpstreamError
from karoo.proxy.upstream import Upstream
from karoo.proxy.waysin import destination_of
from karoo.stratum.methods import Extranonce, Notify

PROBES = 2  # dials besides, for the time that they take
PROBE_SECONDS, NAME_SECONDS, REFUSAL_SECONDS = 5.0, 3.0, 1.0
MOST_SAID = 5
WORKER = "doctor"  # a worker that no share is sent for: at the worst a pool lists it, with nothing


@dataclass(slots=True)
class Shown:
    """What a pool shows on TLS, whether or not it is accepted; times are Unix seconds."""

    version: str
    fingerprint: str
    subject: str = ""
    issuer: str = ""
    begins: float | None = None
    ends: float | None = None


@dataclass(slots=True)
class Facts:
    """All that was seen of a pool. ``failure``: why there was no job. ``second``: what a second worker name got."""

    pool: config.Upstream
    user: str
    seconds: dict[str, float] = field(default_factory=dict)  # of each step of the handshake
    dials: list[float] = field(default_factory=list)  # seconds, of those besides
    shown: Shown | None = None
    notify: Notify | None = None
    arrived: float = 0.0  # Unix seconds
    difficulty: float = 1.0
    extranonce: Extranonce | None = None
    mask: int = 0
    refused: list[str] = field(default_factory=list)
    second: str = ""  # not tried where empty
    second_user: str = ""
    failure: str = ""
    said: list[str] = field(default_factory=list)  # what the log would have of it

    @property
    def ahead(self) -> float | None:
        """The job's time less this clock, in seconds."""
        return None if self.notify is None else self.notify.ntime - self.arrived


class _FirstJob(Unheard):
    """Keeps the first job of a connection, and ends it."""

    def __init__(self) -> None:
        self.job: tuple[Notify, float] | None = None

    def on_job(self, notify: Notify, difficulty: float) -> None:
        self.job = self.job or (notify, difficulty)
        raise UpstreamError("seen enough")


def look(pool: config.Upstream, seconds: float) -> Facts:
    """Connect to a pool up to its first job, within so many seconds: one session of a moment, and `PROBES` connections
    on which nothing is said."""
    upstream = Upstream(pool, events := _FirstJob(), Metrics())
    facts = Facts(pool, upstream.names.policy.default_user)
    deadline = gevent.Timeout(seconds)
    try:
        with deadline, _log_of(upstream, facts.said):
            _session(upstream, events, facts)
            _probe(pool, facts)
    except gevent.Timeout as expired:
        if expired is not deadline:
            raise
        facts.failure = facts.failure or f"it took more than {seconds:g} s; the last step that was done: " + (
            next(reversed(upstream.handshake_seconds), "none"))
    finally:
        upstream.close()
    if facts.notify is not None and facts.failure.startswith("it took more"):
        facts.failure = ""  # the rest was for the figures only
    return facts


def _session(upstream: Upstream, events: _FirstJob, facts: Facts) -> None:
    try:
        upstream.open()
        facts.arrived = time() - (monotonic() - upstream.connected_at)
        upstream.hear_refusals(REFUSAL_SECONDS)
        _second_name(upstream, facts)
        upstream.relay()
    except UpstreamError as failure:
        facts.failure = str(failure)
    finally:
        upstream.close()
        facts.seconds, facts.refused = upstream.handshake_seconds, upstream.refused
        facts.extranonce, facts.mask = upstream.extranonce, upstream.mask
    if events.job is not None:
        facts.failure = ""
        facts.notify, facts.difficulty = events.job


def _second_name(upstream: Upstream, facts: Facts) -> None:
    """Does the pool take a worker's name beside the user, as `worker_names: suffix` wants? No share is sent for it."""
    policy = upstream.names.policy
    name = policy.upstream_user(f"x.{WORKER}")
    if policy.mode in (SINGLE, PASSTHROUGH) or name == facts.user:
        return
    facts.second_user = name
    steps = dict(upstream.handshake_seconds)
    try:
        answer = upstream.call("mining.authorize", [name, upstream.pool.password], NAME_SECONDS)
        facts.second = "taken" if answer.result is True else f"refused: {handshake.words(answer)}"
    except TimeoutError:
        facts.second = "ignored"
    except UpstreamError as failure:
        facts.second = f"refused: {failure}"
    finally:
        upstream.handshake_seconds.clear()
        upstream.handshake_seconds.update(steps)  # the time is that of the first one


def _probe(pool: config.Upstream, facts: Facts) -> None:
    """Dial a few times more, and look at the certificate, whatever it is worth: what is refused is shown too."""
    to = replace(destination_of(pool), files=ClientFiles(False, "", pool.cert_file, pool.key_file), fingerprint="")
    for _ in range(PROBES):
        started = monotonic()
        try:
            dialled = dial(to, min(PROBE_SECONDS, pool.handshake_ms / 1e3))
        except DialError:
            return  # the session's words are better, or it is a pool that minds
        facts.dials.append(monotonic() - started)
        dialled.sock.close()
        if dialled.layer is not None and dialled.layer.certificate:
            facts.shown = _shown(dialled.layer.version, dialled.layer.certificate)


def _shown(version: str, der: bytes) -> Shown:
    found = Shown(version, hashlib.sha256(der).hexdigest())
    try:
        certificate = x509.load_der_x509_certificate(der)
        found.subject, found.issuer = certificate.subject.rfc4514_string(), certificate.issuer.rfc4514_string()
        found.begins = certificate.not_valid_before_utc.timestamp()
        found.ends = certificate.not_valid_after_utc.timestamp()
    except ValueError:
        pass  # OpenSSL reads more than is right by the letter
    return found


@contextmanager
def _log_of(upstream: Upstream, said: list[str]) -> Iterator[None]:
    """What the log would have of a connection."""
    handler = _Collect(upstream, said)
    log = logging.getLogger("karoo.upstream")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


class _Collect(logging.Handler):
    def __init__(self, upstream: Upstream, said: list[str]) -> None:
        super().__init__(logging.INFO)
        self._upstream, self._said = upstream, said

    def emit(self, record: logging.LogRecord) -> None:
        about = record.args[0] if isinstance(record.args, tuple) and record.args else None
        if about is self._upstream and len(self._said) < MOST_SAID:
            self._said.append(record.getMessage().removeprefix(f"{self._upstream}: "))
