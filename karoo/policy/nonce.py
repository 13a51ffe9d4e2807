"""Carve the pool's extranonce2 into one extranonce1 per session. No I/O.

The pool gives extranonce1 E and n bytes of extranonce2. A session gets E + prefix as its
extranonce1, and the n - p bytes behind the prefix as its extranonce2. Miners handle 2, 4 or 8
bytes of their own and no other number (NerdMiner), or at least 4 where there is room (NiceHash).
"""

from __future__ import annotations

from collections import OrderedDict


def prefix_size(extranonce2_size: int, setting: int | None = None) -> int:
    """Bytes of the prefix: the miner keeps 4 where the pool gives 5 or more, 2 of 4 or 3, all of less.

    `setting` asks for at least so many; the miner still keeps 8, 4, 2 or 1.
    """
    if setting is not None:
        left = max(1, extranonce2_size - setting)
        return extranonce2_size - max(size for size in (1, 2, 4, 8) if size <= left)
    if extranonce2_size >= 5:
        return extranonce2_size - 4
    return max(0, extranonce2_size - 2)


class PrefixSpace:
    """The prefixes of one upstream connection, each held by at most one live session.

    A freed prefix is used again last, and not before the jobs that it worked on are gone:
    its next holder starts to count where the former one did, and would find the same shares.
    Only the session that held it (known by its session id) gets it back earlier.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.capacity = 1 << 8 * size
        self._fresh = 0  # prefixes from here on were never used
        self._held: set[bytes] = set()
        self._freed: OrderedDict[bytes, tuple[int, str]] = OrderedDict()  # oldest first

    @property
    def held(self) -> int:
        """How many sessions hold one."""
        return len(self._held)

    def take(self, oldest_job: int, session_id: str | None = None) -> bytes | None:
        """A prefix that no live session holds; None when there is none.

        `oldest_job` is the number of the oldest job whose shares still count, `session_id` that
        of a former session which would like its prefix back.
        """
        prefix = self._of_former_session(session_id) if session_id else None
        if prefix is None and self._fresh < self.capacity:
            prefix = self._fresh.to_bytes(self.size, "big")
            self._fresh += 1
        elif prefix is None and self._freed:
            oldest = next(iter(self._freed))
            prefix = oldest if self._freed[oldest][0] < oldest_job else None
        if prefix is not None:
            self._freed.pop(prefix, None)
            self._held.add(prefix)
        return prefix

    def release(self, prefix: bytes, newest_job: int, session_id: str) -> None:
        """Give a prefix back; `newest_job` is the number of the last job that its session may have worked on."""
        if prefix in self._held:
            self._held.remove(prefix)
            self._freed[prefix] = (newest_job, session_id)

    def _of_former_session(self, session_id: str) -> bytes | None:
        # A walk over the freed ones: a session asks once in its life, and they are few.
        return next((prefix for prefix, (_, former) in self._freed.items() if former == session_id), None)

    def forget_jobs(self) -> None:
        """The pool gave another extranonce1: no freed prefix stands for work done any more."""
        self._freed = OrderedDict((prefix, (0, former)) for prefix, (_, former) in self._freed.items())
