"""The simulated pool's verdict on a submit: as real pools judge, by hashing, and in one way only."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from karoo.stratum import difficulty as dif
from karoo.stratum.errors import JobNotFound, LowDifficulty, Malformed, NotSubscribed, Unauthorized
from karoo.stratum.job import Job
from karoo.stratum.methods import Submit

if TYPE_CHECKING:
    from karoo.sim.pool_client import PoolClient

_NUMBER = re.compile(r"[0-9a-fA-F]{8}")


@dataclass
class SentJob:
    """A job as one session got it; ``difficulty`` is the one in force then."""

    job: Job
    extranonce1: bytes
    difficulty: float


@dataclass
class Session:
    """What outlives a connection: its extranonce1, and what each job was sent with."""

    session_id: str
    extranonce1: bytes
    sent: dict[str, SentJob] = field(default_factory=dict)


@dataclass
class SubmitFacts:
    """What becomes known about a submit on the way to its verdict; difficulties are 0 as long as unknown."""

    user: str = ""
    job_id: str = ""
    extranonce1: bytes = b""
    needed: float = 0.0
    found: float = 0.0
    block: bool = False


def judge_submit(client: PoolClient, params: Any, facts: SubmitFacts) -> None:
    """Judge a submit, filling in `facts`; raises StratumError when it is refused."""
    options = client.pool.options
    if type(params) is list and params and type(params[0]) is str:
        facts.user = params[0]
    if client.session is None:
        raise NotSubscribed("Not subscribed")
    if not client.users or (options.strict_user and facts.user not in client.users):
        raise Unauthorized("Unauthorized worker")
    submit = Submit.parse(params)
    if options.strict_hex and not all(_NUMBER.fullmatch(number) for number in params[3:6]):
        raise Malformed("ntime, nonce and version bits must be 8 hex digits each")
    facts.job_id = submit.job_id
    sent = client.session.sent.get(submit.job_id)
    if sent is None or client.pool.jobs.get(submit.job_id) is not sent.job:
        raise JobNotFound("Job not found")
    facts.extranonce1 = sent.extranonce1
    if len(submit.extranonce2) != options.extranonce2_size:
        raise Malformed("Invalid extranonce2 size")
    facts.needed = client.pool.difficulty if options.strict_difficulty else sent.difficulty
    _judge_hash(client, sent, submit, facts)


def _judge_hash(client: PoolClient, sent: SentJob, submit: Submit, facts: SubmitFacts) -> None:
    bits, judge = submit.version_bits, client.pool.judge
    if bits is not None and not bits & ~client.mask and client.pool.options.version_form == "xor":
        # the same version said the other way: BIP 310 puts these bits in place of the job's
        submit.version_bits = (sent.job.notify.version ^ bits) & client.mask
    target = dif.target_of(facts.needed, judge.algorithm.diff1)
    try:
        share = judge.judge(sent.job, submit, sent.extranonce1, client.mask, target, time.time())
    except LowDifficulty as error:
        facts.found = error.found
        raise
    facts.found = dif.difficulty_of(share.value, judge.algorithm.diff1)
    facts.block = share.is_block
