"""Grinding: which nonces of a header are shares. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256

from karoo.stratum import share
from karoo.stratum.job import Job, JobTable
from karoo.stratum.methods import Notify, Submit

NONCES = 1 << 32


def job_of(notify: Notify, extranonce1: bytes, difficulty: float, diff1: int) -> Job:
    """The job as its miner sees it; ``extranonce1`` is the whole of what the miner was given."""
    job = JobTable(diff1).add(notify, extranonce1, difficulty)
    assert job is not None  # a table that is empty knows no job yet
    return job


def header_start(job: Job, extranonce2: bytes, ntime: int, version: int) -> bytes:
    """The first 76 bytes of the header: all but the nonce."""
    submit = Submit("", job.notify.job_id, extranonce2, ntime, 0, None)
    return share.build_header(job, job.extranonce1, submit, version)[:76]


def hits(start: bytes, target: int, first: int, count: int, algorithm: share.Algorithm) -> Iterator[tuple[int, int]]:
    """The nonces from `first` on, `count` of them, whose hash is not above `target`, each with that hash.

    `start` is the first 76 bytes of the header. About 800,000 sha256d a second, 500 scrypt.
    """
    if algorithm.hash is share.sha256d:
        return _hits_sha256d(start, target, first, count)
    assert algorithm.hash is not None
    return _hits_any(start, target, first, count, algorithm.hash)


def _hits_sha256d(start: bytes, target: int, first: int, count: int) -> Iterator[tuple[int, int]]:
    # The hash is a little-endian number: most misses show in its last bytes already, which a good one has at 0.
    zeros = bytes((256 - target.bit_length()) // 8)
    copy, tail = sha256(start[:64]).copy, start[64:]
    for nonce in range(first, min(first + count, NONCES)):
        inner = copy()
        inner.update(tail + nonce.to_bytes(4, "little"))
        digest = sha256(inner.digest()).digest()
        if digest.endswith(zeros):
            value = int.from_bytes(digest, "little")
            if value <= target:
                yield nonce, value


def _hits_any(start: bytes, target: int, first: int, count: int,
              hash_header: Callable[[bytes], bytes]) -> Iterator[tuple[int, int]]:
    for nonce in range(first, min(first + count, NONCES)):
        value = int.from_bytes(hash_header(start + nonce.to_bytes(4, "little")), "little")
        if value <= target:
            yield nonce, value


def bits_in_mask(counter: int, mask: int) -> int:
    """The counter's bits, lowest first, laid into those of the mask; it wraps when the mask is full."""
    bits = 0
    for position in range(32):
        if mask >> position & 1:
            bits |= (counter & 1) << position
            counter >>= 1
    return bits
