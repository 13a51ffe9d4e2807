"""Which pool next, and when: in order, each with its own backoff. No I/O."""

from __future__ import annotations

import random


class Backoff:
    """Doubling waits with jitter between two bounds (seconds); reset by success."""

    def __init__(self, shortest: float, longest: float, rng: random.Random) -> None:
        self._shortest, self._longest, self._rng = shortest, longest, rng
        self._next = shortest

    def failed(self) -> float:
        """The wait after one more failure: half to all of the present step, so that proxies do not knock in time."""
        step, self._next = self._next, min(self._next * 2, self._longest)
        return max(self._shortest / 2, step * self._rng.uniform(0.5, 1.0))

    def succeeded(self) -> None:
        self._next = self._shortest


class PoolOrder:
    """The pools in order of preference; the first whose wait is over is next."""

    def __init__(self, backoffs: list[Backoff]) -> None:
        self._backoffs = backoffs
        self._retry_at = [0.0] * len(backoffs)

    def next(self, now: float) -> tuple[int, float]:
        """Number of the pool to try next, and the seconds to wait before."""
        for index, retry_at in enumerate(self._retry_at):
            if retry_at <= now:
                return index, 0.0
        index = min(range(len(self._retry_at)), key=self._retry_at.__getitem__)
        return index, self._retry_at[index] - now

    def failed(self, index: int, now: float) -> float:
        """A pool went down; the seconds until it may be tried again."""
        wait = self._backoffs[index].failed()
        self._retry_at[index] = now + wait
        return wait

    def succeeded(self, index: int) -> None:
        """A pool sent a job."""
        self._backoffs[index].succeeded()
        self._retry_at[index] = 0.0


def same_site(ours: str, theirs: str) -> bool:
    """Whether client.reconnect may lead from one host to another: the same, or one in its parent domain
    (a.pool.example and b.pool.example). Whoever speaks for the pool could otherwise send the hashrate anywhere.
    """
    ours, theirs = ours.lower().rstrip("."), theirs.lower().rstrip(".")
    if ours == theirs:
        return True
    if ours.replace(".", "").isdigit() or ":" in ours:  # an address has no parent
        return False
    parent = ours.partition(".")[2] if ours.count(".") > 1 else ours
    return "." in parent and (theirs == parent or theirs.endswith("." + parent))
