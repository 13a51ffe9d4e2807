"""The verdict on a soak: what leaked, and whether every share is accounted for. A table of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from karoo.sim.farm import PLAIN_SOURCE
from karoo.sim.labreport import Row
from karoo.sim.proxyprocess import MEMORY_SPARE, Measure
from karoo.sim.soakbooks import Count, compare_miners, compare_pools
from karoo.sim.stage import USER
from karoo.stratum.job import MAX_JOBS

if TYPE_CHECKING:
    from karoo.sim.soak import Soak

MOST_FAULTS = 20  # that are spelled out
NAMES = 150  # of visitors and attackers that had a good share: these keep their accounts
ROUTES = 8  # connections to the pool that there may be at a time
MOVED = 1  # greenlet: the connection that the miners came back to from a backup pool is served by one of its own


def verdict(soak: Soak, before: Measure, after: Measure, status: dict[str, Any],
            code: int) -> tuple[list[Row], list[str]]:
    """All rows, and the faults in words. `status` is the page after the last miner left, `code` the proxy's exit."""
    rows = [*_leaks(soak, before, after), *_bugs(soak, after, code)]
    shares, faults = _shares(soak, status)
    return [*rows, *shares, *_load(soak)], faults


def _leaks(soak: Soak, before: Measure, after: Measure) -> list[Row]:
    names = len(soak.stage.farm.miners) + NAMES
    # What is kept on purpose has its bound instead; None: it is for information
    bounds = {"greenlets": before.greenlets + MOVED, "jobs": MAX_JOBS * ROUTES, "workers": names,
              "names_at_pools": names * ROUTES, "owed_answers": names,
              "remembered_difficulties": 2 * names, "addresses": None, "bans": None, "past_bans": None}
    rows = []
    for name, size in after.counts.items():
        bound = bounds.get(name, before.counts.get(name, 0))
        rows.append(Row(name.replace("_", " "), "" if bound is None else f"<= {bound}", str(size),
                        None if bound is None else size <= bound))
    most = before.resident * (1 + MEMORY_SPARE)
    rows.append(Row("resident memory", f"<= {most / 1e6:.1f} MB", f"{after.resident / 1e6:.1f} MB, "
                    f"{before.resident / 1e6:.1f} MB when warmed up", after.resident <= most))
    return rows


def _bugs(soak: Soak, after: Measure, code: int) -> list[Row]:
    bans = soak.stage.proxy.count_logged(f"{PLAIN_SOURCE} is banned")
    exceptions, tracebacks = after.status["exceptions"], soak.stage.proxy.count_logged("Traceback")
    return [Row("exceptions", "0", str(exceptions), exceptions == 0),
            Row("tracebacks in the log", "0", str(tracebacks), tracebacks == 0),
            Row("bans of the honest farm", "0", str(bans), bans == 0),
            Row("exit code", "0", str(code), code == 0)]


def _shares(soak: Soak, status: dict[str, Any]) -> tuple[list[Row], list[str]]:
    workers = {worker["worker"]: worker for worker in status["workers"]}
    honest: dict[str, Count] = {}
    for miner in soak.stage.farm.miners:
        honest.setdefault(miner.options.user.partition(".")[2], Count()).add(miner.stats)
    # A visitor's refused shares are forgotten when it left before its first good one.
    rows, faults = [], []
    for what, found, of in (
            ("honest miners' books", compare_miners(honest, workers, strict=True), len(honest)),
            ("visitors' books", compare_miners(soak.visitors, workers, strict=False), len(soak.visitors)),
            ("pools' books", compare_pools(workers, [pool.books.users for pool in soak.stage.pools], USER),
             len(workers))):
        rows.append(Row(f"{what} that disagree", "0", f"{len(found)} of {of}", not found))
        faults += found[:MOST_FAULTS]
    open_shares = sum(count.open for count in (*honest.values(), *soak.visitors.values()))
    rows += [Row("answers that miners could not hear", "", str(open_shares)),
             Row("shares", "", f"{status['accounts']['accepted']} accepted, {status['accounts']['rejected']} refused, "
                 f"{status['accounts']['pool_accepted']} of {status['accounts']['forwarded']} taken by the pools")]
    reasons = sorted(status["accounts"]["rejected_by_reason"].items(), key=lambda item: -item[1])
    rows += [Row(f"  refused: {reason[:60]}", "", str(count)) for reason, count in reasons[:12]]
    return rows, faults


def _load(soak: Soak) -> list[Row]:
    return [Row("faults and attacks", "> 0", str(soak.happened.total()), soak.happened.total() > 0),
            Row("visits", "> 0", str(soak.visits), soak.visits > 0),
            Row("reconnects of honest miners", "", str(soak.stage.farm.losses.reconnects))]
