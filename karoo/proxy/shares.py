"""The way of a share: from a miner's line to its answer, here or by the pool."""

from __future__ import annotations

import logging
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from karoo.accounting.deltas import DUPLICATE, LOW, STALE
from karoo.accounting.recent import HERE, POOL, REFUSED_BY_POOL, REFUSED_HERE, RecentShares
from karoo.policy.conduct import Conduct
from karoo.proxy.house import Route
from karoo.proxy.pending import PendingShare, Verdict, Worker
from karoo.stratum import difficulty as dif
from karoo.stratum import messages
from karoo.stratum.errors import (
    DuplicateShare,
    JobNotFound,
    LowDifficulty,
    Malformed,
    NotSubscribed,
    StratumError,
    Unauthorized,
)
from karoo.stratum.job import Job
from karoo.stratum.messages import Id
from karoo.stratum.methods import Submit
from karoo.stratum.share import Share
from karoo.timeline import CRITICAL

if TYPE_CHECKING:
    from karoo.proxy.session import Session

log = logging.getLogger("karoo.session")

_REASONS: dict[type[StratumError], str] = {
    NotSubscribed: "not subscribed", Unauthorized: "unauthorized", Malformed: "malformed", JobNotFound: STALE,
    DuplicateShare: DUPLICATE, LowDifficulty: LOW,
}

_CONDUCT = {JobNotFound: Conduct.stale, DuplicateShare: Conduct.duplicate, LowDifficulty: Conduct.low}


def submit(session: Session, request_id: Id, params: Any) -> None:
    """A miner's share: answered here, or on its way to the pool. Raises StratumError, which is the answer then.

    `params` are those of mining.submit as they came, or a Submit where they were read already.
    """
    worker, now, asked = None, session.conn.last_heard, None
    try:
        route = session.route
        if route is None or not session.subscribed:
            raise NotSubscribed("Not subscribed")
        if not session.workers:
            raise Unauthorized("Unauthorized worker")
        asked = params if type(params) is Submit else Submit.parse(params)
        worker = session.workers.get(asked.user)
        if worker is None:
            raise Unauthorized(f"Worker {asked.user[:64]} is not authorized on this connection")
        if len(asked.extranonce2) != session.extranonce2_size:
            raise Malformed(f"extranonce2 must be {session.extranonce2_size} bytes")
        job = route.jobs.get(asked.job_id)
        if job is None:
            raise JobNotFound("Job not found")
        share, work, needed = _judge(session, route, job, asked, now)
    except StratumError as fault:
        _refused(session, worker, fault, asked)
        raise
    if not share.reaches_pool:
        house, account = session.house, worker.account
        session.accepted += 1
        house.accounts.answered_here(account, work, now)
        (account.shares or account.shown).add(
            now + house.accounts.offset, share.value, needed, 0.0, HERE, job.wire_id_bytes)
        session.answer(request_id, messages.result_true(request_id))
        house.metrics.answer_here.observe(monotonic() - now)
        return
    is_block = share.is_block
    if is_block:
        session.house.metrics.blocks += 1
        session.log.warning("BLOCK CANDIDATE %064x by %s in job %s", share.value, worker.account.name, asked.job_id)
        session.house.metrics.timeline.note(
            "block", f"Block candidate found by {worker.account.name}", CRITICAL, worker=worker.account.name,
            job=asked.job_id, hash=f"{share.value:064x}")
    session.house.accounts.forwarded(worker.account, work, is_block, now)
    route.forward(PendingShare(session, request_id, share, session.prefix, worker, work, now))


def _judge(session: Session, route: Route, job: Job, asked: Submit, now: float) -> tuple[Share, float, float]:
    """The share, which came at `now` (monotonic seconds), the work that it is booked with, and what it had to reach
    (both difficulties). Raises StratumError."""
    measure = session.tuner.measure(job.seq)
    assert route.extranonce is not None
    other = route.extranonce.extranonce1
    mask = session.asked_mask & (job.version_mask | route.mask)
    share = session.house.judge.judge(job, asked, job.extranonce1 + session.prefix, mask, measure.lowest_target,
                                       time(), None if other is job.extranonce1 else other + session.prefix)
    if log.isEnabledFor(logging.DEBUG):
        session.log.debug("share of job %s: difficulty %.6g of %.6g", asked.job_id,
                          dif.difficulty_of(share.value, session.diff1), measure.lowest)
    work = measure.work(share.value)
    if session.tuner.learn(share.value, bool(work), session.sent_seq, now):
        session.adjust(now)
    return share, work, measure.lowest


def _refused(session: Session, worker: Worker | None, fault: StratumError, asked: Any) -> None:
    session.rejected += 1
    reason, accounts, now = _REASONS.get(type(fault), "other"), session.house.accounts, monotonic()
    accounts.refused(worker.account if worker else None, reason, now)
    if worker is not None:
        low = fault if isinstance(fault, LowDifficulty) else None
        value, needed = (session.diff1 / low.found, low.needed) if low is not None else (0.0, 0.0)
        shown = worker.account.shown
        shown.add(now + accounts.offset, value, needed, 0.0, REFUSED_HERE, asked.job_id.encode("utf-8", "replace"))
        shown.explain(reason if reason != "other" else fault.message)
    session.log_rejected("share rejected (%s): %s", reason, fault.message)


def count_fault(session: Session, fault: StratumError, now: float) -> str | None:
    """A submit that was answered with this error, at ``now`` (monotonic seconds), as the conduct of the session; the
    reason to cut it, if that is one."""
    conduct = session.conduct
    if not session.started:
        return conduct.early(now)
    kind = _CONDUCT.get(type(fault), Conduct.invalid)
    return kind(conduct, now)


def settle(session: Session, pending: PendingShare, verdict: Verdict) -> None:
    """The pool's verdict on a share of this session, its words included; or why there is none."""
    accounts, account, pays = session.house.accounts, pending.worker.account, pending.share.job.difficulty
    if verdict.accepted:
        session.accepted += 1
        accounts.pool_accepted(account, pending.work, pays, pending.waited)
        _show_verdict(session, pending, pays, POOL)
        session.answer(pending.request_id, messages.result_true(pending.request_id))
        return
    session.rejected += 1
    if verdict.of_pool:
        accounts.pool_refused(account, pays, verdict.code, verdict.text, pending.waited)
        _show_verdict(session, pending, pays, REFUSED_BY_POOL).explain(f"pool: {verdict.code}", verdict.text)
        session.log_rejected("share rejected by the pool: %d %s", verdict.code, verdict.text)
    else:
        accounts.refused(account, verdict.text, monotonic())
        _show_verdict(session, pending, pays, REFUSED_HERE).explain(verdict.text)
        session.log_rejected("share lost: %s", verdict.text)
    words = verdict.words if verdict.words is not None else [verdict.code, verdict.text, None]
    session.answer(pending.request_id, messages.error_verbatim(pending.request_id, words))


def _show_verdict(session: Session, pending: PendingShare, pays: float, verdict: int) -> RecentShares:
    """Keep a share that was forwarded for whoever looks at its worker. `pays` is the difficulty it needed there."""
    house, share, now = session.house, pending.share, monotonic()
    house.metrics.answer_pool.observe(now - pending.came)
    account = pending.worker.account
    shown = account.shares or account.shown
    shown.add(pending.came + house.accounts.offset, share.value, pays, pending.waited, verdict, share.job.wire_id_bytes)
    return shown
