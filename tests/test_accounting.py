"""The accounts in memory: hashrates, cadence, latency, reasons, and that every share is folded once."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karoo.accounting import account as accounts
from karoo.accounting import summary
from karoo.accounting.account import NOBODY, OTHER, Accounts, summed
from karoo.accounting.deltas import MOST_REASONS, Deltas, pool_reason
from karoo.accounting.rates import LEVELS, SPANS, Rates
from karoo.metrics import Latency, latency_bucket

NOON = 1_700_000_000.0  # Unix seconds
EARLIER = 5_000.0  # the monotonic clock at that time
OFFSET = NOON - EARLIER


@pytest.fixture
def books():
    return Accounts(EARLIER, OFFSET)


# ---------------------------------------------------------------- hashrates

def test_the_places_of_the_levels_do_not_overlap():
    from karoo.accounting import rates
    ends = 0
    for span, (seconds, count) in LEVELS.items():
        assert rates._OFFSETS[span] == ends and seconds * (count - 1) == SPANS[span]
        ends += count
    assert ends == rates._PLACES


@given(st.lists(st.tuples(st.floats(0, 4000), st.integers(0, 100), st.integers(0, 100)), max_size=60),
       st.floats(0, 4000))
def test_rates_are_those_of_a_plain_sum(steps, later):
    """A window reaches back to the start of a bucket: at least the span, at most a bucket more."""
    rates, done, at = Rates(), [], NOON
    for step, checked, paid in steps:
        at += step
        rates.add(checked, paid, at)
        done.append((at, checked, paid))
    now = at + later
    for span, (seconds, count) in LEVELS.items():
        begun = (now // seconds - count + 1) * seconds
        assert SPANS[span] <= now - begun <= SPANS[span] + seconds
        found = rates.over(span, now, 0.0)
        inside = [(checked, paid) for when, checked, paid in done if when >= begun]
        assert found == pytest.approx(tuple(sum(column) / max(1.0, now - begun) for column in zip(*inside, strict=True))
                                      or (0.0, 0.0))


def test_a_young_worker_is_told_by_its_own_time():
    rates = Rates()
    rates.add(300.0, 100.0, NOON)
    assert rates.over("24h", NOON + 10, NOON) == (30.0, 10.0)


def test_a_clock_that_is_set_back_by_days_starts_anew():
    rates = Rates()
    rates.add(300.0, 0.0, NOON + 10 * 86_400)
    rates.add(60.0, 0.0, NOON)
    assert rates.over("1m", NOON, NOON - 60) == (1.0, 0.0)


# ---------------------------------------------------------------- latency and reasons

def test_latency_is_told_within_ten_percent():
    rng, latency = random.Random(1), Latency()
    assert latency.percentiles(50) is None
    waits = [rng.lognormvariate(math.log(0.05), 1.0) for _ in range(1500)]
    for wait in waits:
        latency.count(latency_bucket(wait))
    waits.sort()
    for percent, found in zip((50, 95, 99), latency.percentiles(50, 95, 99), strict=True):
        assert found == pytest.approx(waits[len(waits) * percent // 100], rel=0.1)


def test_latency_follows_a_pool_that_becomes_slow():
    latency = Latency()
    for wait in [0.01] * 5000 + [0.0, 1e9] + [1.0] * 2000:
        latency.count(latency_bucket(wait))
    assert latency.percentiles(50)[0] == pytest.approx(1.0, rel=0.1)
    assert latency._total == sum(latency._counts) < Latency.FADE


@pytest.mark.parametrize(("code", "text", "reason"), [
    (23, "Low difficulty share (0.0123 of 1e-05)", "pool: 23 Low difficulty share (# of #)"),
    (21, "job 4f2a not found", "pool: 21 job # not found"), (20, "Above-target", "pool: 20 Above-target"),
    (20, "bad face", "pool: 20 bad face"), (0, "", "pool: 0")])
def test_refusals_that_differ_in_numbers_only_are_one_reason(code, text, reason):
    assert pool_reason(code, text) == reason


def test_reasons_are_bounded(books):
    one = books.join("rig", EARLIER)
    for number in range(10 * MOST_REASONS):
        word = "".join(chr(ord("g") + int(digit)) for digit in str(number))
        books.pool_refused(one, 1.0, 20, word, 0.1)
        books.refused(one, word, EARLIER)
    assert len(one.sum().refused) <= MOST_REASONS + 1
    assert one.sum().refused_total == 20 * MOST_REASONS
    assert len(books._pool_reasons) == accounts.MOST_POOL_REASONS


# ---------------------------------------------------------------- accounts

events = st.lists(st.tuples(
    st.sampled_from(["here", "forward", "taken", "refused", "bad", "nobody", "fold", "leave", "join"]),
    st.sampled_from(["rig1", "rig2"]), st.integers(1, 8)), max_size=60)


@given(events)
@settings(max_examples=200)
def test_whatever_happens_everything_is_folded_once(happened):  # noqa: PLR0912  (one branch an event)
    """What comes out of all folds is what the workers' sums tell, and what the account of all tells."""
    books, now, folded = Accounts(EARLIER, OFFSET), EARLIER, {}
    sessions = {name: [books.join(name, now)] for name in ("rig1", "rig2")}
    given_out = Deltas()

    def fold():
        for name, news in books.fold(now + OFFSET - 1, now + OFFSET, OFFSET):
            folded.setdefault(name, Deltas()).add(news)
            given_out.add(news)

    for what, name, work in happened:
        now += work / 4
        if what == "join" or not sessions[name]:
            sessions[name].append(books.join(name, now))
        one = sessions[name][-1]
        if what == "here":
            books.answered_here(one, work, now)
        elif what == "forward":
            books.forwarded(one, work, work == 8, now)
        elif what == "taken":
            books.forwarded(one, work, False, now)
            books.pool_accepted(one, work, 2 * work, 0.25)
        elif what == "refused":
            books.forwarded(one, work, False, now)
            books.pool_refused(one, 2 * work, 21, "stale", 0.25)
        elif what in ("bad", "nobody"):
            books.refused(one if what == "bad" else None, "malformed", now)
        elif what == "leave":
            books.leave(sessions[name].pop(), now)
        elif what == "fold":
            fold()
    before = summed(books.everything())
    for joined in sessions.values():
        while joined:
            books.leave(joined.pop(), now)
    fold()
    everything = Deltas()
    for name, sums in folded.items():
        everything.add(sums)
        if name in books.workers and not books.workers[name].never_good:
            assert books.workers[name].sum() == sums
    for one in (before, summed(books.everything()), given_out):
        assert one == everything
    assert list(books.fold(now, now, OFFSET)) == []


def test_an_absence_is_no_interval(books):
    one = books.join("rig", EARLIER)
    for now in (0, 10, 20):
        books.answered_here(one, 1.0, EARLIER + now)
    books.leave(one, EARLIER + 30)
    assert books.join("rig", EARLIER + 900) is one
    for now in (900, 910):
        books.answered_here(one, 1.0, EARLIER + now)
    assert one.sum().cadence == (10.0, 0.0)
    told = summary.summary(books, one, NOON + 915)
    assert (told["cadence_seconds"], told["seconds_since_share"]) == (10.0, 5.0)
    assert (told["first_seen_unix"], told["last_seen_unix"]) == (NOON, NOON + 915)


def test_both_hashrates_stand_side_by_side(books):
    """A pool that refuses every second share: half is paid, all was checked."""
    one = books.join("rig", EARLIER)
    for number in range(60):
        books.forwarded(one, 4.0, False, EARLIER + number)
        if number % 2:
            books.pool_accepted(one, 4.0, 4.0, 0.05)
        else:
            books.pool_refused(one, 4.0, 23, "Low", 0.05)
    list(books.fold(NOON, NOON + 60, OFFSET))
    told = summary.totals(books, NOON + 60)
    assert told["hashrate"]["1h"] == pytest.approx(4.0 * 2**32, rel=1e-3)
    assert told["hashrate_paid"]["1h"] == pytest.approx(2.0 * 2**32, rel=1e-3)
    assert (told["pool_rejected"], told["low"], told["pool_difficulty_rejected"]) == (30, 30, 120.0)
    assert told["shares_per_second"] == pytest.approx(1.0)
    assert told["pool_latency_ms"]["p99"] == pytest.approx(50, rel=0.1)
    assert "30 pool: 23 Low" in summary.report_line(told)


def test_names_beyond_the_bound_take_the_place_of_idle_ones_or_share_one(books, monkeypatch):
    monkeypatch.setattr(accounts, "MAX_WORKERS", 10)
    kept = [books.join(f"rig{number}", EARLIER) for number in range(10)]
    for one in kept:
        books.answered_here(one, 1.0, EARLIER)
    late = books.join("late", EARLIER + 1)
    books.answered_here(late, 1.0, EARLIER + 1)
    books.leave(kept[3], EARLIER + 2)
    told = dict(books.fold(NOON, NOON + 15, OFFSET)) | dict(books.fold(NOON + 15, NOON + 30, OFFSET))
    assert "late" not in told and told[OTHER].accepted == 1, "the pool's verdict on rig3's may still come"
    list(books.fold(NOON + 30, NOON + 700, OFFSET))
    books.answered_here(late, 1.0, EARLIER + 701)
    told = dict(books.fold(NOON + 700, NOON + 715, OFFSET))
    assert told["late"].accepted == 1 and books.workers["late"] is late, "by name again as soon as there is room"
    assert "rig3" not in books.workers and len(books.workers) == 11


def test_names_without_a_share_make_room_for_others_and_are_known_once_they_have_one(books, monkeypatch):
    """Whoever authorizes thousands of names takes nobody's account away."""
    monkeypatch.setattr(accounts, "MAX_WORKERS", 10)
    flood = [books.join(f"flood{number}", EARLIER) for number in range(10)]
    honest = books.join("honest", EARLIER + 1)
    assert books.workers["honest"] is honest and "flood0" not in books.workers
    again = books.join("flood0", EARLIER + 11)  # another session of a name that had to make room
    for one in (honest, flood[0], again):
        books.answered_here(one, 2.0, EARLIER + 12)
    told = {}
    for start in (NOON, NOON + 15):
        for name, news in books.fold(start, start + 15, OFFSET):
            told[name] = told.get(name, 0) + news.accepted
    assert told == {"honest": 1, "flood0": 2} and books.workers["flood0"].total.accepted == 2
    for one in (flood[0], again, honest, *flood[1:]):
        books.leave(one, EARLIER + 40)
    assert set(books.workers) == {"honest", "flood0"}


def test_names_beyond_the_bound_cost_no_walk_over_all_others_each(books, monkeypatch):
    """With 50,000 names a walk takes a millisecond: a flood of further ones would delay every share."""
    class Counted(dict):
        walks = 0

        def values(self):
            self.walks += 1
            return super().values()

    monkeypatch.setattr(accounts, "MAX_WORKERS", 10)
    books.workers = Counted()
    for number in range(1000):
        books.answered_here(books.join(f"rig{number}", EARLIER + number / 100), 1.0, EARLIER)
    assert books.workers.walks == 1 and len(books.workers) == 10
    books.join("later", EARLIER + 20)
    assert books.workers.walks == 2


def test_a_name_is_told_once_it_sent_a_good_share_with_all_that_was_refused_before(books):
    one = books.join("late", EARLIER)
    books.refused(one, "malformed", EARLIER)
    assert list(books.fold(NOON, NOON + 1, OFFSET)) == [] and one.sum().refused == {"malformed": 1}
    books.answered_here(one, 1.0, EARLIER + 2)
    ((name, news),) = books.fold(NOON + 1, NOON + 3, OFFSET)
    assert (name, news.accepted, news.refused) == ("late", 1, {"malformed": 1})


def test_a_miner_cannot_take_the_name_of_those_without_one(books):
    assert books.join(NOBODY, EARLIER).name == f"{NOBODY} by name"


def test_names_that_never_sent_a_good_share_go_and_their_refusals_stay(books):
    one = books.join("garbage", EARLIER)
    books.refused(one, "malformed", EARLIER)
    books.leave(one, EARLIER + 1)
    assert list(books.workers) == [NOBODY]
    assert [(name, news.refused) for name, news in books.fold(NOON, NOON + 1, OFFSET)] == [(NOBODY, {"malformed": 1})]
