"""Is the clock of this machine right? The pools' jobs tell, and the kernel knows whether anybody sets it."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from typing import Any

from karoo import units
from karoo.doctor.findings import Section

OFF, FAR_OFF = 120.0, 3600.0  # seconds between this clock and the ntime of a job that was just sent
_STEPPED = 0.5  # seconds by which the clocks differ that is no drift any more
_UNSYNCHRONIZED = 5  # TIME_ERROR of adjtimex(2)
OLDEST = 1_735_689_600.0  # Unix seconds; this program was written later


class Watch:
    """Looks whether the clock is set while everything else is looked at."""

    def __init__(self) -> None:
        self._wall, self._monotonic = time.time(), time.monotonic()

    def tell(self, section: Section) -> None:
        """After a while. Logic goes by the monotonic clock, people and ntime by the other."""
        monotonic = time.monotonic() - self._monotonic
        moved = time.time() - self._wall - monotonic
        if monotonic < 0 or not time.get_clock_info("monotonic").monotonic:
            section.fail("clock.monotonic", "monotonic clock", "it goes back: timeouts cannot be relied on",
                         "a system that works")
        if abs(moved) > _STEPPED:
            section.warn("clock.stepped", "clock", f"it was set by {moved:+.1f} s meanwhile",
                         "let chrony or systemd-timesyncd keep it, which do so gently", seconds=round(moved, 1))
        if time.time() < OLDEST:
            section.fail("clock.year", "clock", f"it says that it is {time.strftime('%Y-%m-%d', time.gmtime())}",
                         "set it: no certificate is valid then")
        if synchronized() is False:
            section.note("clock.synchronized", "clock", "nothing keeps it right, as far as the kernel knows",
                         "chrony or systemd-timesyncd do")
        offset = time.localtime().tm_gmtoff
        section.ok("clock.zone", "time zone", f"{time.strftime('%Z')}: the log is in it; accounts and reports have "
                   "days of "
                   "UTC" if offset else "UTC, as the accounts", offset_seconds=offset)


def synchronized() -> bool | None:
    """Whether the kernel was told that its clock is right; None where that cannot be asked. Nothing is set."""
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))  # modes = 0: only look
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _UNSYNCHRONIZED


def tell_of_jobs(section: Section, jobs: Sequence[tuple[str, float]]) -> None:
    """`jobs`: each pool, and its ntime less this clock when its first job came, in seconds.

    Where a pool agrees with this machine, the clock is right, and another pool's is not: that is that pool's fault,
    or its job is old. Where none does, the clock is wrong.
    """
    right = any(abs(ahead) <= OFF for _, ahead in jobs)
    for pool, ahead in jobs:
        off = f"{units.duration(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} this clock"
        data: dict[str, Any] = {"pool": pool, "seconds": round(ahead, 1)}
        if abs(ahead) <= OFF:
            section.ok("clock.ntime", pool, f"its job's time is {off}", **data)
        elif right:
            section.warn("clock.ntime", pool, f"its job's time is {off}, and another pool agrees with this clock",
                         "it is the pool's clock that is wrong, or its job is old: ask there", **data)
        elif abs(ahead) <= FAR_OFF:
            section.warn("clock.ntime", pool, f"its job's time is {off}", "set the clock of this machine (chrony, "
                         "systemd-timesyncd), unless the pool's jobs are old", **data)
        else:
            section.fail("clock.ntime", pool, f"its job's time is {off}: shares with another time are refused, and "
                         "certificates may be taken for expired", "set the clock of this machine (chrony, "
                         "systemd-timesyncd)", **data)
