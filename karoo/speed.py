"""The C extension `karoo._speed`, or what stands in for it where it was not built."""

from __future__ import annotations

import os
from dataclasses import dataclass

from karoo.net.fanout import WriteAll
from karoo.stratum.share import MakeWork, Work

THREADS = 2  # that write a job; more gain nothing, since the loop has to prepare what they write


@dataclass(frozen=True, slots=True)
class Speed:
    """`make_work` hashes shares, `write_all` (None: there is none) writes to many sockets at once; ``kind`` says in
    words what runs."""

    make_work: MakeWork
    write_all: WriteAll | None
    kind: str


def load() -> Speed:
    """What this machine has. With KAROO_PURE_PYTHON in the environment the extension is left alone."""
    if os.environ.get("KAROO_PURE_PYTHON"):
        return Speed(Work, None, "in Python: KAROO_PURE_PYTHON is set")
    try:
        from karoo import _speed
    except ImportError:
        return Speed(Work, None, "in Python: the C extension was not built, for want of a compiler or Python's headers")
    threads = min(THREADS, len(os.sched_getaffinity(0)))
    return Speed(_speed.Work, lambda descriptors, data: _speed.write_all(descriptors, data, threads),
                 f"in C ({_speed.SHA256})")
