"""The difficulty that one session holds, and what its shares are judged by. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from karoo.stratum import difficulty as dif

MAX_CHANGES = 16  # remembered for the jobs in hand; older ones are taken together


@dataclass(slots=True, frozen=True)
class Measure:
    """What a share is judged and booked by; targets are the highest hash values that reach a difficulty.

    A share is good when it reaches ``lowest``. It is booked as work of ``highest`` when it reaches that too, and
    else as none: on average that is the work which was done, whichever of the two the miner worked at.
    """

    lowest: float
    lowest_target: int
    highest: float
    highest_target: int

    def work(self, value: int) -> float:
        """The difficulty that a good share with this hash is booked with."""
        return self.highest if value <= self.highest_target else 0.0


class HeldDifficulty:
    """What a miner was told last, and what it was told before for the jobs that it may still work on.

    Miners apply a change at once (NerdMiner), with the next job (bfgminer, ESP-Miner), or, of two changes between
    two jobs, the second with the job after the next (cgminer). So a share is judged by the lowest difficulty that
    was in force since the job before its own was sent. ``difficulty`` is 0 until the first is told.
    """

    __slots__ = ("_changes", "_diff1", "_measure", "_measures", "_proof", "difficulty")

    def __init__(self, diff1: int) -> None:
        self._diff1 = diff1
        self.difficulty = 0.0
        self._measure = Measure(0.0, 0, 0.0, 0)
        # While there are changes: by job, made once for all of its shares; and the target that proves the oldest
        self._measures: dict[int, Measure] | None = None
        self._proof: int | None = None
        # (first job sent after a change, or None; lowest and highest difficulty until that change), oldest first
        self._changes: tuple[tuple[int | None, float, float], ...] = ()

    def change(self, difficulty: float) -> None:
        """The miner is told another one."""
        if self.difficulty:
            self._changes = (*self._changes, (None, self.difficulty, self.difficulty))
            if len(self._changes) > MAX_CHANGES:
                (_, low, high), (first, lower, higher), *rest = self._changes
                self._changes = ((first, min(low, lower), max(high, higher)), *rest)
        self.difficulty = difficulty
        self._forget_targets()
        target = dif.target_of(difficulty, self._diff1)
        self._measure = Measure(difficulty, target, difficulty, target)

    def sent(self, seq: int, oldest_seq: int) -> None:
        """The miner is sent the job with this number; the shares of jobs before `oldest_seq` count no more."""
        if self._changes:
            self._forget_targets()
            self._changes = tuple((seq if first is None else first, low, high) for first, low, high in self._changes
                                  if first is None or first >= oldest_seq)

    @property
    def changing(self) -> bool:
        """The miner may still work at a former difficulty."""
        return bool(self._changes)

    def threshold(self, sent_seq: int) -> float:
        """The highest difficulty at which it may work on the last job that it was sent."""
        return self.measure(sent_seq).highest if self._changes else self.difficulty

    def proved(self, value: int) -> None:
        """A good share had this hash: the miner works at no difficulty that the hash misses any more.

        Changes take effect in their order, so that is proved of those only before which there was no lower one.
        """
        while self._changes:
            if self._proof is None:
                self._proof = dif.target_of(self._changes[0][1], self._diff1)
            if value <= self._proof:
                return
            self._changes = self._changes[1:]
            self._forget_targets()

    def _forget_targets(self) -> None:
        """The changes are others now."""
        self._measures = self._proof = None

    def measure(self, seq: int) -> Measure:
        """What a share of the job with this number is judged by."""
        if not self._changes:
            return self._measure
        if self._measures is None:
            self._measures = {}
        known = self._measures.get(seq)
        if known is not None:
            return known
        lowest = highest = self.difficulty
        for first, low, high in self._changes:
            if first is None or seq <= first:
                lowest, highest = min(lowest, low), max(highest, high)
        known = self._measures[seq] = Measure(lowest, dif.target_of(lowest, self._diff1),
                                              highest, dif.target_of(highest, self._diff1))
        return known
