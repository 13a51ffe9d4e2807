"""Work by time: what hashrates are told from. Times are Unix seconds. No I/O."""

from __future__ import annotations

from array import array

SPANS = {"1m": 60.0, "15m": 900.0, "1h": 3600.0, "24h": 86_400.0}
# Of each span: the seconds of a bucket, and their number, one more than the span takes, since the newest is filling.
# The buckets begin at multiples of their length, as the ledger's minutes and hours do, and are refilled from these.
LEVELS = {"1m": (15, 5), "15m": (60, 16), "1h": (300, 13), "24h": (3600, 25)}
_OFFSETS = {"1m": 0, "15m": 5, "1h": 21, "24h": 34}
_PLACES = 59
SET_BACK = 120.0  # seconds: a clock that goes back further was set, and what was counted by it tells nothing now


class Rates:
    """Two sums by time, of checked and of paid difficulty, over the last 1 min, 15 min, 1 h and 24 h. 1 KiB."""

    __slots__ = ("_newest", "_sums")

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._sums = array("d", bytes(8 * 2 * _PLACES))  # the paid ones behind the checked
        self._newest = 0.0

    def add(self, checked: float, paid: float, at: float) -> None:
        """Work that was done just now."""
        self._turn(at)
        for span in LEVELS:
            self.refill(span, checked, paid, at)

    def refill(self, span: str, checked: float, paid: float, at: float) -> None:
        """Work that was done at some time, counted in one span only; what is older than that is passed over."""
        if at > self._newest:
            self._turn(at)
        seconds, count = LEVELS[span]
        bucket = int(at // seconds)
        if bucket > int(self._newest // seconds) - count:
            place = _OFFSETS[span] + bucket % count
            self._sums[place] += checked
            self._sums[_PLACES + place] += paid

    def _turn(self, at: float) -> None:
        """Empty the buckets that were passed over since the newest."""
        if at < self._newest - SET_BACK:
            self._clear()
        if at <= self._newest:
            return
        for span, (seconds, count) in LEVELS.items():
            former, newest = int(self._newest // seconds), int(at // seconds)
            for bucket in range(max(former, newest - count) + 1, newest + 1):
                place = _OFFSETS[span] + bucket % count
                self._sums[place] = self._sums[_PLACES + place] = 0.0
        self._newest = at

    def series(self, span: str, now: float) -> list[tuple[float, float]]:
        """(checked difficulty, seconds) of each bucket of a span but the one that is dropping out, oldest first. Of one
        that has just begun a share or none would make a peak or a hole: the last quarter of an hour stands for it."""
        self._turn(now)
        seconds, count = LEVELS[span]
        newest = int(now // seconds)
        found = [(self._sums[_OFFSETS[span] + bucket % count], float(seconds))
                 for bucket in range(newest - count + 2, newest)]
        begun = now - newest * seconds
        if begun < SPANS["15m"] < seconds:
            return [*found, (sum(self._sums[_OFFSETS["15m"]:_OFFSETS["15m"] + LEVELS["15m"][1]]), SPANS["15m"] + 30.0)]
        return [*found, (self._sums[_OFFSETS[span] + newest % count], max(1.0, begun))]

    def over(self, span: str, now: float, since: float) -> tuple[float, float]:
        """Checked and paid difficulty a second over the last span, or since `since` where that is shorter."""
        self._turn(now)
        seconds, count = LEVELS[span]
        offset = _OFFSETS[span]
        checked = sum(self._sums[offset:offset + count])
        paid = sum(self._sums[_PLACES + offset:_PLACES + offset + count])
        begun = (int(now // seconds) - count + 1) * seconds
        covered = max(1.0, now - max(begun, since))
        return checked / covered, paid / covered
