"""How sessions behave: honest miners of all kinds are never cut, and each kind of abuse is, soon."""

import itertools
import random
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karoo.policy import conduct
from karoo.policy.conduct import AVERAGED, LOOK, RAISED, Conduct, Rules

RULES = Rules(max_submits_per_second=100.0, deadlines=(30.0, 60.0, 180.0))
BAD_SHARES = ["low", "duplicate", "invalid"]
KINDS = {"low": "low-difficulty shares", "duplicate": "duplicate shares", "invalid": "invalid shares",
         "stale": "stale shares", "junk": "junk lines", "early": "submits before authorization"}
SEEDS = st.integers(0, 2**32)


def repeat(session, what, rate, now=0.0, most=1_000_000):
    """Do the same thing so many times a second: (times, seconds, reason), or (most, seconds, None) when nothing comes
    of it."""
    start, act = now, getattr(session, what)
    for count in range(1, most + 1):
        now += 1.0 / rate
        reason = act(now)
        if reason is not None:
            return count, now - start, reason
    return most, now - start, None


# ---------------------------------------------------------------- honest miners

class HonestMiner:
    """Hours of a miner's life, of one that has bad luck: what it does to the proxy as (when, what), in order."""

    def __init__(self, seed):
        self.rng = rng = random.Random(seed)
        self.rate = 10 ** rng.uniform(-2.0, 0.7)  # shares a second
        self.errors = rng.uniform(0.001, 0.02)  # of the hardware
        self.latency = rng.uniform(0.0, 3.0)  # seconds, from a block at the proxy to its next share of the new job
        self.block_every = rng.choice([20.0, 60.0, 600.0])  # seconds; some coins and some pools are fast
        self.odd_line_every = rng.choice([None, 30.0, 60.0])  # a request of its firmware that nobody understands
        self.events = []

    def live(self, hours):
        rng, end = self.rng, hours * 3600.0
        self._first()
        block, odd = rng.expovariate(1 / self.block_every), self.odd_line_every or end
        stale_until = slow_until = raise_at = 0.0
        raise_at = rng.uniform(0.0, 1800.0)
        now = 1.0
        while now < end:
            now += rng.expovariate(self.rate)
            while odd < now:
                self.events.append((odd, "junk"))
                odd += self.odd_line_every or end
            while block < now:
                slow = rng.random() < 0.02  # it does not hear of the block at once
                stale_until = block + (rng.uniform(0.0, 60.0) if slow else self.latency)
                block += rng.expovariate(1 / self.block_every)
            if raise_at < now:
                self.events.append((now, "raised"))
                slow_until = now + rng.uniform(0.0, RAISED)
                raise_at = now + rng.uniform(300.0, 3600.0)
            self.events.append((now, self._share(now, stale_until, slow_until)))
        self._stall(rng.uniform(0.0, end), rng.uniform(1.0, 60.0))
        self.events.sort(key=lambda event: event[0])
        return self.events

    def _first(self):
        """It comes back to a proxy that knows it: shares before authorization, and those of two minutes once more."""
        self.events += [(0.1, "early")] * self.rng.randrange(5)
        self.events += [(0.5, "duplicate")] * min(self.rng.randrange(1 + int(120 * self.rate)), 150)

    def _share(self, now, stale_until, slow_until):
        chance = self.rng.random()
        if chance < self.errors:
            return self.rng.choice(["low", "low", "low", "invalid", "duplicate"])
        if now < stale_until:
            return "stale"
        return "low" if now < slow_until and self.rng.random() < 0.9 else "good"

    def _stall(self, start, seconds):
        """The network held everything back for a while: it comes in one moment, and part of it is stale by then."""
        self.events = [((start + seconds, "stale" if what == "good" and self.rng.random() < 0.5 else what)
                        if start <= when < start + seconds else (when, what)) for when, what in self.events]


@settings(max_examples=40)
@given(SEEDS)
def test_an_honest_miner_is_never_cut(seed):
    session = Conduct(RULES, 0.0)
    for now, what in HonestMiner(seed).live(hours=4):
        assert getattr(session, what)(now) is None, f"{what} after {now:.0f} s"


def test_the_model_of_honest_miners_does_all_that_they_do():
    done = {what for seed in range(30) for _, what in HonestMiner(seed).live(hours=1)}
    assert done == {"good", "low", "invalid", "duplicate", "stale", "junk", "early", "raised"}


@given(SEEDS, st.floats(0.0, 0.3), st.floats(0.1, 50.0))
def test_a_ratio_far_below_a_half_is_no_reason(seed, ratio, rate):
    rng, session = random.Random(seed), Conduct(RULES, 0.0)
    for count in range(3000):
        what = rng.choice([*BAD_SHARES, "stale"]) if rng.random() < ratio else "good"
        assert getattr(session, what)(count / rate) is None


@pytest.mark.parametrize(("what", "most"), [("low", 199), ("duplicate", 199), ("invalid", 199), ("stale", 799),
                                            ("junk", 19), ("early", 19)])
def test_what_is_borne_at_once(what, most):
    session = Conduct(RULES, 0.0)
    assert [getattr(session, what)(1.0) for _ in range(most)] == [None] * most
    assert getattr(session, what)(1.0) == f"{most + 1} {KINDS[what]}"
    assert getattr(session, what)(1.0) == f"{most + 2} {KINDS[what]}", "as often as it is asked"


@pytest.mark.parametrize(("what", "every"), [("junk", 10.0), ("early", 10.0), ("low", 60.0), ("duplicate", 60.0),
                                             ("stale", 15.0)])
def test_what_is_borne_for_ever(what, every):
    assert repeat(Conduct(RULES, 0.0), what, 1.0 / every, most=20_000)[2] is None


def test_a_good_record_bears_twice_as_much_and_is_used_up():
    session = Conduct(RULES, 0.0)
    assert repeat(session, "good", 1.0, most=100_000)[2] is None
    count, _, _ = repeat(session, "low", 10.0, now=1e5)
    assert 400 <= count <= 405
    session = Conduct(RULES, 0.0)
    repeat(session, "good", 1.0, most=50)
    assert repeat(session, "low", 1000.0, now=50.0)[0] in (250, 251)


def test_what_was_forgiven_is_not_named():
    session = Conduct(RULES, 0.0)
    repeat(session, "low", 10.0, most=150)
    repeat(session, "good", 10.0, now=100.0, most=500)
    assert repeat(session, "junk", 10.0, now=200.0)[2] == "21 junk lines"


def test_all_that_adds_up_is_named():
    session = Conduct(RULES, 0.0)
    done = [session.junk(0.0) for _ in range(10)] + [session.low(0.0) for _ in range(60)]
    done += [session.duplicate(0.0) for _ in range(39)]
    assert done == [None] * 109
    assert session.duplicate(0.0) == "60 low-difficulty shares, 40 duplicate shares, 10 junk lines"


# ---------------------------------------------------------------- a difficulty just raised

def test_low_shares_after_a_rise_are_free():
    session = Conduct(RULES, 0.0)
    session.raised(10.0)
    assert repeat(session, "low", 90.0, now=10.0, most=int(90 * RAISED) - 2)[2] is None
    count, _, reason = repeat(session, "low", 90.0, now=10.0 + RAISED)
    assert count <= 203 and "low-difficulty" in reason


def test_but_not_in_any_number():
    session = Conduct(RULES, 0.0)
    session.raised(0.0)
    _, seconds, reason = repeat(session, "low", 1000.0)
    assert seconds < 4.0 and reason == "more than 100 submits a second over 30 s"


def test_they_make_nothing_good():
    session = Conduct(RULES, 0.0)
    repeat(session, "duplicate", 10.0, most=150)
    session.raised(20.0)
    repeat(session, "low", 20.0, now=20.0, most=1000)
    assert repeat(session, "duplicate", 10.0, now=200.0)[0] <= 55


# ---------------------------------------------------------------- abuse

@pytest.mark.parametrize("what", ["junk", "early"])
@given(st.floats(0.2, 10_000.0))
def test_bad_lines_end_it(what, rate):
    count, _, reason = repeat(Conduct(RULES, 0.0), what, rate)
    assert count <= 200.0 / (10.0 - 1.0 / rate) + 2 and KINDS[what] in reason


@pytest.mark.parametrize("what", [*BAD_SHARES, "stale"])
@settings(max_examples=30)
@given(st.floats(0.1, 10_000.0))
def test_a_flood_of_bad_shares_ends_it(what, rate):
    count, _, reason = repeat(Conduct(RULES, 0.0), what, rate)
    points = 0.25 if what == "stale" else 1.0
    assert count <= 200.0 / (points - 1 / 60 / rate) + 2 and KINDS[what] in reason


@settings(max_examples=30)
@given(SEEDS, st.floats(0.6, 1.0), st.floats(1.0, 90.0))
def test_more_bad_shares_than_good_ones_end_it(seed, ratio, rate):
    rng, session = random.Random(seed), Conduct(RULES, 0.0)
    for count in range(1, 8000):
        what = rng.choice(BAD_SHARES) if rng.random() < ratio else "good"
        reason = getattr(session, what)(count / rate)
        if reason is not None:
            return
    raise AssertionError("it goes on")


@settings(max_examples=30)
@given(SEEDS, st.floats(1.0, 1000.0))
def test_a_bit_of_everything_ends_it(seed, rate):
    rng, session = random.Random(seed), Conduct(RULES, 0.0)
    for count in range(1, 1000):
        if getattr(session, rng.choice([*KINDS, "good"]))(count / rate) is not None:
            return
    raise AssertionError("it goes on")


# ---------------------------------------------------------------- the rate of submits

@pytest.mark.parametrize("what", ["good", "request"])
@settings(max_examples=30)
@given(st.integers(1, 1000), st.floats(1.2, 20.0))
def test_too_many_submits_end_it(what, most, times):
    session = Conduct(Rules(max_submits_per_second=most), 0.0)
    count, seconds, reason = repeat(session, what, most * times)
    assert seconds <= AVERAGED / (times - 1) + 2 * LOOK / (most * times)
    assert count >= AVERAGED * most, "a burst is honest"
    assert reason == f"more than {most:g} submits a second over 30 s"


@settings(max_examples=30)
@given(st.integers(1, 1000), st.lists(st.floats(0.0, 60.0), max_size=50))
def test_stalls_do_not(most, stalls):
    """So many as are allowed, all the time, and what a stall of up to half a minute held back at once."""
    session, now = Conduct(Rules(max_submits_per_second=most), 0.0), 0.0
    for stall in stalls:
        held = int(min(stall, AVERAGED) * most)
        now += stall
        for _ in range(held):
            assert session.good(now) is None
    assert repeat(session, "good", most, now=now, most=1000)[2] is None


def test_silence_saves_nothing_up():
    session = Conduct(RULES, 0.0)
    repeat(session, "good", 1.0, most=LOOK)
    assert AVERAGED * 100 <= repeat(session, "good", 1e6, now=1e6)[0] <= AVERAGED * 100 + 2 * LOOK + 1


@given(st.floats(0.0, 1.0))
def test_bad_shares_count_towards_the_rate(ratio):
    session, rng = Conduct(RULES, 0.0), random.Random(ratio)
    for count in itertools.count():
        what = "duplicate" if rng.random() < ratio / 3 else "good"
        if getattr(session, what)(count / 1000.0) is not None:
            break
    assert count < 4000


def test_without_a_limit_any_rate_will_do():
    assert repeat(Conduct(Rules(max_submits_per_second=0.0), 0.0), "good", 1e6, most=100_000)[2] is None


def test_requests_make_no_bad_share_good():
    session = Conduct(Rules(max_submits_per_second=0.0), 0.0)
    reasons = []
    for _ in range(200):
        repeat(session, "request", 1e6, now=1.0, most=100)
        reasons.append(session.low(1.0))
    assert reasons == [None] * 199 + ["200 low-difficulty shares"]


# ---------------------------------------------------------------- the handshake

@pytest.mark.parametrize(("stage", "seconds", "why"), [
    (conduct.CONNECTED, 30, "nothing sent within 30 s"), (conduct.HEARD, 60, "not subscribed within 60 s"),
    (conduct.SUBSCRIBED, 180, "not authorized within 180 s")])
def test_a_handshake_never_finished_ends_it(stage, seconds, why):
    session = Conduct(RULES, 1000.0)
    for second in range(seconds):
        assert session.unfinished(stage, 1000.0 + second) is None
        session.request(1000.0 + second)  # whatever it does meanwhile
    assert session.unfinished(stage, 1000.0 + seconds) == why
    session.waited(seconds)
    assert session.unfinished(stage, 999.0 + 2 * seconds) is None
    assert session.unfinished(stage, 1000.0 + 2 * seconds) == why
    assert Conduct(Rules(deadlines=(0.0, 0.0, 0.0)), 0.0).unfinished(stage, 1e9) is None


# ---------------------------------------------------------------- what it costs

def test_a_good_share_costs_next_to_nothing():
    session, best = Conduct(Rules(max_submits_per_second=1e9), 0.0), 1.0
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(10_000):
            session.good(1.0)
        best = min(best, (time.perf_counter() - started) / 10_000)
    assert best < 1e-6, "0.08 us on a small machine"


def test_a_session_without_faults_is_small():
    session = Conduct(RULES, 1e6)
    assert not hasattr(session, "__dict__") and sys.getsizeof(session) <= 120 and session._faults is None
    session.low(1e6)
    assert sys.getsizeof(session._faults) + sys.getsizeof(session._faults.counts) <= 250


def test_every_kind_has_a_name():
    kinds = (conduct.LOW, conduct.STALE_SHARES, conduct.DUPLICATE, conduct.INVALID, conduct.JUNK, conduct.EARLY)
    assert list(kinds) == list(range(len(conduct._NAMES)))
