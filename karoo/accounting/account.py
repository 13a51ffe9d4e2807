"""The accounts: one for every worker name, over all its sessions; and sums for all together.

A share only changes its account's `news`. The bookkeeper folds these into the totals and hashrates every few seconds
(`Accounts.fold`), and keeps them. All times that come in are monotonic seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from karoo.accounting.deltas import Deltas, cadence, pool_reason
from karoo.accounting.rates import Rates
from karoo.accounting.recent import RecentShares
from karoo.metrics import Latency, latency_bucket
from karoo.stratum import difficulty as dif

MAX_WORKERS = 50_000  # names; beyond them idle ones are dropped, or share one account
OTHER = "(other)"
NOBODY = "(nobody)"  # refused shares of sessions that were no worker, or never sent a good one
LOOK_AGAIN = 10.0  # seconds until idle names are looked for again where there were none: a walk over all takes 1 ms
IDLE = 600.0  # seconds after which an account may be dropped: no verdict of the pool is awaited any more
MOST_POOL_REASONS = 200  # refusals of pools that are kept apart by their words
RECENT_GAPS = 200  # intervals that the present cadence is told from, the newer ones more


class Account:
    """One worker's books.

    ``total`` is all that it ever did up to the last fold, ``news`` what it did since (None: nothing). ``first_seen``
    and ``last_seen`` are Unix seconds; ``recent`` the number, sum and sum of squares of recent intervals between
    shares.
    """

    __slots__ = ("_last_share", "first_seen", "last_seen", "latency", "name", "news", "rates", "recent", "sessions",
                 "shares", "total")

    def __init__(self, name: str, first_seen: float) -> None:
        self.name = name
        self.sessions = 0
        self.first_seen = self.last_seen = first_seen
        self.total = Deltas()
        self.news: Deltas | None = None
        self.rates: Rates | None = None
        self.recent = (0.0, 0.0, 0.0)
        self.latency = Latency()
        self.shares: RecentShares | None = None
        self._last_share: float | None = None  # while it is connected

    def good(self, news: Deltas, now: float, offset: float) -> None:
        """A good share came in."""
        if self._last_share is not None:
            gap = now - self._last_share
            news.gaps += 1
            news.gap_sum += gap
            news.gap_squares += gap * gap
        self._last_share = now
        news.last_share = now + offset
        if news.first_share is None:
            news.first_share = news.last_share

    def join(self) -> None:
        """One session more."""
        if self.sessions == 0:
            self._last_share = None  # the time that it was away is no interval
        self.sessions += 1

    @property
    def shown(self) -> RecentShares:
        """Its last shares, for whoever looks at it. (On the way of a share `shares` is asked first: it is there.)"""
        if self.shares is None:
            self.shares = RecentShares()
        return self.shares

    def fold(self, at: float) -> Deltas | None:
        """Move the news into total, rates (at that time, Unix seconds) and cadence; what they were."""
        news, self.news = self.news, None
        if news is None:
            return None
        self.total.add(news)
        if news.checked_work or news.pool_work:
            self.rates = self.rates or Rates()
            self.rates.add(news.checked_work, news.pool_work, at)
        if news.gaps:
            fade = 0.5 if self.recent[0] > RECENT_GAPS else 1.0
            self.recent = (fade * self.recent[0] + news.gaps, fade * self.recent[1] + news.gap_sum,
                           fade * self.recent[2] + news.gap_squares)
        return news

    def sum(self) -> Deltas:
        """All that it ever did, the news included."""
        return summed([self.total, self.news or _NOTHING])

    @property
    def cadence(self) -> tuple[float, float] | None:
        """Mean and standard deviation of recent intervals between good shares, in seconds; None without one."""
        news = self.news or _NOTHING
        gaps, total, squares = self.recent
        return cadence(gaps + news.gaps, total + news.gap_sum, squares + news.gap_squares)

    @property
    def never_good(self) -> bool:
        """No share of it was ever good."""
        return not any(books.answered_here or books.forwarded for books in (self.total, self.news) if books)


class _All:
    """What is kept of all workers together."""

    def __init__(self, first_seen: float) -> None:
        self.sessions = 0
        self.first_seen = first_seen
        self.total = Deltas()  # up to the last fold
        self.rates = Rates()
        self.latency = Latency()


class Accounts:
    """All the books of one proxy. `offset` makes Unix seconds of monotonic ones."""

    def __init__(self, now: float, offset: float, diff1: int = dif.DIFF1_SHA256D) -> None:
        self.offset = offset
        self.started_at = self.folded_at = now + offset
        self.diff1 = diff1
        self.all = _All(now + offset)
        self.workers: dict[str, Account] = {}
        self.shares = Rates()  # good ones, counted
        self._with_news: deque[Account] = deque()
        self._pool_reasons: set[str] = set()
        self._full_until = 0.0  # Unix seconds; there is surely no room for further names before

    # ------------------------------------------------------------------ who

    def join(self, name: str, now: float) -> Account:
        """The account of a worker that has one session more."""
        if name in (NOBODY, OTHER):
            name = f"{name} by name"
        unix = now + self.offset
        account = self.workers.get(name) or self._add(Account(name, unix), unix)
        account.join()
        self.all.sessions += 1
        account.last_seen = unix
        return account

    def open(self, name: str, first_seen: float) -> Account:
        """The account of a name, which is made where there is none, whatever the bound."""
        return self.workers.setdefault(name, self.workers.get(name) or Account(name, first_seen))

    def _add(self, account: Account, unix_now: float) -> Account:
        """Put it into the table, where there is room: else it counts by itself until its news are folded."""
        if len(self.workers) < MAX_WORKERS or self._make_room(unix_now):
            self.workers[account.name] = account
        return account

    def _home(self, account: Account) -> Account:
        """The account in the table that its news belong to: itself, mostly."""
        home = self.workers.get(account.name)
        if home is None:
            home = self._add(account, self.folded_at)
            if self.workers.get(account.name) is not account:
                home = self.open(OTHER, self.folded_at)
        return home

    def leave(self, account: Account, now: float) -> None:
        """A session ended; a name that never sent a good share is forgotten, so that names alone fill neither memory
        nor ledger: what was refused of it is booked to NOBODY."""
        account.sessions -= 1
        self.all.sessions -= 1
        account.last_seen = now + self.offset
        if not account.sessions and account.never_good:
            if self.workers.get(account.name) is account:
                del self.workers[account.name]
            if account.news is not None:
                nobody = self.open(NOBODY, account.first_seen)
                (nobody.news or self._fresh(nobody)).add(account.news)
                account.news = None

    def _make_room(self, unix_now: float) -> bool:
        """Drop a tenth of the names: first those that never sent a share, which are remembered once they do (`fold`),
        then those that are long gone and have all in the ledger. What they did before is not in the totals of the page
        any more, should they come back."""
        if unix_now < self._full_until < unix_now + LOOK_AGAIN:  # the clock may be set back
            return False
        idle = [one for one in self.workers.values() if one.news is None and (
            one.never_good or (not one.sessions and one.last_seen < unix_now - IDLE))]
        idle.sort(key=lambda one: (not one.never_good, one.last_seen))
        for account in idle[:MAX_WORKERS // 10]:
            del self.workers[account.name]
        self._full_until = unix_now + LOOK_AGAIN if not idle else 0.0
        return bool(idle)

    # ------------------------------------------------------------------ what

    def _fresh(self, account: Account) -> Deltas:
        """The first news of an account since the last fold."""
        account.news = Deltas()
        self._with_news.append(account)
        return account.news

    def answered_here(self, account: Account, work: float, now: float) -> None:
        """A good share below the pool's difficulty."""
        news = account.news or self._fresh(account)
        news.answered_here += 1
        news.here_work += work
        account.good(news, now, self.offset)

    def forwarded(self, account: Account, work: float, is_block: bool, now: float) -> None:
        """A good share goes to the pool, whose verdict follows."""
        news = account.news or self._fresh(account)
        news.forwarded += 1
        news.forwarded_work += work
        news.blocks += is_block
        account.good(news, now, self.offset)

    def pool_accepted(self, account: Account, work: float, pool_work: float, waited: float) -> None:
        """The pool took a share; `work` is the difficulty it was judged by here, `pool_work` what the pool pays."""
        news = account.news or self._fresh(account)
        news.pool_accepted += 1
        news.taken_work += work
        news.pool_work += pool_work
        self._wait(account, news, waited)

    def pool_refused(self, account: Account, pool_work: float, code: int, text: str, waited: float) -> None:
        """The pool refused a share that it would have paid as `pool_work`."""
        reason = pool_reason(code, text)
        if reason not in self._pool_reasons:  # a pool's words must not fill the ledger
            if len(self._pool_reasons) < MOST_POOL_REASONS:
                self._pool_reasons.add(reason)
            else:
                reason = pool_reason(code, OTHER)
        news = account.news or self._fresh(account)
        news.pool_refused += 1
        news.pool_refused_work += pool_work
        news.refuse(reason)
        self._wait(account, news, waited)

    def _wait(self, account: Account, news: Deltas, waited: float) -> None:
        news.latency_count += 1
        news.latency_sum += waited
        bucket = latency_bucket(waited)
        account.latency.count(bucket)
        self.all.latency.count(bucket)

    def refused(self, account: Account | None, reason: str, now: float) -> None:
        """A share that the proxy refused; without an account when nobody was authorized."""
        account = account or self.open(NOBODY, now + self.offset)
        (account.news or self._fresh(account)).refuse(reason)

    # ------------------------------------------------------------------ the books of before, and the fold

    def restore(self, name: str, total: Deltas, first_seen: float, last_seen: float) -> None:
        """What a worker did before this process began, times in Unix seconds. Beyond the bound only the sum counts."""
        self.all.total.add(total)
        self.all.first_seen = min(self.all.first_seen, first_seen)
        if name in self.workers or len(self.workers) < MAX_WORKERS:
            account = self.open(name, first_seen)
            account.total.add(total)
            account.first_seen = min(account.first_seen, first_seen)
            account.last_seen = max(account.last_seen, last_seen) if account.sessions else last_seen

    def restore_rates(self, span: str, name: str, checked: float, paid: float, at: float) -> None:
        """What a worker did in one bucket of a span before this process began, for the hashrates."""
        self.all.rates.refill(span, checked, paid, at)
        account = self.workers.get(name)
        if account is not None:
            account.rates = account.rates or Rates()
            account.rates.refill(span, checked, paid, at)

    def fold(self, since: float, until: float, offset: float) -> Iterator[tuple[str, Deltas]]:
        """Fold the news of all; each worker's (name, news) from `since` to `until`, Unix seconds. The caller may pause
        between two."""
        self.offset, self.folded_at = offset, until
        checked = paid = 0.0
        shares = 0
        for _ in range(len(self._with_news)):
            account = self._with_news.popleft()
            if account.news is None:  # it left, and its news went to NOBODY
                continue
            if account.never_good and account.name != NOBODY:
                self._with_news.append(account)  # not by name before it sent a good share: names would fill the ledger
                continue
            home = self._home(account)
            if home is not account:  # there was no room for it
                (home.news or self._fresh(home)).add(account.news)
                account.news = None
                continue
            news = account.fold(since)
            if news is not None:
                self.all.total.add(news)
                checked, paid = checked + news.checked_work, paid + news.pool_work
                shares += news.answered_here + news.forwarded
                yield account.name, news
        self.all.rates.add(checked, paid, since)
        self.shares.add(shares, 0.0, since)

    def everything(self) -> list[Deltas]:
        """Parts whose sum is all that all workers ever did."""
        return [summed([self.all.total]), *(account.news for account in self._with_news if account.news is not None)]


def summed(parts: Iterable[Deltas]) -> Deltas:
    """The sum of what one or several did."""
    whole = Deltas()
    for part in parts:
        whole.add(part)
    return whole


_NOTHING = Deltas()
