"""The difficulty follows the miner's speed: in simulated time, and live."""

import math

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from karoo.policy import hints
from karoo.policy.evidence import MOST, Evidence, deviation
from karoo.policy.vardiff import DifficultyPolicy, Remembered
from karoo.sim import lab
from karoo.sim.miner import MinerOptions, SimulatedMiner

POLICY = DifficultyPolicy(enabled=True, lowest=1e-6, highest=1e6, by_agent=(("miner", 5.0), ("nerdminer", 1e-4)))


# ---------------------------------------------------------------- in simulated time

@pytest.mark.parametrize("power", [-6, -3, -1, 0, 1, 3, 6])
def test_from_far_off_to_the_right_difficulty(power):
    within, _ = lab.converged(power, at_once=True, seeds=5)
    assert within == 1.0


def test_no_share_is_refused_because_of_a_change():
    for at_once in (True, False):
        for power in (-4, 0, 4):
            trial = lab.Lab(power, 10.0 ** power, lambda now: lab.SPEED * (8 if now > 600 else 1), at_once=at_once,
                            policy=lab.POLICY)
            run = trial.until(1500.0)
            assert run.refused == 0 and len(run.told) > 1


def test_a_much_faster_miner_is_raised_at_once():
    trial = lab.Lab(3, 1.0, lambda now: lab.SPEED * (1000 if now > 1200 else 1), at_once=True, policy=lab.POLICY)
    run = trial.until(1220.0)
    assert run.difficulty_at(1210.0) > 300


# ---------------------------------------------------------------- its parts

@given(st.lists(st.tuples(st.floats(0.01, 30), st.integers(0, 5)), max_size=200))
def test_evidence_counts_everything_in_few_buckets(steps):
    evidence, seconds, shares = Evidence(), 0.0, 0
    for passed, count in steps:
        evidence.pass_time(passed, 2.0)
        for _ in range(count):
            evidence.count()
        seconds, shares = seconds + passed, shares + count
    total = evidence.total()
    windows = list(evidence.windows())
    assert len(windows) <= MOST + 1
    assert windows[-1] == pytest.approx(total)
    assert [window[0] for window in windows] == sorted(window[0] for window in windows)
    if seconds < 300:
        assert total == pytest.approx((seconds, shares, seconds / 2.0))


def test_what_is_older_than_asked_is_forgotten():
    evidence = Evidence()
    for _ in range(60):
        evidence.pass_time(10.0, 1.0)
        evidence.count()
    evidence.keep(100.0)
    assert 100.0 <= evidence.total()[0] <= 300.0


def test_deviation_is_in_standard_deviations():
    assert deviation(12, 12) == 0
    assert deviation(100, 81) == pytest.approx(2.0, abs=0.05)
    assert deviation(0, 4) < -2.5


@pytest.mark.parametrize(("suggested", "agent", "wanted"), [
    (None, "NerdMinerV2", 1e-4), (None, "some Miner", 5.0), (None, "other", 1e6), (0.5, "NerdMinerV2", 0.5),
    (1e-9, "", 1e-6), (1e9, "", 1e6)])
def test_where_a_session_starts(suggested, agent, wanted):
    assert POLICY.wanted(suggested, agent) == wanted


def test_without_vardiff_a_session_holds_the_pools():
    assert DifficultyPolicy(enabled=False, lowest=1, highest=2, start=1.5).wanted(1.0, "x") is None


@given(st.floats(1e-6, 1e6))
def test_rounding(difficulty):
    digits = POLICY.rounded(difficulty)
    assert abs(math.log(digits / difficulty)) < 0.06
    assert float(f"{digits:.1e}") == digits
    power = DifficultyPolicy(enabled=True, lowest=1e-9, highest=1e9, power_of_two=True).rounded(difficulty)
    assert math.log2(power).is_integer() and abs(math.log2(power / difficulty)) <= 0.5000001


@pytest.mark.parametrize(("user", "name", "start"), [
    ("wallet.rig", "wallet.rig", None), ("wallet.rig+0.5", "wallet.rig", 0.5), ("a+1e-4", "a", 1e-4),
    ("a+b", "a+b", None), ("+5", "+5", None), ("a+0", "a", None), ("a+1e99", "a", 1e99)])
def test_difficulty_in_a_user_name(user, name, start):
    assert hints.split_user(user) == (name, start)


@pytest.mark.parametrize(("password", "expected"), [
    ("x", (None, None)), ("d=0.5", (0.5, None)), ("md=0.1", (None, 0.1)), ("x,d=0.5,md=0.1", (0.5, 0.1)),
    ("d=0.5;md=0.1", (0.5, 0.1)), ("id=5", (None, None)), ("d=-1", (None, None)), ("d=0", (None, None))])
def test_difficulty_in_a_password(password, expected):
    assert hints.read_password(password) == expected


@given(st.text(), st.text())
def test_hints_take_any_text(user, password):
    assert hints.split_user(user)[0] in user
    assert len(hints.read_password(password)) == 2


def test_what_is_remembered_is_bounded():
    remembered = Remembered()
    for number in range(Remembered.MOST + 10):
        remembered.keep(f"w{number}", "a", 1.0)
    assert remembered.recall("w0", "a") is None and remembered.recall(f"w{Remembered.MOST}", "a") == 1.0


# ---------------------------------------------------------------- live

def test_miners_of_different_speed_converge_live(site):
    pool = site.pool(difficulty=1e-3)
    proxy = site.proxy(pool, vardiff={"min_diff": 1e-9, "target_seconds": 0.5, "start_diff": 1e-6})
    miners = [SimulatedMiner(MinerOptions("127.0.0.1", proxy.listener.port, f"w.{rate}", hashrate=rate,
                                          applies_difficulty="at once")) for rate in (2_000, 20_000, 100_000)]
    running = [gevent.spawn(miner.run) for miner in miners]
    try:
        def settled():
            held = {session.worker_name: session for session in proxy.sessions.values()}
            right = {str(rate): rate * 0.5 / 2 ** 32 for rate in (2_000, 20_000, 100_000)}
            return held.keys() == right.keys() and all(
                not held[name].tuner.probing and 1 / 2 <= held[name].tuner.difficulty / right[name] <= 2
                for name in right)
        site.wait(settled, 60)
    finally:
        for miner in miners:
            miner.stop()
        gevent.joinall(running, timeout=5)
    assert site.booked(proxy).refused_total == 0 and not pool.books.refused


def test_hints_of_user_and_password(site):
    pool = site.pool()
    proxy = site.proxy(pool, vardiff={"min_diff": 1e-9})
    by_user = site.miner(proxy, user="a.rig+1e-7")
    assert by_user.difficulty == 1e-7
    assert by_user.submit(by_user.find_share(pool.difficulty)) is True
    assert pool.shares[-1].user == "wallet.rig"
    by_password = site.connect(proxy)
    by_password.subscribe()
    by_password.authorize("a.other", "x,d=2e-7")
    by_password.wait_job()
    assert by_password.difficulty == 2e-7
