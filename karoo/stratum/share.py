"""Shares: build the header, hash it, judge it. No I/O."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import scrypt, sha256
from typing import Protocol

from karoo.stratum import difficulty as dif
from karoo.stratum.errors import DuplicateShare, LowDifficulty, StratumError
from karoo.stratum.job import Job
from karoo.stratum.methods import Submit

NTIME_AHEAD = 7200  # seconds that ntime may be past the present (the network's own rule)
# Hashes remembered per job. At the cap they are forgotten and duplicates left to the pool to
# find; it takes 9,000 shares a second over the 2 minutes between two jobs to get there.
MAX_SEEN = 1_000_000
_HEADER = struct.Struct("<I32s32sIII")


def sha256d(data: bytes) -> bytes:
    return sha256(sha256(data).digest()).digest()


def scrypt_hash(header: bytes) -> bytes:
    """The proof of work of Litecoin: scrypt with N=1024, r=1, p=1, the header as password and salt."""
    return scrypt(header, salt=header, n=1024, r=1, p=1, dklen=32)


@dataclass(slots=True, frozen=True)
class Algorithm:
    """How a header is hashed, and what difficulty 1 means for it."""

    name: str
    hash: Callable[[bytes], bytes] | None
    diff1: int


ALGORITHMS = {
    "sha256d": Algorithm("sha256d", sha256d, dif.DIFF1_SHA256D),
    "scrypt": Algorithm("scrypt", scrypt_hash, dif.DIFF1_SCRYPT),
    "none": Algorithm("none", None, dif.DIFF1_SHA256D),
}


def coinbase(job: Job, extranonce1: bytes, extranonce2: bytes) -> bytes:
    """The coinbase transaction; extranonce1 is the whole one, pool's and session's prefix."""
    return job.notify.coinb1 + extranonce1 + extranonce2 + job.notify.coinb2


def merkle_root(coinbase_tx: bytes, branches: tuple[bytes, ...]) -> bytes:
    """The root as it stands in the header: the coinbase's hash, then each branch appended and hashed."""
    root = sha256d(coinbase_tx)
    for branch in branches:
        root = sha256(sha256(root + branch).digest()).digest()
    return root


def rolled_version(version: int, mask: int, bits: int | None) -> int:
    """The header's version by BIP 310: the bits inside the mask are the miner's, the others the job's."""
    return version if bits is None else (version & ~mask) | (bits & mask)


def build_header(job: Job, extranonce1: bytes, submit: Submit, version: int) -> bytes:
    """The 80 bytes that are hashed."""
    root = merkle_root(coinbase(job, extranonce1, submit.extranonce2), job.notify.branches)
    return _HEADER.pack(version, job.prevhash, root, submit.ntime, job.notify.nbits, submit.nonce)


class Hasher(Protocol):
    """What the shares of a job have in common, ready to be hashed."""

    def digest(self, extranonce: bytes, version: int, ntime: int, nonce: int, /) -> bytes:
        """The proof of work of a header, 32 bytes as they come; `extranonce` is extranonce1 and extranonce2 in one."""


# coinb1, coinb2, the branches joined, prevhash in header order, nbits
MakeWork = Callable[[bytes, bytes, bytes, bytes, int], Hasher]


class Work:
    """A `Hasher` for double SHA-256, in Python. `karoo/_speed.c` holds its twin, three times as fast."""

    __slots__ = ("_begun", "_branches", "_coinb2", "_nbits", "_prevhash")

    def __init__(self, coinb1: bytes, coinb2: bytes, branches: bytes, prevhash: bytes, nbits: int) -> None:
        self._begun = sha256(coinb1)
        self._coinb2, self._prevhash, self._nbits = coinb2, prevhash, nbits
        self._branches = [branches[at:at + 32] for at in range(0, len(branches), 32)]

    def digest(self, extranonce: bytes, version: int, ntime: int, nonce: int) -> bytes:
        hashed = self._begun.copy()
        hashed.update(extranonce + self._coinb2)
        root = sha256(hashed.digest()).digest()
        for branch in self._branches:
            root = sha256(sha256(root + branch).digest()).digest()
        return sha256d(_HEADER.pack(version, self._prevhash, root, ntime, self._nbits, nonce))


@dataclass(slots=True)
class Share:
    """A share that was found good.

    ``value`` is its hash as a 256-bit little-endian integer (0 when hashes are not checked),
    ``key`` what identifies it among the shares of its job, ``version`` that of its header.
    """

    job: Job
    submit: Submit
    version: int
    key: bytes
    value: int

    @property
    def reaches_pool(self) -> bool:
        """The pool pays for it: it reaches the pool's difficulty, or is a block whatever that difficulty."""
        return self.value <= self.job.target or self.is_block

    @property
    def is_block(self) -> bool:
        return 0 < self.value <= self.job.network_target


class Judge:
    """Judges shares for one algorithm.

    A `tolerant` judge also tries the other readings that miners have of a share; a pool's does not.
    """

    def __init__(self, algorithm: str, tolerant: bool = True, make_work: MakeWork = Work) -> None:
        self.algorithm = ALGORITHMS[algorithm]
        self._tolerant = tolerant
        self._make_work = make_work

    def judge(self, job: Job, submit: Submit, extranonce1: bytes, mask: int, target: int, now: float,
              other_extranonce1: bytes | None = None) -> Share:
        """The share, when it is good; remembered, so that it counts once.

        `target` is the highest hash value that counts, `mask` the session's version mask, `now` Unix
        time. `other_extranonce1` is tried when the share is no share under the first: a miner may
        apply a new extranonce1 to the job in hand. Raises StratumError: ntime out of range,
        version bits outside the mask, DuplicateShare, LowDifficulty.
        """
        job_ntime = job.notify.ntime
        if not job_ntime <= submit.ntime <= max(now, job_ntime) + NTIME_AHEAD:
            raise StratumError("ntime out of range")
        bits = submit.version_bits
        if bits is not None and bits & ~mask:
            raise StratumError(f"Version bits {bits:08x} outside the mask {mask:08x}")
        target = max(target, job.network_target)  # a block counts whatever the difficulty
        share = self._hashed(job, submit, extranonce1, rolled_version(job.notify.version, mask, bits))
        if share.value > target and self._tolerant:
            share = self._read_otherwise(share, extranonce1, other_extranonce1, mask, target)
        seen = job.seen
        if share.value > target:
            if share.key in seen:
                raise DuplicateShare("Duplicate share")
            raise LowDifficulty(dif.difficulty_of(share.value, self.algorithm.diff1),
                                dif.difficulty_of(target, self.algorithm.diff1))
        before = len(seen)
        seen.add(share.key)
        if len(seen) == before:  # asked so, the table is looked into once
            raise DuplicateShare("Duplicate share")
        if before >= MAX_SEEN:
            seen.clear()
            seen.add(share.key)
        return share

    def _hashed(self, job: Job, submit: Submit, extranonce1: bytes, version: int) -> Share:
        hash_header = self.algorithm.hash
        if hash_header is sha256d:
            work = job.work or self._begin(job)
            digest = work.digest(extranonce1 + submit.extranonce2, version, submit.ntime, submit.nonce)
            return Share(job, submit, version, digest, int.from_bytes(digest, "little"))
        if hash_header is None:
            key = b"%b.%b.%08x%08x%08x" % (extranonce1, submit.extranonce2, submit.ntime, submit.nonce, version)
            return Share(job, submit, version, key, 0)
        digest = hash_header(build_header(job, extranonce1, submit, version))
        return Share(job, submit, version, digest, int.from_bytes(digest, "little"))

    def _begin(self, job: Job) -> Hasher:
        notify = job.notify
        job.work = work = self._make_work(notify.coinb1, notify.coinb2, b"".join(notify.branches), job.prevhash,
                                          notify.nbits)
        return work

    def _read_otherwise(self, share: Share, extranonce1: bytes, other_extranonce1: bytes | None, mask: int,
                        target: int) -> Share:
        """A share that misses, under the other readings that miners have: a newer extranonce1, or version
        bits XORed into the job's version (Bitaxe), which differs where that has bits inside the mask."""
        job, submit = share.job, share.submit
        versions = [share.version]
        if submit.version_bits is not None and job.notify.version & mask:
            versions.append(job.notify.version ^ submit.version_bits)
        extranonces = [extranonce1]
        if other_extranonce1 is not None and other_extranonce1 != extranonce1:
            extranonces.append(other_extranonce1)
        for other, version in [(other, version) for other in extranonces for version in versions][1:]:
            again = self._hashed(job, submit, other, version)
            if again.value <= target:
                return again
        return share
