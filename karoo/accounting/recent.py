"""The last shares of one worker, each in 41 bytes, so that ten thousand workers may have theirs kept. No I/O.

Written for every share, read when somebody looks at a worker's page. What a pool said in refusing one is kept with the
share: such are rare.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

KEPT = 50
MAX_WORDS = 120  # characters of what a pool said
_JOB = 12  # bytes of a job's id that are kept
# Unix seconds, hash value and difficulty needed (0: unknown), seconds that the pool took, verdict, the job's id
_RECORD = struct.Struct(f"<dddfB{_JOB}s")
HERE, POOL, REFUSED_HERE, REFUSED_BY_POOL = range(4)
_pack_into, _SIZE = _RECORD.pack_into, _RECORD.size
_WHOLE = KEPT * _SIZE
_SOME = bytes(5 * _SIZE)


class RecentShares:
    """A ring of KEPT shares, which grows as they come."""

    __slots__ = ("_at", "_records", "_words")

    def __init__(self) -> None:
        self._records = bytearray()
        self._at = 0  # where the next one goes
        self._words: dict[int, tuple[str, str]] | None = None  # place -> (reason, the pool's words) of refused ones

    def add(self, at: float, value: float, needed: float, waited: float, verdict: int, job_id: bytes) -> None:
        """A share, by the time (Unix seconds), its hash as a number (0: unknown; to divide by it here would take longer
        than to keep it), the difficulty that it needed (0: unknown), the seconds that the pool took, one of the four
        verdicts, and its job's id in UTF-8."""
        place = self._at
        if place == len(self._records):
            self._records += _SOME
        _pack_into(self._records, place, at, value, needed, waited, verdict, job_id)
        if self._words:
            self._words.pop(place, None)
        place += _SIZE
        self._at = place if place < _WHOLE else 0

    def explain(self, reason: str, words: str = "") -> None:
        """Why the share that was added last was refused; a pool's own words."""
        if self._words is None:
            self._words = {}
        self._words[(self._at or _WHOLE) - _SIZE] = (reason[:MAX_WORDS], words[:MAX_WORDS])

    def latest(self, diff1: int) -> Iterator[dict[str, Any]]:
        """The shares as plain data, the latest first; `diff1` is the target of difficulty 1."""
        count = len(self._records) // _SIZE
        newest = self._at // _SIZE - 1
        for back in range(count):
            place = (newest - back) % count * _SIZE
            at, value, needed, waited, verdict, job_id = _RECORD.unpack_from(self._records, place)
            if not at:
                return  # room that was not used yet
            reason, words = (self._words or {}).get(place, ("", ""))
            by_pool = verdict in (POOL, REFUSED_BY_POOL)
            yield {"unix": round(at, 3), "job": job_id.rstrip(b"\0").decode("utf-8", "ignore"),
                   "verdict": "accepted" if verdict in (HERE, POOL) else "rejected",
                   "by": "pool" if by_pool else "proxy", "reason": reason, "words": words,
                   "difficulty": _known(diff1 / value if value else 0.0), "needed": _known(needed),
                   "latency_ms": round(waited * 1e3, 3) if by_pool else None}


def _known(difficulty: float) -> float | None:
    """Nobody reads more than six digits."""
    return float(f"{difficulty:.6g}") if difficulty else None
