"""The difficulty that one session holds, and what its shares are judged by. No I/O."""

from __future__ import annotations

from karoo.stratum import difficulty as dif

MAX_CHANGES = 32  # remembered for the jobs in hand


class HeldDifficulty:
    """What a miner was told last, and what it was told before for the jobs that it may still work on.

    Miners apply a change at once (NerdMiner) or with the next job (cgminer, bfgminer, ESP-Miner). So
    a share is judged by the lowest difficulty that was in force since its job was sent.
    ``difficulty`` is 0 until the first is told; ``target`` the highest hash value that reaches it.
    """

    __slots__ = ("_changes", "_diff1", "difficulty", "target")

    def __init__(self, diff1: int) -> None:
        self._diff1 = diff1
        self.difficulty = 0.0
        self.target = 0
        self._changes: tuple[tuple[int, float], ...] = ()  # (last job before a change, difficulty until then)

    def change(self, difficulty: float, sent_seq: int) -> None:
        """The miner is told another one; `sent_seq` is the number of the last job that it was sent."""
        if self.difficulty:
            self._changes = (*self._changes[-MAX_CHANGES:], (sent_seq, self.difficulty))
        self.difficulty = difficulty
        self.target = dif.target_of(difficulty, self._diff1)

    def judged_by(self, seq: int) -> tuple[float, int]:
        """Difficulty and target for a share of the job with this number."""
        lowest = min((former for last, former in self._changes if last >= seq), default=self.difficulty)
        if lowest >= self.difficulty:
            return self.difficulty, self.target
        return lowest, dif.target_of(lowest, self._diff1)

    def forget(self, oldest_seq: int) -> None:
        """Jobs before this number are gone: so are the changes that only they needed."""
        if self._changes and self._changes[-1][0] < oldest_seq:
            self._changes = ()
