"""Curves from the ledger: of all together and of one worker, at every range."""

from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karoo.accounting import series as curves
from karoo.accounting.deltas import Deltas
from karoo.accounting.ledger import Ledger, open_reader
from karoo.accounting.series import RANGES
from karoo.stratum import difficulty as dif

NOW = 1_700_000_000 // 86_400 * 86_400 + 12 * 3600  # noon of a day, UTC
DIFF1 = dif.DIFF1_SHA256D


def series(*asked):
    """The points."""
    return curves.series(*asked)[1]


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "karoo.db")


def done(work, accepted=1, refused=0, wait=0.0):
    return Deltas(answered_here=accepted, here_work=work, latency_count=int(wait > 0), latency_sum=wait,
                  pool_work=work / 2, refused={"stale": refused} if refused else {})


def test_the_last_hour_by_minute(path):
    with closing(Ledger(path)) as ledger:
        ledger.write(NOW - 180, {"a": done(60.0), "b": done(120.0, refused=2)})
        ledger.write(NOW - 60, {"b": done(6.0, wait=0.25)})
    with closing(open_reader(path)) as reader:
        farm = series(reader, "hashrate", "1h", NOW + 1, None, DIFF1)
        assert farm == [(NOW - 180, pytest.approx(3 * dif.hashes_per_share())), (NOW - 120, None),
                        (NOW - 60, pytest.approx(0.1 * dif.hashes_per_share()))]  # the minute just begun is left out
        assert series(reader, "hashrate_paid", "1h", NOW, "a", DIFF1) == [
            (NOW - 180, pytest.approx(0.5 * dif.hashes_per_share())), (NOW - 120, None),
            (NOW - 60, 0.0)]  # the farm worked, and it did not
        assert series(reader, "rejected", "1h", NOW, "b", DIFF1) == [
            (NOW - 180, 2.0), (NOW - 120, None), (NOW - 60, 0.0)]
        assert series(reader, "rejected", "1h", NOW, None, DIFF1)[0] == (NOW - 180, 2.0)
        assert series(reader, "latency", "1h", NOW, None, DIFF1) == [
            (NOW - 180, None), (NOW - 120, None), (NOW - 60, 250.0)]
        assert series(reader, "hashrate", "1h", NOW, "nobody", DIFF1) == []


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 370 * 1440), st.sampled_from(["a", "b"]), st.integers(1, 9),
                          st.integers(0, 3)), max_size=30), st.sampled_from(sorted(RANGES)))
def test_all_together_are_the_sum_of_the_workers(tmp_path_factory, written, extent):
    path = str(tmp_path_factory.mktemp("ledger") / "karoo.db")
    with closing(Ledger(path)) as ledger:
        for minutes_ago, worker, accepted, refused in written:
            ledger.write(NOW - 60 * minutes_ago, {worker: done(float(accepted), accepted, refused)})
    with closing(open_reader(path)) as reader:
        for metric in ("accepted", "rejected"):
            farm = dict(series(reader, metric, extent, NOW, None, DIFF1))
            parts = [dict(series(reader, metric, extent, NOW, worker, DIFF1)) for worker in ("a", "b")]
            for at, value in farm.items():
                several = [part[at] for part in parts if part.get(at) is not None]
                assert value == (pytest.approx(sum(several)) if several else None)
            for part in parts:  # nothing where the farm has something is 0, and not unknown
                assert all((value is None) == (farm[at] is None) for at, value in part.items())


def test_a_ledger_from_before_has_its_curve_too(path, monkeypatch):
    from karoo.accounting import schema
    with monkeypatch.context() as before:
        before.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        before.setattr("karoo.accounting.ledger.POST_FARM", "SELECT ?, ?")
        with closing(Ledger(path)) as ledger:
            ledger.write(NOW - 60, {"a": done(60.0), "b": done(60.0, accepted=3, refused=2)})
    with closing(Ledger(path)):
        pass
    with closing(open_reader(path)) as reader:
        assert series(reader, "accepted", "1h", NOW, None, DIFF1) == [(NOW - 60, 4.0)]
        assert series(reader, "rejected", "1y", NOW, None, DIFF1)[-1] == (NOW // 86_400 * 86_400, 2.0)


def test_the_farm_s_minutes_are_forgotten_as_the_workers_are(path):
    with closing(Ledger(path)) as ledger:
        ledger.write(NOW - 3 * 86_400, {"a": done(1.0)})
        ledger.prune(NOW)
        steps = [step for (step,) in ledger.query("SELECT step FROM farm ORDER BY step", ())]
    assert steps == [3600, 86_400]


def test_of_the_first_point_only_the_part_counts_in_which_there_were_accounts(path):
    with closing(Ledger(path)) as ledger:
        for minutes in range(3 * 60 + 2, 0, -1):
            ledger.write(NOW - 60 * minutes, {"a": done(60.0)})
    with closing(open_reader(path)) as reader:
        for worker in (None, "a"):
            points = series(reader, "hashrate", "24h", NOW, worker, DIFF1)
            assert points[0][0] == NOW - 3 * 3600 - 300 and len(points) == 37
            assert [value for _, value in points] == [pytest.approx(dif.hashes_per_share())] * 37


def test_a_day_is_shown_by_minutes_while_there_is_little_of_it(path):
    with closing(Ledger(path)) as ledger:
        for minutes in (3, 2, 1):
            ledger.write(NOW - 60 * minutes, {"a": done(60.0)})
    with closing(open_reader(path)) as reader:
        for worker in (None, "a"):
            step, points = curves.series(reader, "accepted", "24h", NOW, worker, DIFF1)
            assert (step, points) == (60, [(NOW - 180, 1.0), (NOW - 120, 1.0), (NOW - 60, 1.0)])
            assert curves.series(reader, "accepted", "24h", NOW + curves.YOUNG, worker, DIFF1)[0] == 300


def test_a_slow_worker_shows_its_true_rate_at_the_edge_and_no_gaps(path):
    """A share each ten minutes for two days, seen over one: no point is higher than the others."""
    with closing(Ledger(path)) as ledger:
        for minutes in range(2880, 0, -10):
            ledger.write(NOW - 60 * minutes, {"slow": done(600.0), "other": done(1.0)})
            ledger.write(NOW - 60 * (minutes - 5), {"other": done(1.0)})
    with closing(open_reader(path)) as reader:
        points = series(reader, "hashrate", "24h", NOW, "slow", DIFF1)
    assert len(points) == 288 - 1 and {round(value / dif.hashes_per_share(), 6) for _, value in points} == {0.0, 2.0}
