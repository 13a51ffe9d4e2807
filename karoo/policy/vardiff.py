"""The difficulty of a session. No I/O.

LAW: never above the difficulty of the upstream: shares between the two would be thrown away unpaid.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class DifficultyPolicy:
    """Bounds and start of the sessions' own difficulties.

    Without `enabled` every session holds the pool's. ``start`` is None when no start is configured.
    """

    enabled: bool
    lowest: float
    highest: float
    start: float | None = None

    def wanted(self, suggested: float | None) -> float | None:
        """What a session would hold, were the pool's difficulty no bound; None: the pool's whatever it is.

        A miner's own suggestion goes before the configured start; both stay inside the bounds.
        """
        value = suggested if suggested is not None else self.start
        if not self.enabled or value is None:
            return None
        return min(max(value, self.lowest), self.highest)


def effective(wanted: float | None, upstream: float) -> float:
    """The difficulty that a session holds under an upstream's."""
    return upstream if wanted is None else min(wanted, upstream)
