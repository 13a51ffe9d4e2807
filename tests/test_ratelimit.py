"""Who may connect, and who is banned: on a clock of the tests' own."""

import itertools
import random
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karoo.policy import addresses, bans, ratelimit
from karoo.policy.addresses import Networks, network
from karoo.policy.bans import FORGIVEN_AFTER, LONGEST, Bans
from karoo.policy.ratelimit import BANNED, DENIED, FARM, TOO_FAST, TOO_MANY, Gate, Limits

HOME, FARM_IP = "203.0.113.7", "198.51.100.9"
HOUR = 3600.0


def gate(**limits):
    limits = {name: tuple(map(network, value)) if name in ("allow", "deny") else value
              for name, value in limits.items()}
    return Gate(Limits(**{"max_connections_per_ip": 0, "max_connections_per_minute": 0, **limits}))


class House:
    """The sessions behind one address."""

    def __init__(self, the_gate, address=HOME):
        self.gate, self.address = the_gate, address
        self.sessions = {}
        self._number = 0

    def connect(self, now):
        """The number of a new session, or the refusal."""
        refusal = self.gate.admit(self.address, now)
        if refusal is not None:
            return refusal
        self._number += 1
        self.sessions[self._number] = now
        return self._number

    def leave(self, number, now):
        del self.sessions[number]
        self.gate.leave(self.address, now)

    def cut(self, number, now):
        """The ban, if any."""
        ban = self.gate.cut(self.address, "20 junk lines", now, self.sessions[number])
        self.leave(number, now)
        return ban

    def comes_back(self, number, now):
        """It is cut, and is there again at once: the ban, or the number of its new session."""
        ban = self.cut(number, now)
        return ban if ban is not None else self.connect(now + 0.01)


# ---------------------------------------------------------------- addresses

@pytest.mark.parametrize(("text", "shown"), [
    ("203.0.113.7", "203.0.113.7"), ("::ffff:203.0.113.7", "203.0.113.7"), ("::FFFF:cb00:7107", "203.0.113.7"),
    ("[::ffff:203.0.113.7]", "203.0.113.7"), ("64:ff9b::203.0.113.7", "203.0.113.7"),
    ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"), ("[2001:db8:1:2::]", "2001:db8:1:2::/64"),
    ("fe80::1%eth0", "fe80::/64"), ("::1", "::/64"), ("0.0.0.0", "0.0.0.0")])
def test_what_an_address_is_counted_under(text, shown):
    assert addresses.shown(addresses.key(addresses.parse(text))) == shown


@pytest.mark.parametrize("text", ["", "?", "unix", "localhost", "1.2.3", "1.2.3.4:80", "::1%", "1.2.3.256", "٣.1.1.1"])
def test_what_is_no_address_may_connect(text):
    assert addresses.parse(text) is None
    the_gate = gate(max_connections_per_ip=1, deny=["0.0.0.0/0", "::/0"])
    for _ in range(3):
        assert the_gate.admit(text, 0.0) is None
    the_gate.leave(text, 0.0)
    assert the_gate.cut(text, "junk", 0.0, 0.0) is the_gate.ban(text, 9.0, "x", 0.0) is None
    assert not the_gate.unban(text) and the_gate.tracked == 0


@given(st.ip_addresses(), st.ip_addresses())
def test_keys_differ_where_addresses_or_their_64_do(one, other):
    def counted(address):
        return (address.version, int(address) >> (0 if address.version == 4 else 64))
    keys = [addresses.key(addresses.parse(str(each))) for each in (one, other)]
    if not any(each.version == 6 and int(each) >> 32 in addresses._EMBEDDING for each in (one, other)):
        assert (keys[0] == keys[1]) == (counted(one) == counted(other))


@given(st.lists(st.tuples(st.ip_addresses(), st.integers(0, 128)), max_size=8), st.ip_addresses(),
       st.integers(0, 128))
def test_lists_of_networks(parts, address, near):
    """Against the standard library's own `in`, for addresses inside and outside."""
    parts.append((address, near))
    listed = [network(f"{each}/{min(length, each.max_prefixlen)}") for each, length in parts]
    networks = Networks(listed)
    for each in [address, *(one for one, _ in parts)]:
        parsed = addresses.parse(str(each))
        assert (parsed in networks) == any(parsed in one for one in listed)


def test_networks_as_texts():
    assert str(network("10.1.2.3/8")) == "10.0.0.0/8" and str(network("2001:db8::7")) == "2001:db8::7/128"
    assert str(network("::ffff:10.0.0.0/104")) == "10.0.0.0/8"
    for wrong in ("", "10.0.0.0/33", "farm", "2001:db8::/129"):
        with pytest.raises(ValueError, match=r"."):
            network(wrong)
    assert not Networks([]) and Networks([network("::/0")])


# ---------------------------------------------------------------- connections

def test_at_once():
    """What is above is refused, and no reason for a ban: the hundred others go on, and one may come for each that
    leaves."""
    the_gate = gate(max_connections_per_ip=100)
    house = House(the_gate)
    numbers = [house.connect(0.0) for _ in range(100)]
    for _ in range(500):
        refusal = house.connect(1.0)
        assert refusal.kind == TOO_MANY and refusal.ban is None
    assert refusal.text == "203.0.113.7 has 100 connections, 100 are allowed"
    assert House(the_gate, "203.0.113.8").connect(1.0) == 1
    house.leave(numbers[0], 2.0)
    assert isinstance(house.connect(2.0), int) and house.connect(2.0).kind == TOO_MANY
    assert the_gate.bans(2.0) == []


def test_per_minute():
    house = House(gate(max_connections_per_minute=60))
    for _ in range(60):
        house.leave(house.connect(5.0), 5.0)
    refusal = house.connect(5.4)
    assert refusal.kind == TOO_FAST and refusal.ban in house.gate.bans(5.4)
    assert refusal.text == "203.0.113.7 is banned for 300 s: more than 60 connections in a minute"
    again = house.connect(105.4)
    assert again.kind == BANNED and again.ban is None and "is banned for 200 s" in again.text
    assert house.connect(305.3).kind == BANNED
    assert isinstance(house.connect(305.5), int), "attempts while it was banned did not make it longer"


@settings(max_examples=60)
@given(st.integers(1, 90), st.lists(st.floats(0.0, 40.0), min_size=1, max_size=300), st.booleans())
def test_never_do_more_than_twice_the_limit_pass_in_a_minute(limit, gaps, stay):
    house, now, admitted = House(gate(max_connections_per_minute=limit)), 1e6, []
    for gap in gaps:
        now += gap / limit  # some 20 seconds for as many as are allowed
        number = house.connect(now)
        if isinstance(number, int):
            admitted = [at for at in admitted if at > now - 60.0] + [now]
            assert len(admitted) <= 2 * limit + 1
            if not stay:
                house.leave(number, now)


@given(st.integers(1, 200), st.lists(st.floats(0.0, 100.0), min_size=1, max_size=200))
def test_who_keeps_the_limit_is_never_banned(limit, gaps):
    house, now, admitted = House(gate(max_connections_per_minute=limit)), 1e6, []
    for gap in gaps:
        now += gap / limit
        if len([at for at in admitted if at > now - 60.0]) >= limit:
            now = admitted[-limit] + 60.0
        admitted.append(now)
        house.leave(house.connect(now), now)


@given(st.integers(1, 300), st.floats(1.1, 50.0))
def test_who_goes_on_above_the_limit_is_banned(limit, times):
    house, now, opened = House(gate(max_connections_per_minute=limit)), 0.0, 0
    while isinstance(number := house.connect(now), int):
        house.leave(number, now)
        opened += 1
        now += 60.0 / (limit * times)
        assert now <= 60.0 / (times - 1) + 120.0 / limit + 1.0
    assert number.ban is not None


def test_no_limits():
    house = House(gate())
    assert all(isinstance(house.connect(0.0), int) for _ in range(5000))
    for number in list(house.sessions):
        house.leave(number, 0.0)
    assert house.gate.tracked == 0, "there is nothing to remember"


def test_ipv6_is_counted_by_64():
    the_gate = gate(max_connections_per_ip=2)
    assert the_gate.admit("2001:db8:1:2::1", 0.0) is the_gate.admit("[2001:db8:1:2:ffff::9]", 0.0) is None
    refusal = the_gate.admit("2001:db8:1:2:a::", 0.0)
    assert refusal.kind == TOO_MANY and refusal.text.startswith("2001:db8:1:2::/64 ")
    assert the_gate.admit("2001:db8:1:3::1", 0.0) is None
    the_gate.leave("2001:db8:1:2:7::7", 1.0)
    assert the_gate.admit("2001:db8:1:2:a::", 1.0) is None
    ban = the_gate.ban("2001:db8:1:2::5", 60.0, "an operator said so", 2.0)
    assert ban.address == "2001:db8:1:2::/64" and the_gate.admit("2001:db8:1:2:f::", 2.0).kind == BANNED
    assert the_gate.unban(ban.address) and the_gate.bans(2.0) == []


def test_an_ipv4_address_is_the_same_through_either_socket():
    the_gate = gate(max_connections_per_ip=1, deny=["::ffff:192.0.2.0/120"], allow=["10.0.0.0/8"])
    assert the_gate.admit("::ffff:203.0.113.7", 0.0) is None
    assert the_gate.admit("203.0.113.7", 0.0).kind == TOO_MANY
    the_gate.leave("203.0.113.7", 0.0)
    assert the_gate.admit("203.0.113.7", 0.0) is None
    assert the_gate.admit("192.0.2.77", 0.0).kind == the_gate.admit("::ffff:192.0.2.77", 0.0).kind == DENIED
    assert [the_gate.admit("::ffff:10.1.2.3", 0.0) for _ in range(5)] == [None] * 5


def test_deny_and_allow():
    the_gate = gate(max_connections_per_ip=1, max_connections_per_minute=2, deny=["10.0.0.0/24", "2001:db8::/127"],
                    allow=["10.0.0.0/8", "2001:db8:7::/48"])
    assert the_gate.admit("10.0.0.9", 0.0).text == "10.0.0.9 is denied by the configuration"
    assert the_gate.admit("2001:db8::1", 0.0).kind == DENIED, "finer than a /64"
    assert the_gate.admit("2001:db8::2", 0.0) is None
    for address in ("10.0.1.9", "2001:db8:7::1"):
        for number in range(500):
            assert the_gate.admit(address, 0.0) is None
            assert the_gate.cut(address, "junk", float(number), 0.0) is None
        assert the_gate.ban(address, 60.0, "by mistake", 0.0) is None
        the_gate.leave(address, 0.0)
    assert the_gate.admit("203.0.113.7", 0.0) is None, "allow keeps nobody out"
    assert the_gate.bans(0.0) == [] and the_gate.tracked == 2


# ---------------------------------------------------------------- farms behind one address

def test_a_farm_is_not_banned_for_one_miner_that_reconnects_in_a_loop():
    house = House(gate(max_connections_per_minute=60), FARM_IP)
    for number in range(FARM):
        house.connect(number * 10.0)
    kinds = []
    for step in range(10_000):
        now = 1000.0 + step * 0.1
        number = house.connect(now)
        if isinstance(number, int):
            house.leave(number, now)
        else:
            kinds.append(number.kind)
    assert set(kinds) == {TOO_FAST} and house.gate.bans(now) == []
    assert 10_000 - len(kinds) <= 60 * (1000 / 60) + 61, "it is held to the limit"
    assert any(isinstance(house.connect(now + step), int) for step in range(3)), "others still get in"


def test_the_connections_of_the_rush_itself_make_no_farm():
    house = House(gate(max_connections_per_minute=60))
    for _ in range(60):
        house.connect(1.0)
    assert house.connect(1.0).ban is not None


@pytest.mark.parametrize("honest", [1, 2, 3, 10, 200])
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_one_bad_miner_never_bans_the_others(honest, seed):
    """It comes back at once and is cut again and again, while the honest ones come and go as they do."""
    rng = random.Random(seed)
    house = House(gate(), FARM_IP)
    crew = [house.connect(0.0) for _ in range(honest)]
    now, bad = 1.0, house.connect(1.0)
    for _ in range(300):
        now += rng.expovariate(0.5) + 0.02
        if rng.random() < 0.3 and honest > 1:  # one of them reconnects
            house.leave(crew.pop(rng.randrange(len(crew))), now)
            crew.append(house.connect(now))
        bad = house.comes_back(bad, now)
        assert isinstance(bad, int), bad


def test_the_bad_one_may_be_the_first_to_come_back_after_a_restart():
    house = House(gate(), FARM_IP)
    bad = house.connect(0.0)
    for step in range(50):
        bad = house.comes_back(bad, step / 100)
        assert isinstance(bad, int), "the others are given a minute to show up"
    for step in range(1, 40):
        if step % 2:
            house.connect(step * 0.5)
        bad = house.comes_back(bad, step * 0.5 + 0.1)
        assert isinstance(bad, int)
    for step in range(500):
        bad = house.comes_back(bad, 20.0 + step)
        assert isinstance(bad, int)


def test_a_few_bad_miners_among_many():
    house = House(gate(), FARM_IP)
    for _ in range(200):
        house.connect(0.0)
    bad = [house.connect(0.0) for _ in range(10)]
    for step in range(1000):
        bad = [house.comes_back(number, 1.0 + step) for number in bad]
        assert all(isinstance(number, int) for number in bad)


def test_many_bad_miners_among_few():
    house = House(gate(), FARM_IP)
    for _ in range(20):
        house.connect(0.0)
    bad = [house.connect(0.0) for _ in range(20)]
    found = [house.comes_back(number, 1.0 + at / 10) for at, number in enumerate(bad)]
    ban = found[9]
    assert all(isinstance(each, int) for each in found[:9]), "of forty, ten are no small minority"
    assert ban.why == "10 sessions cut at once, the last one: 20 junk lines"
    assert {each.kind for each in found[10:] if each is not None and not isinstance(each, int)} == {BANNED}
    assert house.gate.bans(100.0) == [ban], "one ban is enough for all that are cut after it"


@pytest.mark.parametrize("at_once", [1, 2, 3, 10, 100])
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_an_address_with_nothing_but_bad_sessions_is_banned_soon(at_once, seed):
    """They come when they like and are cut a second or more later; each comes back at once."""
    rng = random.Random(seed)
    house, now = House(gate()), 0.0
    alive = [house.connect(rng.random()) for _ in range(at_once)]
    for _ in range(1000 * at_once):
        now += max(1.0, rng.expovariate(1.0)) / at_once + 0.02
        number = alive.pop(rng.randrange(len(alive)))
        came = house.comes_back(number, now)
        if not isinstance(came, int):
            break
        alive.append(came)
    assert house.gate.bans(now) and now < 2 * ratelimit.CUTS_WITHIN + 60.0


def test_bad_sessions_that_come_after_the_first_cut_are_counted_too():
    house = House(gate())
    house.cut(house.connect(0.0), 0.0)
    fleet = [house.connect(1.0) for _ in range(40)]
    cuts = [house.cut(number, 2.0 + at / 100) for at, number in enumerate(fleet)]
    assert cuts[9] is not None and cuts[:9] == [None] * 9


def test_cuts_long_ago_do_not_count():
    house = House(gate())
    for step in range(100):
        assert isinstance(house.connect(now := step * 160.0), int)
        assert house.cut(step + 1, now) is None


def test_a_cut_after_leaving_counts():
    the_gate = gate()
    results = [the_gate.cut(HOME, "junk", step * 40.0, step * 40.0) for step in range(3)]
    assert results[:2] == [None, None] and results[2] is not None


# ---------------------------------------------------------------- bans

def offend(the_bans, now):
    return the_bans.punish(addresses.key(addresses.parse(HOME)), "junk", now)


def test_bans_grow_up_to_a_day():
    the_bans, now, lengths = Bans(300.0, 100), 1e5, []
    for times in range(1, 13):
        ban = offend(the_bans, now)
        assert ban.times == times
        lengths.append(ban.until - ban.since)
        now = ban.until + 10.0
        the_bans.sweep(now)
    assert lengths[:4] == [300.0, 600.0, 1200.0, 2400.0]
    assert lengths[-3:] == [LONGEST] * 3 and all(a <= b for a, b in itertools.pairwise(lengths))
    assert offend(the_bans, now).text(now) == "203.0.113.7 is banned for 24 h, for the 13th time: junk"


def test_bans_are_forgiven_step_by_step():
    the_bans, now = Bans(300.0, 100), 0.0
    for _ in range(3):
        now = offend(the_bans, now).until
    ban = offend(the_bans, now)
    end = ban.until
    assert end - ban.since == 2400.0
    for steps, length in enumerate([4800.0, 2400.0, 1200.0, 600.0, 300.0, 300.0]):
        other = Bans(300.0, 100)
        for key in ("_bans", "_past"):
            getattr(other, key).update(getattr(the_bans, key))
        later = offend(other, end + steps * FORGIVEN_AFTER + 1.0)
        assert later.until - later.since == length
        assert (later.times == 1) == (steps >= 4)
    the_bans.sweep(end + 4 * FORGIVEN_AFTER + 1.0)
    assert len(the_bans) == the_bans.remembered == 0


def test_the_longest_ban_takes_some_days_to_forgive():
    the_bans, now = Bans(300.0, 100), 0.0
    for _ in range(10):
        now = offend(the_bans, now).until
    forgiven = next(hours for hours in range(1000) if not the_bans._unforgiven(
        addresses.key(addresses.parse(HOME)), now + hours * HOUR)[1])
    assert 48 < forgiven < 96


def test_a_configured_ban_above_a_day_stays_as_it_is():
    the_bans = Bans(7 * LONGEST, 100)
    for _ in range(3):
        ban = offend(the_bans, 0.0)
        assert ban.until - ban.since == 7 * LONGEST


def test_bans_by_hand():
    the_gate = gate(max_connections_per_minute=1)
    ban = the_gate.ban(HOME, 1000.0, "the operator", 10.0)
    assert the_gate.admit(HOME, 1009.0).text == "203.0.113.7 is banned for 1 s: the operator"
    assert the_gate.bans(10.0) == [ban] and the_gate.bans(1010.0) == []
    shorter = the_gate.ban(HOME, 5.0, "the operator again", 20.0)
    assert the_gate.bans(21.0) == [shorter] and shorter.times == 2 and the_gate.admit(HOME, 25.0) is None
    assert the_gate.admit(HOME, 25.0).ban is not None
    assert the_gate.unban(HOME) and not the_gate.unban(HOME)
    assert the_gate.admit(HOME, 25.0) is None, "what led to the ban is forgotten"
    assert the_gate.admit(HOME, 25.0).ban.times == 1


def test_the_latest_ban_is_shown_first():
    the_gate = gate()
    for number in range(5):
        the_gate.ban(f"192.0.2.{number}", 100.0 - number, "x", float(number))
    assert [ban.address[-1] for ban in the_gate.bans(5.0)] == ["4", "3", "2", "1", "0"]


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(1.0, 5000.0), st.sampled_from(["ban", "punish", "lift"]),
                          st.floats(0.0, 400.0)), max_size=300))
def test_the_tables_of_bans_stay_bounded_and_whole(events):
    the_bans, now = Bans(100.0, 8), 0.0
    for key, seconds, what, wait in events:
        now += wait
        if what == "ban":
            the_bans.put(key, seconds, "x", now)
        elif what == "punish":
            the_bans.punish(key, "x", now)
        else:
            the_bans.lift(key)
        assert len(the_bans) <= 8 and the_bans.remembered <= 8
        assert not the_bans._bans.keys() & the_bans._past.keys()
        assert {(ban.until, banned) for banned, ban in the_bans._bans.items()} <= set(the_bans._ends)
        assert len(the_bans._ends) <= 16 + bans.STEPS
    assert not the_bans.sweep(now + 1e7) and len(the_bans) == the_bans.remembered == len(the_bans._ends) == 0


def test_where_there_are_too_many_bans_the_one_that_ends_first_goes():
    the_bans = Bans(300.0, 10)
    for key in range(10):
        the_bans.put(key, 1000.0 - key, "x", 0.0)
    the_bans.put(99, 5000.0, "x", 0.0)
    assert the_bans.of(9, 1.0) is None and the_bans.of(0, 1.0) and the_bans.of(99, 1.0)
    assert the_bans.punish(9, "x", 1.0).until > 1500.0, "it is remembered as an offender"


def test_lifting_bans_over_and_over_leaves_nothing():
    the_bans = Bans(300.0, 10)
    for number in range(20_000):
        the_bans.put(number % 7, 1e6 + number, "x", 0.0)
        the_bans.lift(number % 7)
    assert len(the_bans) == 0 and len(the_bans._ends) <= 20 + bans.STEPS


# ---------------------------------------------------------------- bounds

def bytes_of(the_gate):
    """The tables with all that is in them."""
    total = 0
    for table in (the_gate._live, the_gate._idle):
        total += sys.getsizeof(table) + sum(map(sys.getsizeof, table))
        total += sum(sys.getsizeof(each) + sys.getsizeof(each.due) + sys.getsizeof(each.left_at)
                     for each in table.values())
    return total


def test_a_million_addresses():
    """The tables stay as small as they are said to be, nobody who is banned gets in, nobody connected is forgotten,
    and the count of one who came lately is still there."""
    the_gate = gate(max_connections_per_ip=100, max_connections_per_minute=60)
    banned = [f"192.0.2.{number}" for number in range(250)]
    for address in banned:
        assert the_gate.ban(address, HOUR, "an attack", 0.0)
    farm = House(the_gate, FARM_IP)
    for _ in range(20):
        farm.connect(0.0)
    names = [str(number) for number in range(256)]
    started, now = time.process_time(), 0.0
    for number in range(1_000_000):
        address = f"{names[number >> 16]}.{names[number >> 8 & 255]}.{names[number & 255]}.1"
        now += 1e-4
        the_gate.admit(address, now)
        the_gate.leave(address, now)
    spent = time.process_time() - started
    assert the_gate.tracked == 100_000 + 1 and bytes_of(the_gate) < 38e6
    assert all(the_gate.admit(address, now).kind == BANNED for address in banned)
    assert the_gate._live[addresses.key(addresses.parse(FARM_IP))].live == 20
    for _ in range(59):
        the_gate.leave(address, now) if the_gate.admit(address, now) is None else None
    assert the_gate.admit(address, now).ban is not None
    assert spent < 30.0, "it was 6 s on a small machine"
    sweeps = 1
    while the_gate.sweep(now + 2 * HOUR):
        sweeps += 1
    assert sweeps <= 102 and the_gate.tracked == 1 and the_gate.bans(now + 2 * HOUR) == []
    assert bytes_of(the_gate) < 2000, "what the flood took is given back"


def test_a_flood_of_offenders_keeps_the_bans_that_last_longest():
    the_gate = gate(max_connections_per_minute=1, max_bans=500)
    for _ in range(3):
        for number in range(100):  # offenders of old
            the_gate._bans.punish(number, "x", 0.0)
    for number in range(20_000):
        address, now = f"2001:db8:{number:x}::1", number * 0.01
        the_gate.admit(address, now)
        assert the_gate.admit(address, now).ban
    assert len(the_gate.bans(now)) == 500 and the_gate._bans.remembered == 500
    assert all(the_gate._bans.of(number, now) for number in range(100))


def test_without_sweeping_those_that_left_long_ago_are_forgotten_as_others_come():
    the_gate = gate(max_connections_per_minute=60)
    for number in range(50_000):
        address, now = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", number * 1.0
        the_gate.admit(address, now)
        the_gate.leave(address, now)
        assert the_gate.tracked <= ratelimit.KEPT + 2


def test_one_sweep_takes_no_long_time():
    the_gate = gate(max_connections_per_minute=60)
    for number in range(20_000):
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        the_gate.admit(address, 0.0)
        the_gate.leave(address, 0.0)
        the_gate.ban(address, 100.0, "x", 0.0)
    before = the_gate.tracked
    assert the_gate.sweep(1e6)
    assert the_gate.tracked == before - bans.STEPS


@pytest.mark.parametrize(("seconds", "text"), [
    (-1.0, "0 s"), (0.4, "0 s"), (599.0, "599 s"), (600.0, "10 min"), (7199.0, "120 min"), (86_400.0, "24 h"),
    (12_600.0, "3.5 h")])
def test_spans(seconds, text):
    assert bans.span(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"),
                                              (12, "12th"), (21, "21st"), (112, "112th"), (122, "122nd")])
def test_ordinals(number, text):
    assert bans._ordinal(number) == text
