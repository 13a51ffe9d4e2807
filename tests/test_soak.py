"""The soak: its verdict on books that do not agree, and a short one as a whole."""

import logging

import pytest

from karoo.sim import soak
from karoo.sim.books import Account
from karoo.sim.miner import MinerStats
from karoo.sim.proxyprocess import Measure
from karoo.sim.soakbooks import Count, compare_miners, compare_pools, differences

LOST = "connection to the pool lost before it answered"


@pytest.mark.parametrize(("knows", "heard", "strict", "fault"), [
    (Count(5, 1), Count(5, 1), True, ""),
    (Count(7, 1), Count(5, 1, open=2), True, ""),
    (Count(5, 3), Count(5, 1, open=2), True, ""),
    (Count(5, 1), Count(5, 1, open=2), True, ""),  # they never came
    (Count(6, 1), Count(5, 1), True, "1 accepted and 0 refused never heard of, 0 unanswered"),
    (Count(7, 2), Count(5, 1, open=2), True, "2 accepted and 1 refused never heard of, 2 unanswered"),
    (Count(4, 1), Count(5, 1, open=9), True, "1 accepted that nobody accepted"),
    (Count(5, 0), Count(5, 1, open=9), True, "1 refused that nobody refused"),
    (Count(5, 0), Count(5, 1), False, ""),
    (Count(4, 2), Count(5, 1, open=9), False, "1 accepted that nobody accepted"),
])
def test_books_differ_by_what_nobody_heard_and_no_more(knows, heard, strict, fault):
    found = differences("w", knows, heard, strict)
    assert (fault in found[0]) if fault else (found == [])


def worker(accepted, rejected, pool_accepted=0, pool_rejected=0, lost=0):
    return {"accepted": accepted, "rejected": rejected, "pool_accepted": pool_accepted, "pool_rejected": pool_rejected,
            "rejected_by_reason": {LOST: lost} if lost else {}}


def test_a_miner_that_the_proxy_does_not_know_is_a_fault():
    heard = Count()
    heard.add(MinerStats(accepted=2))
    assert compare_miners({"h0": heard}, {"h0": worker(2, 0)}, strict=True) == []
    assert len(compare_miners({"h0": heard}, {}, strict=True)) == 1


def test_what_the_pools_paid_is_summed_over_both():
    pools = [{"wallet.h0": Account(3), "wallet.h1": Account(1)}, {"wallet.h0": Account(2)}]
    workers = {"h0": worker(9, 0, pool_accepted=5), "h1": worker(1, 0, pool_accepted=1)}
    assert compare_pools(workers, pools, "wallet") == []


def test_a_share_paid_and_refused_is_allowed_for_lost_verdicts_only():
    pools = [{"wallet.h0": Account(3)}]
    assert compare_pools({"h0": worker(2, 1, pool_accepted=2, lost=1)}, pools, "wallet") == []
    found = compare_pools({"h0": worker(2, 1, pool_accepted=2)}, pools, "wallet")
    assert [text.partition(":")[0] for text in found] == ["wallet.h0", "all workers"]


def test_shares_under_the_wallet_alone_count_in_all():
    pools = [{"wallet.h0": Account(1), "wallet": Account(2)}]
    assert compare_pools({"h0": worker(3, 0, pool_accepted=3)}, pools, "wallet") == []
    assert len(compare_pools({"h0": worker(3, 0, pool_accepted=2)}, pools, "wallet")) == 1


def test_growth_names_what_grew():
    before = Measure(10, 20, 50_000_000, {"workers": 5, "jobs": 1, "bans": 0}, {})
    assert before.growth(before, {}) == []
    after = Measure(11, 20, 61_000_000, {"workers": 7, "jobs": 3, "bans": 9, "fresh": 1}, {})
    assert after.growth(before, {"jobs": 2}) == [
        "11 greenlets after 10", "7 workers after 5", "1 fresh after 0", "61.0 MB after 50.0 MB"]


def test_a_short_soak_is_well(tmp_path, capsys):
    level = logging.getLogger("karoo.sim").level
    try:
        assert soak.main(["--minutes", "0.15", "--miners", "15", "--seed", "3", "--folder", str(tmp_path)]) == 0
    finally:
        logging.getLogger("karoo.sim").setLevel(level)
    printed = capsys.readouterr().out
    assert printed.endswith("well\n")
    assert "0 of 15" in printed
    assert (tmp_path / "karoo.log").stat().st_size > 0


@pytest.mark.parametrize("words", [["--minutes", "0"], ["--miners", "0"], ["--miners", "100000"]])
def test_bounds_of_a_soak(words, capsys):
    with pytest.raises(SystemExit) as ended:
        soak.main(words)
    assert ended.value.code == 2
    assert "must be positive" in capsys.readouterr().err
