"""The accounts: one for every worker name, over all its sessions, and one for all together.

A share only changes its account's `news`. The bookkeeper folds these into the totals and hashrates every few seconds
(`Accounts.fold`), and keeps them. All times that come in are monotonic seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from karoo.accounting.deltas import Deltas, pool_reason
from karoo.accounting.rates import Rates
from karoo.metrics import Latency
from karoo.stratum import difficulty as dif

MAX_WORKERS = 50_000  # names; beyond them idle ones are dropped, or share one account
OTHER = "(other)"
NOBODY = "(nobody)"  # refused shares of sessions that were no worker, or never sent a good one
IDLE = 600.0  # seconds after which an account may be dropped: no verdict of the pool is awaited any more
MOST_POOL_REASONS = 200  # refusals of pools that are kept apart by their words
RECENT_GAPS = 200  # intervals that the present cadence is told from, the newer ones more


class Account:
    """One worker's books.

    ``total`` is all that it ever did up to the last fold (shares' times in Unix seconds), ``news`` what it did since
    (times monotonic; None: nothing). ``first_seen`` and ``last_seen`` are Unix seconds; ``recent`` the number, sum and
    sum of squares of recent intervals between shares.
    """

    __slots__ = ("_last_share", "first_seen", "last_seen", "latency", "name", "news", "rates", "recent", "sessions",
                 "total")

    def __init__(self, name: str, first_seen: float) -> None:
        self.name = name
        self.sessions = 0
        self.first_seen = self.last_seen = first_seen
        self.total = Deltas()
        self.news: Deltas | None = None
        self.rates: Rates | None = None
        self.recent = (0.0, 0.0, 0.0)
        self.latency = Latency()
        self._last_share: float | None = None  # while it is connected

    def good(self, news: Deltas, now: float) -> None:
        """A good share came in."""
        if self._last_share is not None:
            gap = now - self._last_share
            news.gaps += 1
            news.gap_sum += gap
            news.gap_squares += gap * gap
        self._last_share = now
        if news.first_share is None:
            news.first_share = now
        news.last_share = now

    def join(self) -> None:
        """One session more."""
        if self.sessions == 0:
            self._last_share = None  # the time that it was away is no interval
        self.sessions += 1

    def fold(self, at: float, offset: float) -> Deltas | None:
        """Move the news into total, rates and cadence; what they were. `at` is in Unix seconds, and so is monotonic
        + `offset`."""
        news, self.news = self.news, None
        if news is None:
            return None
        if news.first_share is not None and news.last_share is not None:
            news.first_share += offset
            news.last_share += offset
        self.total.add(news)
        if news.checked_work or news.pool_work:
            self.rates = self.rates or Rates()
            self.rates.add(news.checked_work, news.pool_work, at)
        if news.gaps:
            fade = 0.5 if self.recent[0] > RECENT_GAPS else 1.0
            self.recent = (fade * self.recent[0] + news.gaps, fade * self.recent[1] + news.gap_sum,
                           fade * self.recent[2] + news.gap_squares)
        return news

    def sum(self, offset: float) -> Deltas:
        """All that it ever did, the news included."""
        whole = Deltas()
        whole.add(self.total)
        if self.news is not None:
            whole.add(self.news)
            if self.news.last_share is not None and self.news.first_share is not None:
                whole.last_share = self.news.last_share + offset
                whole.first_share = self.total.first_share or self.news.first_share + offset
        return whole

    @property
    def never_good(self) -> bool:
        """No share of it was ever good."""
        return not any(books.answered_here or books.forwarded for books in (self.total, self.news) if books)


class Accounts:
    """All the books of one proxy. `offset` makes Unix seconds of monotonic ones."""

    def __init__(self, now: float, offset: float, diff1: int = dif.DIFF1_SHA256D) -> None:
        self.offset = offset
        self.started_at = self.folded_at = now + offset
        self.diff1 = diff1
        self.all = Account("", now + offset)
        self.workers: dict[str, Account] = {}
        self.shares = Rates()  # good ones, counted
        self._with_news: deque[Account] = deque()
        self._pool_reasons: set[str] = set()

    # ------------------------------------------------------------------ who

    def join(self, name: str, now: float) -> Account:
        """The account of a worker that has one session more."""
        account = self.open(name, now + self.offset)
        account.join()
        self.all.join()
        account.last_seen = now + self.offset
        return account

    def open(self, name: str, first_seen: float) -> Account:
        """The account of a worker, which is made where there is none."""
        account = self.workers.get(name)
        if account is None:
            if len(self.workers) >= MAX_WORKERS and not self._make_room(first_seen):
                name = OTHER
            account = self.workers.setdefault(name, Account(name, first_seen))
        return account

    def leave(self, account: Account, now: float) -> None:
        """A session ended; a name that never sent a good share is forgotten, so that names alone fill neither memory
        nor ledger."""
        account.sessions -= 1
        self.all.sessions -= 1
        account.last_seen = now + self.offset
        if not account.sessions and account.never_good:
            self.workers.pop(account.name, None)
            if account.news is not None:
                self._news(self.open(NOBODY, account.first_seen)).add(account.news)
                account.news = None

    def _make_room(self, unix_now: float) -> bool:
        """Drop a tenth of the names, of those that are long gone and have all in the ledger: first those that never
        had a good share. What they did before is not in the totals of the page any more, should they come back."""
        idle = [one for one in self.workers.values()
                if not one.sessions and one.news is None and one.last_seen < unix_now - IDLE]
        idle.sort(key=lambda one: (one.total.accepted > 0, one.last_seen))
        for account in idle[:MAX_WORKERS // 10]:
            del self.workers[account.name]
        return bool(idle)

    # ------------------------------------------------------------------ what

    def _news(self, account: Account) -> Deltas:
        if account.news is None:
            account.news = Deltas()
            self._with_news.append(account)
        return account.news

    def answered_here(self, account: Account, work: float, now: float) -> None:
        """A good share below the pool's difficulty."""
        for book in (account, self.all):
            news = self._news(book)
            news.answered_here += 1
            news.here_work += work
            book.good(news, now)

    def forwarded(self, account: Account, work: float, is_block: bool, now: float) -> None:
        """A good share goes to the pool, whose verdict follows."""
        for book in (account, self.all):
            news = self._news(book)
            news.forwarded += 1
            news.forwarded_work += work
            news.blocks += is_block
            book.good(news, now)

    def pool_accepted(self, account: Account, work: float, pool_work: float, waited: float) -> None:
        """The pool took a share; `work` is the difficulty it was judged by here, `pool_work` what the pool pays."""
        for book in (account, self.all):
            news = self._news(book)
            news.pool_accepted += 1
            news.taken_work += work
            news.pool_work += pool_work
            _wait(book, news, waited)

    def pool_refused(self, account: Account, pool_work: float, code: int, text: str, waited: float) -> None:
        """The pool refused a share that it would have paid as `pool_work`."""
        reason = pool_reason(code, text)
        if reason not in self._pool_reasons:  # a pool's words must not fill the ledger
            if len(self._pool_reasons) < MOST_POOL_REASONS:
                self._pool_reasons.add(reason)
            else:
                reason = pool_reason(code, OTHER)
        for book in (account, self.all):
            news = self._news(book)
            news.pool_refused += 1
            news.pool_refused_work += pool_work
            news.refuse(reason)
            _wait(book, news, waited)

    def refused(self, account: Account | None, reason: str, now: float) -> None:
        """A share that the proxy refused; without an account when nobody was authorized."""
        for book in (account or self.open(NOBODY, now + self.offset), self.all):
            self._news(book).refuse(reason)

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
        for book in (self.all, self.workers.get(name)):
            if book is not None:
                book.rates = book.rates or Rates()
                book.rates.refill(span, checked, paid, at)

    def fold(self, since: float, until: float, offset: float) -> Iterator[tuple[str, Deltas]]:
        """Fold the news of all; each worker's (name, news) from `since` to `until`, Unix seconds. The caller may pause
        between two."""
        self.offset, self.folded_at = offset, until
        for _ in range(len(self._with_news)):
            account = self._with_news.popleft()
            news = account.fold(since, offset)
            if news is None:
                continue
            if account is self.all:
                self.shares.add(news.answered_here + news.forwarded, 0.0, since)
            else:
                yield account.name, news


def _wait(book: Account, news: Deltas, waited: float) -> None:
    book.latency.add(waited)
    news.latency_count += 1
    news.latency_sum += waited
