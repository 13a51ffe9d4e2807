"""Carve the pool's extranonce2 into one extranonce1 per session. No I/O.

The pool gives extranonce1 E and n bytes of extranonce2. A session gets E + prefix as its
extranonce1, and the n - p bytes behind the prefix as its extranonce2. Miners handle 2, 4 or 8
bytes of their own and no other number (NerdMiner), or at least 4 where there is room (NiceHash).
"""

from __future__ import annotations

from collections import OrderedDict

MAX_REMEMBERED = 10_000  # former sessions that may have their prefix back, and freed prefixes before they are reused


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

    A freed prefix is used again late, and not before the jobs that it worked on are gone: its
    next holder starts to count where the former one did, and would find the same shares. Only
    the session that held it (known by its session id) gets it back earlier. One whose holder
    never got a job is as good as fresh.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.capacity = 1 << 8 * size
        self._fresh = 0  # prefixes from here on were never used
        self._unworked: list[bytes] = []
        self._held: set[bytes] = set()
        # -> number of the last job it worked on, and its former session; oldest first
        self._freed: OrderedDict[bytes, tuple[int, str]] = OrderedDict()
        self._former: OrderedDict[str, bytes] = OrderedDict()  # session id -> prefix

    @property
    def held(self) -> int:
        """How many sessions hold one."""
        return len(self._held)

    def take(self, oldest_job: int, session_id: str | None = None) -> bytes | None:
        """A prefix that no live session holds; None when there is none.

        `oldest_job` is the number of the oldest job whose shares still count, `session_id` that
        of a former session which would like its prefix back.
        """
        former = self._former.pop(session_id, None) if session_id else None
        if former is not None and self._freed.get(former, (0, ""))[1] == session_id:  # nobody had it since
            prefix: bytes | None = former
        else:
            prefix = self._next(oldest_job)
        if prefix is not None:
            self._freed.pop(prefix, None)
            self._held.add(prefix)
        return prefix

    def _next(self, oldest_job: int) -> bytes | None:
        if self._unworked:
            return self._unworked.pop()
        if self._fresh >= self.capacity:
            return next((prefix for prefix, (last, _) in self._freed.items() if last < oldest_job), None)
        if len(self._freed) > MAX_REMEMBERED:
            oldest = next(iter(self._freed))
            if self._freed[oldest][0] < oldest_job:
                return oldest
        self._fresh += 1
        return (self._fresh - 1).to_bytes(self.size, "big")

    def release(self, prefix: bytes, last_job: int, session_id: str) -> None:
        """Give a prefix back; `last_job` is the number of the last job that its session was sent, -1 for none."""
        if prefix not in self._held:
            return
        self._held.remove(prefix)
        if last_job < 0:
            self._unworked.append(prefix)
            return
        self._freed[prefix] = (last_job, session_id)
        self._former[session_id] = prefix
        if len(self._former) > MAX_REMEMBERED:
            self._former.popitem(last=False)

    def forget_jobs(self) -> None:
        """The pool gave another extranonce1: no freed prefix stands for work done any more."""
        self._unworked += self._freed
        self._freed.clear()
        self._former.clear()
