"""The difficulty of one session: where it starts, what its shares are judged by, when it changes. No I/O."""

from __future__ import annotations

from karoo.policy.held import HeldDifficulty, Measure
from karoo.policy.vardiff import DifficultyPolicy, Former, Vardiff, effective

# Seconds that may pass before a share has them counted, where nothing changes: a miner that sends many shares a second
# would have it done for each, which took a tenth of a share's whole cost.
LATE = 0.5


class Tuner:
    """Puts together what the miner asked for, what it was told, and what its shares say of its speed.

    ``suggested`` and ``floor`` are the miner's own wishes: where to start, and the lowest that it wants. ``seq`` is
    always the number of the last job that it was sent; ``now`` monotonic seconds.
    """

    __slots__ = ("_policy", "_wanted", "floor", "held", "suggested", "vardiff")

    def __init__(self, policy: DifficultyPolicy, diff1: int) -> None:
        self._policy = policy
        self._wanted: float | None = None  # were the pool's difficulty no bound; None: as high as that
        self.suggested: float | None = None
        self.floor = 0.0
        self.held = HeldDifficulty(diff1)
        self.vardiff: Vardiff | None = None  # from its first job on, where difficulties are the proxy's to choose

    @property
    def difficulty(self) -> float:
        """What it was told last; 0 before the first."""
        return self.held.difficulty

    def under(self, ceiling: float) -> float:
        """What it is to hold, where the pool's difficulty is `ceiling`."""
        return effective(self._wanted, ceiling)

    def change_policy(self, policy: DifficultyPolicy, now: float) -> None:
        """Another one, from now on; `under` tells what follows for what it is to hold."""
        self._policy = policy
        if not policy.enabled:
            self._wanted = self.vardiff = None
            return
        if self.vardiff is None and self.held.difficulty:
            self.vardiff = Vardiff(now)
        held = self.held.difficulty if self._wanted is None else self._wanted
        if held:
            self._wanted = max(policy.bounded(held), policy.bounded(self.floor))

    # ------------------------------------------------------------------ wishes

    def begin(self, agent: str, former: Former | None, now: float) -> None:
        """Start: where it left, or where the miner said, or where its program starts.

        What it said goes before what is known of it (`former`) only where it says something else than it did then.
        """
        if former is not None and self.suggested in (None, former.suggested):
            self.suggested = former.suggested
            self._start(former.difficulty, agent)
        else:
            former = None
            self._start(self.suggested, agent)
        if self._policy.enabled:
            self.vardiff = Vardiff(now)
            if former is not None:
                self.vardiff.trust()

    def _start(self, said: float | None, agent: str = "") -> None:
        wanted = self._policy.wanted(said, agent)
        if wanted is not None:
            wanted = max(self._policy.rounded(wanted), self._policy.bounded(self.floor))
        self._wanted = wanted

    def suggest(self, difficulty: float) -> bool:
        """The miner would like to start at this difficulty; False where that changes nothing: it said so before, or
        its speed is known better by now."""
        if difficulty == self.suggested:
            return False
        self.suggested = difficulty
        if self.vardiff is not None and not self.vardiff.probing:
            return False
        self._start(difficulty)
        return True

    def set_floor(self, difficulty: float) -> bool:
        """The miner wants no difficulty below this; whether that changes what it is to hold."""
        self.floor = difficulty
        if self._wanted is None or self._wanted >= self._policy.bounded(difficulty):
            return False
        self._wanted = self._policy.bounded(difficulty)
        return True

    # ------------------------------------------------------------------ what it was told

    def change(self, difficulty: float, seq: int, now: float) -> None:
        """It is told another one."""
        if self.vardiff is not None and self.held.difficulty:
            self.vardiff.pass_time(now, self.held.threshold(seq))
            self.vardiff.changed(now)
        self.held.change(difficulty)

    def sent(self, seq: int, former_seq: int, oldest_seq: int, now: float) -> None:
        """It is sent the job `seq` after `former_seq`; the shares of jobs before `oldest_seq` count no more."""
        if self.vardiff is not None and self.held.changing:
            self.vardiff.pass_time(now, self.held.threshold(former_seq))
        self.held.sent(seq, oldest_seq)

    def measure(self, job_seq: int) -> Measure:
        """What a share of a job is judged and booked by."""
        return self.held.measure(job_seq)

    # ------------------------------------------------------------------ what its shares tell

    def learn(self, value: int, counts: bool, seq: int, now: float) -> bool:
        """A good share with this hash, which counts as work or not; whether a look is due at once."""
        vardiff, held = self.vardiff, self.held
        if vardiff is None:
            return False
        if held.changing or now - vardiff.passed >= LATE:
            vardiff.pass_time(now, held.threshold(seq))
            held.proved(value)
        return counts and vardiff.share(now)

    def look(self, seq: int, now: float) -> bool:
        """Whether another difficulty would fit the miner's speed better; `under` tells it then."""
        if self.vardiff is None:
            return False
        self.vardiff.pass_time(now, self.held.threshold(seq))
        fitting = self.vardiff.look(self.held.difficulty, self._policy.target)
        if fitting is None:
            return False
        self._wanted = max(self._policy.rounded(fitting), self._policy.bounded(self.floor))
        return True

    @property
    def probing(self) -> bool:
        """Its speed is not known yet: look every second."""
        return self.vardiff is not None and self.vardiff.probing

    @property
    def learned(self) -> Former | None:
        """What to remember when it leaves; None where its speed is not known."""
        known = self.vardiff is not None and not self.vardiff.probing
        return Former(self.held.difficulty, self.suggested) if known else None
