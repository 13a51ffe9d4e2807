"""Accounts as plain data, and as lines for people. No I/O."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from karoo import units
from karoo.accounting.account import Account, Accounts, summed
from karoo.accounting.deltas import Deltas
from karoo.accounting.rates import SPANS, Rates
from karoo.metrics import Latency
from karoo.stratum import difficulty as dif


def summary(accounts: Accounts, account: Account, now: float) -> dict[str, Any]:
    """One account; `now` is in Unix seconds. Counts and difficulties are those of its whole life, as far as it is
    known; cadence and latency are recent ones."""
    regular = account.cadence
    return {
        "worker": account.name, "sessions": account.sessions,
        **_done(account.sum(), now), **_hashrates(accounts, account.rates, account.first_seen),
        "first_seen_unix": int(account.first_seen),
        "last_seen_unix": int(now if account.sessions else account.last_seen),
        "cadence_seconds": None if regular is None else round(regular[0], 2),
        "cadence_spread_seconds": None if regular is None else round(regular[1], 2),
        "pool_latency_ms": _latency(account.latency),
    }


def summaries(accounts: Accounts, now: float, idle: float = math.inf) -> Iterator[dict[str, Any]]:
    """Each worker that sent a share, and so many `idle` ones that only have a session; whoever walks may pause between
    two."""
    for account in list(accounts.workers.values()):
        if account.never_good and account.news is None:
            idle -= 1
            if idle < 0:
                continue
        yield summary(accounts, account, now)


def totals(accounts: Accounts, now: float, pace: Callable[[list[Deltas]], Iterable[Deltas]] = iter) -> dict[str, Any]:
    """All workers together; `now` is in Unix seconds. `pace` walks over what may be many parts."""
    whole = accounts.all
    rate, _ = accounts.shares.over("1m", accounts.folded_at, accounts.started_at)
    return {
        "workers": len(accounts.workers), "sessions": whole.sessions,
        **_done(summed(pace(accounts.everything())), now),
        **_hashrates(accounts, whole.rates, whole.first_seen), "shares_per_second": rate,
        "first_seen_unix": int(whole.first_seen), "pool_latency_ms": _latency(whole.latency),
    }


def _done(whole: Deltas, now: float) -> dict[str, Any]:
    return {
        "accepted": whole.accepted, "rejected": whole.refused_total, "rejected_by_reason": dict(whole.refused),
        "stale": whole.stale, "duplicate": whole.duplicate, "low": whole.low,
        "below_pool": whole.answered_here, "forwarded": whole.forwarded,
        "pool_accepted": whole.pool_accepted, "pool_rejected": whole.pool_refused, "blocks": whole.blocks,
        "difficulty_accepted": whole.accepted_work, "difficulty_below_pool": whole.here_work,
        "difficulty_forwarded": whole.forwarded_work, "pool_difficulty_accepted": whole.pool_work,
        "pool_difficulty_rejected": whole.pool_refused_work,
        "seconds_since_share": None if whole.last_share is None else round(max(0.0, now - whole.last_share), 1),
    }


def _hashrates(accounts: Accounts, rates: Rates | None, since: float) -> dict[str, dict[str, float]]:
    """Hashes a second over 1m, 15m, 1h and 24h: from what was checked here, and from what the pool paid."""
    found = {span: rates.over(span, accounts.folded_at, since) if rates else (0.0, 0.0) for span in SPANS}
    return {name: {span: dif.hashrate(both[place], 1.0, accounts.diff1) for span, both in found.items()}
            for place, name in enumerate(("hashrate", "hashrate_paid"))}


def _latency(latency: Latency) -> dict[str, float] | None:
    waits = latency.percentiles(50, 95, 99)
    return None if waits is None else {
        name: round(wait * 1e3, 1) for name, wait in zip(("p50", "p95", "p99"), waits, strict=True)}


def report_line(one: dict[str, Any]) -> str:
    """The summary of one worker, or of all, for people."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(one["rejected_by_reason"].items()))
    ago, regular, latency = one["seconds_since_share"], one.get("cadence_seconds"), one["pool_latency_ms"]
    return (f"{one.get('worker', 'all workers')}: {one['accepted']} accepted ({one['below_pool']} below the pool's "
            f"difficulty, {one['pool_accepted']} of {one['forwarded']} taken by the pool), {one['rejected']} rejected"
            + (f" ({reasons})" if reasons else "")
            + f", difficulty {units.difficulty(one['difficulty_accepted'])}, "
            + f"{_rates(one['hashrate'], SPANS)} over {'/'.join(SPANS)}, "
            + f"paid {_rates(one['hashrate_paid'], ('1h', '24h'))} over 1h/24h, "
            + ("no share yet" if ago is None else f"last share {units.duration(ago)} ago")
            + (f", one every {regular:g} ± {one['cadence_spread_seconds']:g} s" if regular is not None else "")
            + (f", pool answers in {latency['p50']:g} ms (p95 {latency['p95']:g}, p99 {latency['p99']:g} ms)"
               if latency else ""))


def _rates(hashes: dict[str, float], spans: Any) -> str:
    return " / ".join(units.hashrate(hashes[span]) for span in spans)
