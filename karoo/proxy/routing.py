"""Who is told what: one upstream connection and the sessions that belong to it.

A share comes in by `forward`, and the connection that it went to tells its asker the verdict; a job comes in by
`on_job` and goes out by `_fan_out`. A route outlives its connections: while there is none its sessions wait.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from time import monotonic, time
from typing import Any, Protocol

from gevent.event import Event

from karoo import config, units
from karoo.metrics import Metrics
from karoo.net.connection import Connection
from karoo.net.fanout import WriteAll, write_all
from karoo.pace import SLICE, paced
from karoo.policy.nonce import PrefixSpace, prefix_size
from karoo.policy.workers import WorkerNames
from karoo.proxy.greenlets import Greenlets
from karoo.proxy.lost import UpstreamError
from karoo.proxy.pending import PendingShare, Verdict
from karoo.proxy.upstream import Upstream
from karoo.stratum import difficulty as dif
from karoo.stratum import messages
from karoo.stratum.job import Job, JobTable
from karoo.stratum.messages import Response
from karoo.stratum.methods import Extranonce, Notify
from karoo.timeline import CRITICAL

log = logging.getLogger("karoo.routing")

RENEW_EVERY = 5.0  # seconds
MAX_PASSED_ON = 64  # a miner's questions must leave room for shares
PASSED_ON_AT_ONCE, PASSED_ON_RATE = 20.0, 1.0  # and one a second from then on: a pool that is flooded bans all of us
LOST = Verdict(False, 20, "connection to the pool lost before it answered")
CHANGED = Verdict(False, 21, "the pool gave other work after a lost connection")
FULL = Verdict(False, 20, "pool away, and too many shares wait for it")


class Seated(Protocol):
    """What a route knows of a session."""

    conn: Connection
    prefix: bytes
    session_id: str
    sent_seq: int

    @property
    def gone(self) -> bool: ...
    def take_job(self, job: Job, ceiling: float, oldest_seq: int, now: float) -> bytes: ...
    def stay_below(self, ceiling: float) -> None: ...
    def follow(self, ceiling: float) -> None: ...
    def change_mask(self, mask: int) -> None: ...
    def dismiss(self, reason: str) -> None: ...
    def hear(self, data: bytes) -> None: ...


class Route:
    """The sessions of one upstream connection, its jobs, and its share of the search space."""

    def __init__(self, number: int, pool: config.Upstream, metrics: Metrics, diff1: int,
                 pass_on: bool, changed: Callable[[], None], greenlets: Greenlets, write_all: WriteAll | None) -> None:
        self.number = number
        self.pool = pool  # whose settings are in force; follows the connection
        self.sessions: dict[Seated, None] = {}
        self.jobs = JobTable(diff1)
        self.prefixes: PrefixSpace | None = None
        self.upstream: Upstream | None = None
        self.extranonce: Extranonce | None = None
        self._origin: tuple[str, int, str] | None = None  # where that came from: others may give the same
        self.epoch = 0  # counts the pool's extranonces: a session of an older one must be told
        self.fresh_start = False  # the next connection is not to resume the former session
        self.wanted = Event()  # somebody needs the connection
        self.vacant = Event()  # there is none
        self.vacant.set()
        self._retiring: dict[Upstream, dict[str, Job]] = {}  # connections that were replaced, until they are settled
        self.lost_at: float | None = None
        self._needed_at = monotonic()
        self._renewed_at = -RENEW_EVERY
        self.last_reason = ""
        self._held: list[PendingShare] = []
        self._metrics, self._diff1, self._pass_on, self._changed = metrics, diff1, pass_on, changed
        self._greenlets, self._write_all = greenlets, write_all
        self._passed_on = 0  # miners' requests that the pool owes answers to
        self._may_pass_on, self._passed_on_at = PASSED_ON_AT_ONCE, monotonic()
        self._publishing = False
        self._job_heard = 0.0  # monotonic seconds, when the line of the current job was read

    # ------------------------------------------------------------------ seats

    @property
    def is_up(self) -> bool:
        """A pool is connected, and has sent a job."""
        return self.upstream is not None and not self.upstream.closing and self.jobs.current is not None

    @property
    def owes_verdicts(self) -> bool:
        """A pool is connected that has shares which it did not answer, be it one that was replaced."""
        upstreams = self._retiring if self.upstream is None else (self.upstream, *self._retiring)
        return any(upstream.owes_verdicts for upstream in upstreams if not upstream.closing)

    @property
    def held(self) -> int:
        """Shares that wait for the pool to come back."""
        return len(self._held)

    @property
    def mask(self) -> int:
        """The version-rolling mask of the pool."""
        return self.upstream.mask if self.upstream is not None else 0

    @property
    def names(self) -> WorkerNames | None:
        """How miners appear at the pool that is connected."""
        return self.upstream.names.policy if self.upstream is not None else None

    @property
    def ceiling(self) -> float:
        """The highest difficulty that a session may hold: the current job's, or the pool's where it dropped since."""
        current = self.jobs.current.difficulty if self.jobs.current is not None else math.inf
        return current if self.upstream is None else min(current, self.upstream.difficulty)

    def seat(self, session: Seated, former_id: str | None) -> bool:
        """Give a session a prefix of its own; False when none is left."""
        if self.prefixes is None:
            return False
        prefix = self.prefixes.take(self.jobs.oldest_seq, former_id)
        if prefix is None:
            return False
        session.prefix = prefix
        self.sessions[session] = None
        self.wanted.set()
        return True

    def renew(self) -> None:
        """Nobody is on it and no prefix is left (the former ones' jobs still count): dial for another extranonce1, but
        not more often than a pool bears."""
        now = monotonic()
        if not self.sessions and self.upstream is not None and now - self._renewed_at >= RENEW_EVERY:
            self._renewed_at, self.fresh_start = now, True
            self.upstream.close(UpstreamError("its extranonce space is used up"))

    def leave(self, session: Seated) -> None:
        """A session ended: its prefix is free once its jobs are gone."""
        if session in self.sessions:
            del self.sessions[session]
            if self.prefixes is not None:
                self.prefixes.release(session.prefix, session.sent_seq, session.session_id)
            self._needed_at = monotonic()
            self._changed()

    # ------------------------------------------------------------------ the connection's life

    def opened(self, upstream: Upstream) -> None:
        """A handshake succeeded and a job is there: the sessions go on with this connection, in place of a former one
        where that still stands."""
        assert upstream.extranonce is not None
        now = monotonic()
        if self.upstream is not None:
            self._retire(self.upstream, now)
        origin = (upstream.host, upstream.port, upstream.pool.user)
        resumed = (upstream.extranonce, origin) == (self.extranonce, self._origin)
        self._origin = origin
        self.upstream, self.pool = upstream, upstream.pool
        upstream.served_since = now
        self.vacant.clear()
        self.lost_at, self.last_reason = None, ""
        if not resumed:
            self._renumber(upstream.extranonce)
            self.jobs.clear()
        held, self._held = self._held, []
        for pending in held:
            if resumed:
                upstream.submit(pending)
            else:
                self.refuse(pending, CHANGED)
        self._metrics.timeline.note("pool up", f"{upstream} is up", pool=upstream.pool.name, route=self.number,
                                    resumed=resumed)
        log.info("%s is up: extranonce1 %s, extranonce2_size %d, mask %08x, difficulty %s%s", upstream,
                 upstream.extranonce.extranonce1.hex(), upstream.extranonce.extranonce2_size, upstream.mask,
                 units.difficulty(upstream.difficulty), ", former session resumed" if resumed else "")
        for refused in upstream.refused:
            log.info("%s does not do %s", upstream, refused)
        self.on_version_mask(upstream.mask)
        self.on_difficulty(upstream.difficulty)

    def _retire(self, former: Upstream, now: float) -> None:
        """What it was sent is settled, and shares for its jobs that are still on their way to us go to it."""
        former.retire(now)
        self._retiring[former] = self.jobs.supersede()

    def _renumber(self, extranonce: Extranonce) -> None:
        """Another extranonce: the sessions keep their prefixes where these still fit, else they get new ones."""
        if self.extranonce is not None and self.extranonce.extranonce2_size != extranonce.extranonce2_size:
            self.jobs.clear()  # their shares would have extranonces of another size
            self.jobs.forget_former()
        self.extranonce = extranonce
        self.epoch += 1
        setting = self.pool.prefix_bytes
        size = prefix_size(extranonce.extranonce2_size, None if isinstance(setting, str) else setting)
        if self.prefixes is not None and self.prefixes.size == size:
            self.prefixes.forget_jobs()
            return
        self.jobs.clear()
        self.jobs.forget_former()
        self.prefixes = PrefixSpace(size)
        for session in list(self.sessions):
            prefix = self.prefixes.take(0)
            if prefix is None:
                del self.sessions[session]
                session.dismiss("the pool gives less extranonce space than before")
            else:
                session.prefix = prefix

    def lost(self, upstream: Upstream, reason: str) -> None:
        """A connection ended, or never came about. Shares in flight get an error; later ones are kept for a while."""
        unsent = upstream.names.waiting()
        if upstream is self.upstream:
            self.upstream, self.last_reason = None, reason
            self.vacant.set()
            self.lost_at = monotonic() if self.sessions else None
            room = max(0, self.pool.held_shares - len(self._held))
            self._held += unsent[:room]
            unsent = unsent[room:]
        elif upstream in self._retiring:
            self.jobs.forget_former(self._retiring.pop(upstream))
        elif self.upstream is None:
            self.last_reason = reason
        for pending in unsent:
            self.refuse(pending, FULL)
        for pending in upstream.orphans():
            self.refuse(pending, LOST)

    def give_up(self) -> None:
        """Past hold_ms: every session is ended, so that the miners' own backup pools take over."""
        held, self._held = self._held, []
        for pending in held:
            self.refuse(pending, LOST)
        for session in list(self.sessions):
            session.dismiss("no pool can be reached")
        self.lost_at = None

    # ------------------------------------------------------------------ shares

    def forward(self, pending: PendingShare) -> None:
        """A share that the pool pays for goes to it, or is kept while it is away."""
        former = self._former_of(pending.share.job) if self._retiring else None
        if former is not None:
            former.submit(pending)
        elif self.upstream is not None:
            self.upstream.submit(pending)
        elif len(self._held) < self.pool.held_shares:
            self._held.append(pending)
        else:
            self.refuse(pending, FULL)

    def _former_of(self, job: Job) -> Upstream | None:
        """The connection that a job came by, where that was replaced since."""
        return next((upstream for upstream, jobs in self._retiring.items() if jobs.get(job.wire_id) is job), None)

    def refuse(self, pending: PendingShare, verdict: Verdict) -> None:
        """A share without the pool's verdict may be sent again: it is no duplicate then."""
        pending.share.job.seen.discard(pending.share.key)
        pending.asker.settle(pending, verdict)

    def ask(self, method: str, params: Any, on_answer: Callable[[Response | None], None]) -> None:
        """Pass a miner's request of another method on to the pool; None is the answer where there is no pool."""
        now = monotonic()
        self._may_pass_on = min(PASSED_ON_AT_ONCE, self._may_pass_on + (now - self._passed_on_at) * PASSED_ON_RATE)
        self._passed_on_at = now
        if self.upstream is None or self._passed_on >= MAX_PASSED_ON or self._may_pass_on < 1.0:
            on_answer(None)
            return
        self._passed_on += 1
        self._may_pass_on -= 1.0

        def answered(answer: Response | None) -> None:
            self._passed_on -= 1
            on_answer(answer)

        self.upstream.request(method, params, answered, 30.0)

    @property
    def passes_on(self) -> bool:
        """Methods that are not ours go between pool and miners."""
        return self._pass_on

    # ------------------------------------------------------------------ from the pool

    def on_job(self, notify: Notify, difficulty: float) -> None:
        """A job: encoded once, then sent to each session."""
        assert self.extranonce is not None
        self._metrics.jobs += 1
        self._metrics.last_notify = time()
        before = self.ceiling
        job = self.jobs.add(notify, self.extranonce.extranonce1, difficulty, self.mask)
        self._changed()
        if job is None:
            if self.ceiling != before:  # the same job said again, under another difficulty
                self._each(lambda session: session.follow(self.ceiling))
            return
        if notify.clean:
            log.info("new clean job %s of %s for %d miners: difficulty %s, network difficulty %s", notify.job_id,
                     self.upstream, len(self.sessions), units.difficulty(difficulty),
                     units.difficulty(dif.difficulty_of(notify.network_target, self._diff1)))
        self._job_heard = self.upstream.last_heard if self.upstream is not None else monotonic()
        if not self._publishing:
            self._publishing = True
            self._greenlets.run(self._fan_out, "a job's way to the miners")

    def _fan_out(self) -> None:
        """Send the current job to every session that has not got it, in slices, so that shares are answered
        meanwhile; a job that comes in the middle goes to the rest in place of the former."""
        done = None
        try:
            while self.jobs.current is not done:
                done = self.jobs.current
                sessions = list(self.sessions)
                for at in paced(range(0, len(sessions), SLICE), 1):
                    if self.jobs.current is not None:
                        self._deliver(self.jobs.current, sessions[at:at + SLICE])
                if sessions:
                    self._metrics.job_fanout.observe(monotonic() - self._job_heard)
        finally:
            self._publishing = False

    def _deliver(self, job: Job, sessions: list[Seated]) -> None:
        """Send a job to those that have not got it: its line goes to most of them as it is, in one call."""
        plain: dict[bytes, list[Connection]] = {job.line: [], job.clean_line: []}
        ceiling, oldest_seq, now = self.ceiling, self.jobs.oldest_seq, monotonic()
        for session in sessions:
            if session.sent_seq < job.seq and (data := session.take_job(job, ceiling, oldest_seq, now)):
                if data in plain:
                    plain[data].append(session.conn)
                else:
                    session.conn.push(data)
        for line, connections in plain.items():
            write_all(connections, line, self._write_all)

    def on_difficulty(self, difficulty: float) -> None:
        """A rise counts with the next job, a drop at once."""
        self._each(lambda session: session.stay_below(self.ceiling))

    def on_extranonce(self, extranonce: Extranonce) -> None:
        """In force with the next job; the former jobs stay valid under the former one."""
        if extranonce != self.extranonce:
            log.info("%s changes extranonce1 to %s, extranonce2_size %d", self.upstream,
                     extranonce.extranonce1.hex(), extranonce.extranonce2_size)
            self._renumber(extranonce)

    def on_version_mask(self, mask: int) -> None:
        self._each(lambda session: session.change_mask(self.mask))

    def on_other(self, method: str, params: Any) -> None:
        """Messages that only miners can make something of."""
        if self._pass_on or method == "client.show_message":
            line = messages.notification(method, params)
            self._each(lambda session: session.hear(line))

    def _each(self, do: Callable[[Seated], None]) -> None:
        """Tell every session something, in slices as a job."""
        def run() -> None:
            for session in paced(list(self.sessions)):
                do(session)
        self._greenlets.run(run, "a message to all miners")

    # ------------------------------------------------------------------ once a second

    def sweep(self, now: float, waited_for: bool) -> None:
        """Deadlines of the connection, of the miners that wait for it, and of one that nobody needs."""
        if self.sessions or waited_for:
            self._needed_at = now
            self.wanted.set()
        for upstream in (self.upstream, *self._retiring):
            if upstream is not None:
                upstream.sweep(now)
        if self.lost_at is not None and now - self.lost_at > self.pool.hold_ms / 1e3:
            text = f"no pool for {units.duration(now - self.lost_at)}: {len(self.sessions)} miners are disconnected"
            log.warning("%s", text)
            self._metrics.timeline.note("pool lost", text, CRITICAL, route=self.number)
            self.give_up()
        if now - self._needed_at > self.pool.idle_grace_ms / 1e3:
            self.wanted.clear()
            if self.upstream is not None:
                self.upstream.close(UpstreamError("no miner is left"))

    def snapshot(self, now: float) -> dict[str, Any]:
        """Its state as plain data."""
        upstream, extranonce, job, space = self.upstream, self.extranonce, self.jobs.current, self.prefixes
        return {
            "number": self.number, "pool": str(upstream) if upstream else self.pool.name,
            "address": units.place(upstream.host, upstream.port) if upstream else None, "up": self.is_up,
            "up_seconds": round(now - upstream.connected_at, 1) if upstream else None,
            "user": upstream.names.policy.default_user if upstream else None, "reason": self.last_reason,
            "sessions": len(self.sessions), "jobs": len(self.jobs), "held_shares": self.held,
            "owed_answers": upstream.owed if upstream else 0, "version_mask": f"{self.mask:08x}",
            "difficulty": upstream.difficulty if upstream else job.difficulty if job else 0.0,
            "network_difficulty": dif.difficulty_of(job.network_target, self._diff1) if job else None,
            "extranonce1": extranonce.extranonce1.hex() if extranonce else "",
            "extranonce2_size": extranonce.extranonce2_size if extranonce else 0,
            "prefixes": {"size": space.size, "held": space.held, "capacity": space.capacity} if space else None,
        }
