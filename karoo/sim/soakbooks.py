"""Whether the books of miners, proxy and pools agree, share by share. No I/O.

What they may differ by is known exactly: a share whose answer a miner could not hear is in one and perhaps not in the
other, and so is a share whose verdict was lost between pool and proxy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from karoo.sim.books import Account
from karoo.sim.miner import MinerStats

# The proxy's words for shares that went to a pool, and whose verdict never came
_LOST = ("connection to the pool lost before it answered", "the pool did not answer")


@dataclass(slots=True)
class Count:
    """Shares accepted, refused, and neither: the miner was never told."""

    accepted: int = 0
    refused: int = 0
    open: int = 0

    def add(self, stats: MinerStats) -> None:
        """What one miner counted, all its shares done with."""
        self.accepted += stats.accepted
        self.refused += stats.refused.total()
        self.open += stats.unanswered


def of_proxy(worker: Mapping[str, Any]) -> Count:
    """What the proxy counted of one worker, as /status shows it."""
    return Count(worker["accepted"], worker["rejected"])


def of_pool_by_proxy(worker: Mapping[str, Any]) -> Count:
    """What the proxy heard from the pools of one worker's shares; open are the verdicts that were lost."""
    lost = sum(count for reason, count in worker["rejected_by_reason"].items() if reason.startswith(_LOST))
    return Count(worker["pool_accepted"], worker["pool_rejected"], lost)


def of_pools(accounts: Iterable[Account]) -> Count:
    """What the pools themselves counted."""
    sums = [(account.accepted, account.refusals) for account in accounts]
    return Count(sum(accepted for accepted, _ in sums), sum(refused for _, refused in sums))


def differences(who: str, knows: Count, heard: Count, strict: bool = True) -> list[str]:
    """What is wrong between one that judged shares (`knows`) and one that was told (`heard`), in words.

    Of its `open` shares the judge may know as many more, accepted or refused, and never less than was heard. Unless
    `strict`, it may have forgotten refused ones.
    """
    accepted, refused = knows.accepted - heard.accepted, knows.refused - heard.refused
    known = max(0, refused) if not strict else refused
    found = []
    if accepted < 0:
        found.append(f"{-accepted} accepted that nobody accepted")
    if known < 0:
        found.append(f"{-known} refused that nobody refused")
    if accepted + known > heard.open:
        found.append(f"{accepted} accepted and {known} refused never heard of, {heard.open} unanswered")
    return [f"{who}: {text} ({knows} against {heard})" for text in found]


def compare_miners(miners: Mapping[str, Count], workers: Mapping[str, Mapping[str, Any]],
                   strict: bool) -> list[str]:
    """Differences between what miners counted, by worker, and the proxy's accounts."""
    found = []
    for name, heard in miners.items():
        knows = of_proxy(workers[name]) if name in workers else Count()
        found += differences(name, knows, heard, strict)
    return found


def compare_pools(workers: Mapping[str, Mapping[str, Any]], pools: Iterable[Mapping[str, Account]],
                  user: str) -> list[str]:
    """Differences between the proxy's account of what the pools said and the pools' own books, by worker, and in all.

    `user` is the proxy's own at the pools, with the worker's name behind a dot. Shares of a worker that a pool did
    not know in time are under `user` alone: so many may be missing under the names.
    """
    books = list(pools)
    fallen = of_pools(book[user] for book in books if user in book)
    whole, found = Counter[str](), []
    for name, worker in workers.items():
        heard = of_pool_by_proxy(worker)
        whole.update(accepted=heard.accepted, refused=heard.refused, open=heard.open)
        knows = of_pools(book[f"{user}.{name}"] for book in books if f"{user}.{name}" in book)
        if not fallen.accepted + fallen.refused:
            found += differences(f"{user}.{name}", knows, heard)
    everything = of_pools(account for book in books for account in book.values())
    heard = Count(whole["accepted"], whole["refused"], whole["open"])
    return found + differences("all workers", everything, heard)
