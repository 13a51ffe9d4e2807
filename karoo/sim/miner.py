"""A simulated miner: really hashes, on one CPU, as fast as it may, and reconnects for ever."""

from __future__ import annotations

import logging
import random
import signal
from collections import Counter
from dataclasses import dataclass, field
from time import monotonic

import gevent
from gevent.event import Event

from karoo import __version__
from karoo.net.tls import ClientFiles, TlsError, client_context
from karoo.sim import grind
from karoo.sim.client import FULL_MASK, StratumClient
from karoo.sim.via import PLAIN, Via, parse_url
from karoo.stratum import difficulty as dif
from karoo.stratum import messages, methods
from karoo.stratum.errors import StratumError
from karoo.stratum.job import Job
from karoo.stratum.messages import Message, Request, Response
from karoo.stratum.share import rolled_version

log = logging.getLogger("karoo.sim.miner")
SLICE = 5000  # hashes between two looks at the connection: 6 ms
SLICE_SECONDS = 0.1  # at most, so that a slow miner notices a new job too
DEFAULT_AGENT = f"karoo-miner/{__version__}"


@dataclass
class MinerOptions:
    """Options of a SimulatedMiner.

    hashrate: hashes a second at most; None: as fast as the CPU does. difficulty_hint: is suggested to the pool.
    applies_difficulty: "next job" (as most miners) or "at once" (NerdMiner).
    nonces_per_work: after so many it takes the next extranonce2 and the next version bits.
    silence_seconds: without a line from the pool it reconnects. takes_extranonce: it asks for mining.set_extranonce.
    source: the address that it comes from, where it is not to be the system's choice.
    via: plain, TLS, WebSocket. Times are in seconds.
    """

    host: str
    port: int
    user: str
    password: str = "x"
    hashrate: float | None = None
    version_rolling: bool = False
    agent: str = DEFAULT_AGENT
    difficulty_hint: float | None = None
    algorithm: str = "sha256d"
    applies_difficulty: str = "next job"
    nonces_per_work: int = 1_000_000
    step_timeout: float = 30.0
    silence_seconds: float = 120.0
    backoff_min: float = 0.5
    backoff_max: float = 30.0
    takes_extranonce: bool = True
    source: str = ""
    via: Via = PLAIN


@dataclass
class MinerStats:
    """What a miner did. ``work`` is the sum of the difficulties that its accepted shares had to reach, ``slowest`` the
    longest that it waited for a verdict, in seconds; ``unanswered`` shares never got one: the connection ended."""

    hashes: int = 0
    seconds: float = 0.0
    accepted: int = 0
    work: float = 0.0
    refused: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    connects: int = 0
    slowest: float = 0.0

    @property
    def hashrate(self) -> float:
        return self.hashes / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        refused = ", ".join(f"{count} x {why}" for why, count in self.refused.most_common()) or "none"
        return (f"{self.accepted} accepted (difficulty {self.work:.6g}), refused: {refused}, {self.unanswered} "
                f"unanswered, {self.hashrate / 1000:.1f} kH/s, {self.connects} connects")


@dataclass(frozen=True)
class _Work:
    """A job with an extranonce2 and version bits: all of the header but the nonce (``start``, 76 bytes)."""

    job: Job
    extranonce2: bytes
    bits: int | None
    mask: int
    start: bytes


@dataclass(frozen=True)
class _Submitted:
    found: float
    needed: float
    at: float


class SimulatedMiner(StratumClient):
    """One miner. `run` mines until `stop`, over as many connections as it takes."""

    def __init__(self, options: MinerOptions) -> None:
        super().__init__(options.agent, options.algorithm)
        self.options = options
        self.stats = MinerStats()
        self.stopping = False
        self._place = (options.host, options.port)
        self._told_to_wait = 0.0
        self._submitted: dict[int, _Submitted] = {}
        self._works = 0  # counts extranonce2 and version bits on, over all jobs
        self._wake = Event()

    # ------------------------------------------------------------------ life

    def run(self) -> None:
        """Connect, mine, and connect again, until stopped."""
        options = self.options
        backoff = options.backoff_min
        while not self.stopping:
            place, self._place = self._place, (options.host, options.port)
            try:
                self._log_in(*place)
                backoff = options.backoff_min
                self._mine()
            except (OSError, StratumError) as error:
                log.warning("%s: %s", options.user, error)
            finally:
                self.close()
            if not self.stopping:
                # jitter: miners that lost the same pool must not all come back at once
                self._wake.wait(self._told_to_wait + backoff * random.uniform(0.5, 1.0))
                self._told_to_wait = 0.0
                backoff = min(backoff * 2, options.backoff_max)

    def stop(self) -> None:
        """Let `run` end soon."""
        self.stopping = True
        self._wake.set()
        self.close()

    def _log_in(self, host: str, port: int) -> None:
        options, timeout = self.options, self.options.step_timeout
        self.connect(host, port, timeout, source=options.source, via=options.via)
        self.stats.connects += 1
        if options.version_rolling:
            self.configure(FULL_MASK, timeout)
        self.subscribe(session_id=self.session_id, timeout=timeout)
        if options.difficulty_hint is not None:  # before authorize, so that the first job has it already
            self.call("mining.suggest_difficulty", [options.difficulty_hint])
        if not self.authorize(options.user, options.password, timeout):
            raise StratumError("the pool does not let this user in")
        if options.takes_extranonce:
            self.call("mining.extranonce.subscribe", [])
        log.info("%s: connected to %s:%d, extranonce1 %s, %d bytes of extranonce2, version mask %08x", options.user,
                 host, port, self.extranonce1.hex(), self.extranonce2_size, self.mask)

    @property
    def awaited(self) -> int:
        """How many shares are on their way, without a verdict yet."""
        return len(self._submitted)

    # ------------------------------------------------------------------ mining

    def _mine(self) -> None:
        """Hash the newest job until the connection is closed."""
        self.changes.wait(lambda: self.job or self.closed or self.stopping, self.options.silence_seconds)
        while not self._lost() and self.job is not None:
            self._mine_work(self._next_work(self.job))

    def _mine_work(self, work: _Work) -> None:
        """Hash its nonces, until another job or mask comes."""
        nonce, end = 0, min(self.options.nonces_per_work, grind.NONCES)
        while nonce < end and work.job is self.job and work.mask == self.mask and not self._lost():
            began = monotonic()
            count = min(self._slice(), end - nonce)
            target = self._target(work.job)
            for found, value in grind.hits(work.start, target, nonce, count, self.algorithm):
                self._submit(work, found, value, target)
            nonce += count
            self._rest(began, count)

    def _slice(self) -> int:
        hashrate = self.options.hashrate
        if self.algorithm.name == "scrypt":
            return 20  # 2 ms each
        return SLICE if hashrate is None else max(1, min(SLICE, int(hashrate * SLICE_SECONDS)))

    def _rest(self, began: float, count: int) -> None:
        """Let others run, and sleep as long as the hashrate asks for."""
        due = count / self.options.hashrate if self.options.hashrate else 0.0
        # never 0: that lets other greenlets run but no I/O
        gevent.sleep(max(0.0001, began + due - monotonic()))
        self.stats.hashes += count
        self.stats.seconds += monotonic() - began

    def _lost(self) -> bool:
        if self.silent_seconds > self.options.silence_seconds:
            log.warning("%s: nothing heard for %d s", self.options.user, self.options.silence_seconds)
            return True
        return self.closed or self.stopping

    def _target(self, job: Job) -> int:
        if self.options.applies_difficulty == "at once":
            return dif.target_of(self.difficulty, self.algorithm.diff1)
        return job.target

    def _next_work(self, job: Job) -> _Work:
        self._works += 1
        size = self.job_extranonce2_size
        extranonce2 = (self._works % (1 << 8 * size)).to_bytes(size, "big")
        bits = grind.bits_in_mask(self._works, self.mask) if self.mask else None
        version = rolled_version(job.notify.version, self.mask, bits)
        return _Work(job, extranonce2, bits, self.mask,
                     grind.header_start(job, extranonce2, job.notify.ntime, version))

    def _submit(self, work: _Work, nonce: int, value: int, target: int) -> None:
        diff1, number, notify = self.algorithm.diff1, self.new_id(), work.job.notify
        self._submitted[number] = _Submitted(dif.difficulty_of(value, diff1), dif.difficulty_of(target, diff1),
                                             monotonic())
        params = methods.submit_params(self.options.user, notify.job_id, work.extranonce2, notify.ntime, nonce,
                                       work.bits)
        self.send_bytes(messages.request(number, "mining.submit", params))

    # ------------------------------------------------------------------ what comes in

    def on_message(self, message: Message) -> None:
        if isinstance(message, Response):
            self._on_verdict(message)
        elif message.method == "client.show_message":
            log.info("%s: the pool says: %s", self.options.user, message.params)
        elif message.method == "client.reconnect":
            self._on_reconnect(message.params)
        elif isinstance(message, Request):
            answers = {"mining.ping": "pong", "client.get_version": self.agent}
            if message.method in answers:
                self.send_bytes(messages.result(message.id, answers[message.method]))

    def on_closed(self) -> None:
        if not self.stopping:
            log.info("%s: the connection is closed; %s", self.options.user, self.fault or "connects again")
        self.stats.unanswered += len(self._submitted)
        self._submitted.clear()

    def _on_verdict(self, response: Response) -> None:
        share = self._submitted.pop(response.id, None) if type(response.id) is int else None
        if share is None:
            return
        took = (monotonic() - share.at) * 1000
        self.stats.slowest = max(self.stats.slowest, took / 1000)
        if response.result is True:
            self.stats.accepted += 1
            self.stats.work += share.needed
            log.info("%s: accepted %d in %.0f ms, %.1f kH/s, difficulty %.6g of %.6g", self.options.user,
                     self.stats.accepted, took, self.stats.hashrate / 1000, share.found, share.needed)
        else:
            code, why = methods.error_words(response.error, response.reject_reason)
            self.stats.refused[f"{code} {why}"] += 1
            log.warning("%s: refused in %.0f ms, %.1f kH/s, difficulty %.6g of %.6g: %d %s", self.options.user, took,
                        self.stats.hashrate / 1000, share.found, share.needed, code, why)

    def _on_reconnect(self, params: object) -> None:
        """Go where the pool says, if that is the same host; else stay: somebody may have put it into the stream."""
        host, port = self.options.host, self.options.port
        if isinstance(params, list) and params:
            if params[0] not in ("", None, host):
                log.warning("%s: does not follow the pool to %s", self.options.user, params[0])
                return
            if len(params) > 1 and str(params[1]).isdecimal():
                port = int(params[1])
            if len(params) > 2 and str(params[2]).isdecimal():
                self._told_to_wait = min(float(params[2]), self.options.backoff_max)
        log.info("%s: reconnects to %s:%d as the pool says", self.options.user, host, port)
        self._place = (host, port)
        self.close()


def user_names(user: str, count: int) -> list[str]:
    """The users of so many miners: the number in place of `{n}`, or after a dot where there is none."""
    if "{n}" in user:
        return [user.replace("{n}", str(n)) for n in range(1, count + 1)]
    return [user] if count == 1 else [f"{user}.{n}" for n in range(1, count + 1)]


def run(url: str, user: str, *, password: str = "x", count: int = 1, hashrate: float | None = None,
        version_rolling: bool = False, agent: str = DEFAULT_AGENT, seconds: float | None = None,
        shares: int | None = None, difficulty_hint: float | None = None, algorithm: str = "sha256d",
        tls: ClientFiles | None = None) -> int:
    """Run miners until SIGINT or SIGTERM, for so many seconds, or until so many shares are accepted in all.

    `hashrate` is each miner's, in hashes a second; `tls` how a server's certificate is checked. Returns
    the exit code; raises ValueError for a bad url, or files of certificates that cannot be used.
    """
    host, port, via = parse_url(url, tls)
    try:
        client_context(via.files)
    except TlsError as fault:
        raise ValueError(str(fault)) from None
    miners = [SimulatedMiner(MinerOptions(host, port, name, password, hashrate, version_rolling, agent,
                                          difficulty_hint, algorithm, via=via)) for name in user_names(user, count)]
    ended = Event()
    watchers = [gevent.signal_handler(number, ended.set) for number in (signal.SIGINT, signal.SIGTERM)]
    began = monotonic()
    greenlets = [gevent.spawn(miner.run) for miner in miners]
    try:
        while not ended.wait(0.2):
            if seconds is not None and monotonic() - began >= seconds:
                break
            if shares is not None and sum(miner.stats.accepted for miner in miners) >= shares:
                break
    finally:
        for miner in miners:
            miner.stop()
        gevent.joinall(greenlets, timeout=2)
        gevent.killall(greenlets)  # those that were just dialling
        for watcher in watchers:
            watcher.cancel()
    for miner in miners:
        log.info("%s: %s", miner.options.user, miner.stats)
    return 0
