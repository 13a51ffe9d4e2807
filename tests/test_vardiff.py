"""The difficulty follows the miner's speed: in simulated time, and live."""

import math
import random
import statistics

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from karoo.policy import hints
from karoo.policy.evidence import MOST, Evidence, deviation
from karoo.policy.tuner import Tuner
from karoo.policy.vardiff import DifficultyPolicy, Former, Remembered, Vardiff
from karoo.sim import lab, labreport
from karoo.sim.miner import MinerOptions, SimulatedMiner
from karoo.stratum import difficulty as dif

POLICY = DifficultyPolicy(enabled=True, lowest=1e-6, highest=1e6, by_agent=(("miner", 5.0), ("nerdminer", 1e-4)))


# ---------------------------------------------------------------- in simulated time

MINERS = pytest.mark.parametrize("at_once", [True, False], ids=["at once", "with jobs"])


@MINERS
@pytest.mark.parametrize("power", [-6, -3, -1, 0, 1, 3, 6])
def test_from_far_off_to_the_right_difficulty(power, at_once):
    measured = lab.Measurements(8, 0.0)
    assert measured.converged(power, at_once) == 1.0
    assert measured.refused == 0 and measured.shares and measured.changes


@MINERS
def test_steady_state(at_once):
    measured = lab.Measurements(16, 4.0)
    steady = measured.steady(at_once)
    assert steady.changes < 1.0 and 0.9 <= steady.interval <= 1.1
    assert measured.refused == 0 and measured.shares > 10_000


@MINERS
@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_a_change_of_speed_is_followed(factor, at_once):
    measured = lab.Measurements(20, 0.0)
    followed = measured.followed(factor, at_once)
    assert followed.median < 180.0 and followed.part > 0.5
    assert abs(math.log(followed.typical)) < math.log(1.5)
    assert measured.refused == 0


def test_difficulties_stay_inside_their_limits():
    measured = lab.Measurements(1, 0.0)
    assert measured.limits() == []
    assert measured.changes > 100


@pytest.mark.parametrize(("difficulty", "allowed"), [
    (0.12, True), (0.123, False), (0.25, True), (0.04, False), (3.3, True), (5.0, False), (3.37, True)])
def test_what_the_limits_allow(difficulty, allowed):
    policy = DifficultyPolicy(enabled=True, lowest=0.05, highest=4.0)
    assert lab.is_allowed(difficulty, policy, ceiling=3.37) is allowed
    powers = DifficultyPolicy(enabled=True, lowest=0.05, highest=4.0, power_of_two=True)
    assert lab.is_allowed(difficulty, powers, ceiling=3.37) is (difficulty in (0.25, 3.37))


def test_no_share_is_refused_because_of_a_change():
    for at_once in (True, False):
        for power in (-4, 0, 4):
            run = lab.Measurements(1, 0.0).run(power, 10.0 ** power, 1500.0, at_once=at_once, factor=8.0, since=600.0)
            assert run.refused == 0 and len(run.told) > 1


def test_a_much_faster_miner_is_raised_at_once():
    """The first step with its first burst, and the whole way within half a minute."""
    measured = lab.Measurements(1, 0.0)
    runs = [measured.run(seed, 1.0, 1230.0, at_once=True, factor=1000.0, since=1200.0) for seed in range(12)]
    assert all(run.difficulty_at(1201.0) > 3 for run in runs)
    assert statistics.median(run.difficulty_at(1230.0) for run in runs) > 600


def test_shares_drawn_in_bulk_are_those_drawn_one_by_one(monkeypatch):
    """A miner that waits for its next job floods: the same shares, and the same said to the controller."""
    def counts():
        measured = lab.Measurements(1, 0.0)
        runs = [measured.run(seed, 0.003, 90.0, at_once=False) for seed in range(30)]
        return sum(run.count for run in runs) / 30, sum(math.log(run.difficulty_at(80.0)) for run in runs) / 30
    shares, difficulty = counts()
    monkeypatch.setattr(lab, "FLOOD", math.inf)
    one_by_one, expected = counts()
    assert shares == pytest.approx(one_by_one, rel=0.05)
    assert difficulty == pytest.approx(expected, abs=0.15)


def test_random_counts():
    source = random.Random(1)
    for mean in (0.0, 0.3, 20.0, 5000.0):
        counts = [lab.poisson(source, mean) for _ in range(2000)]
        assert sum(counts) / 2000 == pytest.approx(mean, abs=0.1 * math.sqrt(mean))


class Tripled(Vardiff):
    """A controller that is off by a factor of 3."""

    def look(self, difficulty, target):
        found = super().look(difficulty / 3.0, target)
        return None if found is None else 3.0 * found


def test_the_table_says_what_does_not_hold(monkeypatch):
    monkeypatch.setattr(labreport, "SESSIONS", 100)
    found = labreport.measure(2, 0.5, Tripled)
    bad = labreport.failed(found)
    text = labreport.table(found)
    assert any(name.startswith("(a)") for name in bad) and any("share interval" in name for name in bad)
    assert not any(name.startswith(("(d)", "(e)")) for name in bad)
    assert sum(line.endswith(" NO") for line in text.splitlines()) == len(bad)
    assert sum(line.endswith(" yes") for line in text.splitlines()) == sum(row.holds is True for row in found)


def test_the_script_ends_with_1_when_something_does_not_hold(monkeypatch, capsys):
    for holds, status in ((True, 0), (False, 1)):
        row = labreport.Row("(x) of this", "1", "2", holds)
        monkeypatch.setattr(labreport, "measure", lambda *args, row=row, **named: [row])
        assert labreport.main(["--no-picture"]) == status
    assert "DOES NOT HOLD" in capsys.readouterr().out


def test_the_picture(tmp_path):
    pytest.importorskip("matplotlib")
    from karoo.sim.labpicture import draw
    for name, begins in (("lab.svg", b"<?xml"), ("lab.png", b"\x89PNG")):
        draw(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(begins)


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
    evidence.pass_time(3.0, 1.0)
    evidence.keep(100.0)
    assert 100.0 <= evidence.total()[0] <= 300.0
    evidence.keep(0.0)
    assert evidence.total() == (0, 0, 0) and list(evidence.windows()) == [(0, 0, 0)]


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


def test_what_is_remembered_is_bounded_and_grows_old():
    remembered, former = Remembered(), Former(1.0, None)
    for number in range(Remembered.MOST + 10):
        remembered.keep((f"w{number}", "a", "agent"), former, 5.0)
    assert remembered.recall(("w0", "a", "agent"), 5.0) is None
    last = (f"w{Remembered.MOST}", "a", "agent")
    assert remembered.recall(last, 5.0 + Remembered.LONGEST) is former
    assert remembered.recall(last, 6.0 + Remembered.LONGEST) is None
    assert remembered.recall((last[0], "a", "another program"), 5.0) is None


@MINERS
@pytest.mark.parametrize("power", [-3, -1, 1, 3])
def test_a_start_remembered_from_another_miner_is_given_up_soon(power, at_once):
    measured = lab.Measurements(8, 0.0)
    assert measured.recovered(power, at_once) == 1.0 and measured.refused == 0


# ---------------------------------------------------------------- wishes

def tuner(policy=POLICY, former=None, suggested=None, floor=0.0):
    one = Tuner(policy, dif.DIFF1_SHA256D)
    one.suggested, one.floor = suggested, floor
    one.begin("NerdMinerV2", former, 0.0)
    one.change(one.under(1e9), 0, 0.0)
    return one


def test_a_floor_holds_from_the_start_and_at_once():
    assert tuner(floor=0.5).difficulty == 0.5, "not 1e-4, as its program starts"
    one = tuner()
    assert one.difficulty == 1e-4
    assert one.set_floor(0.3) and one.under(1e9) == 0.3
    assert not one.set_floor(0.2) and one.under(1e9) == 0.3
    assert tuner(floor=1e9).difficulty == POLICY.highest


def test_whoever_comes_back_starts_where_it_left_whatever_it_always_suggests():
    former = Former(0.7, 1e-4)
    for suggested in (None, 1e-4):
        one = tuner(former=former, suggested=suggested)
        assert one.difficulty == 0.7
        assert not one.suggest(1e-4), "NerdMiner says it again every 30 s"
    assert tuner(former=former, suggested=2.0).difficulty == 2.0, "it wants something else than then"


def test_a_suggestion_moves_a_start_and_nothing_that_is_known_better():
    one = tuner(suggested=1e-3)
    assert one.suggest(1e-2) and one.under(1e9) == 1e-2
    for share in range(80):
        one.learn(0, True, 0, share * 0.5)
        one.look(0, share * 0.5)
    assert not one.probing
    held = one.under(1e9)
    for suggested in (5.0, 1e-5, 5.0):
        assert not one.suggest(suggested) and one.under(1e9) == held


@pytest.mark.parametrize(("power_of_two", "started"), [(False, 300.0), (True, 256.0)])
def test_given_starts_are_rounded_too(power_of_two, started):
    policy = DifficultyPolicy(enabled=True, lowest=1e-6, highest=1e6, power_of_two=power_of_two)
    assert tuner(policy, suggested=301.234).difficulty == started


# ---------------------------------------------------------------- live

def test_miners_of_different_speed_converge_live(site):
    pool = site.pool(difficulty=1e-3)
    proxy = site.proxy(pool, vardiff={"min_diff": 1e-9, "target_seconds": 0.5, "start_diff": 5e-8})
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
        site.wait(settled, 120)
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
