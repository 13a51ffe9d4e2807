"""Jobs: what the pool wants hashed, and the table of those that still count. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from karoo.stratum import difficulty as dif
from karoo.stratum import messages
from karoo.stratum.methods import Notify

MAX_JOBS = 128
MAX_RETIRED_IDS = 256


@dataclass(slots=True, eq=False)
class Job:
    """One job of the pool, as one upstream connection got it.

    ``wire_id`` is its name towards the miners: the pool's own, unless that was used before
    for other work (``wire_id_bytes``: in UTF-8, whatever it holds); ``id_json`` the pool's
    own as it goes back to it. ``prevhash`` is in header
    order. ``extranonce1`` is the pool's, without a session's prefix. ``difficulty`` is the pool's
    when it sent the job, ``version_mask`` its mask for rolled bits then. ``seq`` counts the jobs
    of a route, ``clean_seq`` is that of the last clean one. ``line`` and ``clean_line`` are what
    miners are sent. ``seen`` holds the keys of the shares found good, ``work`` is what hashes them (`share.Hasher`).
    """

    notify: Notify
    wire_id: str
    seq: int
    extranonce1: bytes
    difficulty: float
    version_mask: int
    target: int
    network_target: int
    clean_seq: int
    prevhash: bytes
    id_json: bytes
    line: bytes
    clean_line: bytes
    seen: set[bytes] = field(default_factory=set)
    work: Any = None
    wire_id_bytes: bytes = b""

    def __post_init__(self) -> None:
        self.wire_id_bytes = self.wire_id.encode("utf-8", "replace")


def swap_words(data: bytes) -> bytes:
    """The bytes of each 4-byte word reversed: prevhash from the wire to the header, or back."""
    return b"".join([data[i:i + 4][::-1] for i in range(0, len(data), 4)])


class JobTable:
    """The jobs whose shares the pool still takes, newest last."""

    def __init__(self, diff1: int = dif.DIFF1_SHA256D) -> None:
        self.current: Job | None = None
        self._diff1 = diff1
        self._jobs: dict[str, Job] = {}
        self._former: dict[str, Job] = {}  # of connections that were replaced, while they settle the last shares
        self._retired: deque[str] = deque(maxlen=MAX_RETIRED_IDS)
        self._seq = self._clean_seq = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def get(self, wire_id: str) -> Job | None:
        """The job with this name, or None when it is unknown or stale."""
        return self._jobs.get(wire_id) or self._former.get(wire_id)

    @property
    def seq(self) -> int:
        """The number of the newest job so far (0: none yet)."""
        return self._seq

    @property
    def oldest_seq(self) -> int:
        """The number of the oldest job that still counts; one past the newest when none does."""
        return next(iter(self._jobs.values())).seq if self._jobs else self._seq + 1

    def add(self, notify: Notify, extranonce1: bytes, difficulty: float, version_mask: int = 0) -> Job | None:
        """The job for a mining.notify, now the current one; None when the pool only said the current one again.

        A clean job makes the earlier ones stale.
        """
        if self._is_current(notify, extranonce1):
            if notify.clean:
                self._retire_all_but_current()
            self._tell_anew(difficulty, version_mask)
            return None
        if notify.clean:
            self.clear()
        self._seq += 1
        wire_id = notify.job_id
        while wire_id in self._jobs or wire_id in self._retired:
            wire_id += f".{self._seq:x}"
        job = Job(
            notify, wire_id, self._seq, extranonce1, difficulty, version_mask,
            target=dif.target_of(difficulty, self._diff1),
            network_target=notify.network_target, clean_seq=self._clean_seq, prevhash=swap_words(notify.prevhash),
            id_json=messages.encode_id(notify.job_id),
            line=messages.notification("mining.notify", notify.params(wire_id, notify.clean)),
            clean_line=messages.notification("mining.notify", notify.params(wire_id, True)))
        self._jobs[wire_id] = self.current = job
        if len(self._jobs) > MAX_JOBS:
            self._retire(next(iter(self._jobs)))
        return job

    def clear(self) -> None:
        """Every job is stale: the pool said so, or is another one now. What comes next is clean."""
        self._retired.extend(self._jobs)
        self._jobs.clear()
        self.current = None
        self._clean_seq = self._seq + 1

    def supersede(self) -> dict[str, Job]:
        """Another connection takes over: what comes next is clean, and the present jobs count until `forget_former`;
        they, by wire id."""
        former = self._jobs.copy()
        self.clear()
        self._former |= former
        return former

    def forget_former(self, jobs: Iterable[str] | None = None) -> None:
        """A connection that was replaced is gone, and these jobs with it; all of them where none are named."""
        for wire_id in list(self._former if jobs is None else jobs):
            self._former.pop(wire_id, None)

    def _tell_anew(self, difficulty: float, version_mask: int) -> None:
        """What the pool asks of the current job's shares now."""
        assert self.current is not None
        self.current.difficulty, self.current.version_mask = difficulty, version_mask
        self.current.target = dif.target_of(difficulty, self._diff1)

    def _retire_all_but_current(self) -> None:
        for wire_id in [wire_id for wire_id, job in self._jobs.items() if job is not self.current]:
            self._retire(wire_id)

    def _retire(self, wire_id: str) -> None:
        self._retired.append(wire_id)
        del self._jobs[wire_id]

    def _is_current(self, notify: Notify, extranonce1: bytes) -> bool:
        """The same work under the same name (rule: a miner is sent a job once)."""
        job = self.current
        if job is None or job.notify.job_id != notify.job_id or job.extranonce1 != extranonce1:
            return False
        return job.notify.params("", True) == notify.params("", True)
