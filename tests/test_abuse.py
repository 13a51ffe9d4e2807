"""Each attack of the table against a live proxy with 200 honest miners, which must not lose one share by it."""

import json
import logging
import os
import re
from contextlib import suppress

import gevent
import pytest
from gevent.server import StreamServer

from karoo.sim import abuse
from karoo.sim.abuse import ATTACKS
from karoo.sim.farm import EVERY_HASH, Farm, Losses
from karoo.sim.offender import Target, addresses
from karoo.sim.pool import SimulatedPool
from karoo.sim.stage import Stage

MINERS = 200
PATIENCE = 20  # seconds for what takes one or two
STALL = 2.0  # seconds: the longest that an honest miner may wait for a verdict, which takes some ms; we share the CPU
JOBS = 128  # that a proxy keeps; the table fills while the tests run
# What attacks leave on purpose: the account of whoever had a good share, and its name at the pool
GOOD = {"invalid shares": 10, "duplicates": 10, "bad names": 60}
NOBODY = 1  # the account of refused shares that nobody owns
ROUTES = 7  # further connections to the pool; for each a greenlet waits until it is needed again
SETTINGS = {
    "proxy": {"first_byte_ms": 1500, "subscribe_ms": 3000, "authorize_ms": 4000},
    "ratelimit": {"enabled": True, "max_connections_per_ip": 1000, "max_connections_per_minute": 1000},
}
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (DEBUG|INFO|WARNING|ERROR) +(karoo[\w.]*) ")
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufffd]")


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """Hundreds of shares a second are no news."""
    logger = logging.getLogger("karoo.sim")
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(logging.NOTSET)


def pool_of(**options):
    """A quarter of the honest shares goes to it. No job of it makes a share stale: then not one may be lost."""
    return SimulatedPool(**{"difficulty": 4 * EVERY_HASH, "job_every": 0.5, "clean_every": 1 << 30, "branches": 2,
                            **options})


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """Warmed up: every miner is known to the pool, and memory is as it stays after many connections and names."""
    pool = pool_of(difficulty=EVERY_HASH)
    with Stage(tmp_path_factory.mktemp("abuse"), [pool], miners=MINERS, hashrate=1.0, difficulty=EVERY_HASH,
               **SETTINGS) as stage:
        pool.set_difficulty(4 * EVERY_HASH)
        for name in ("idle", "worker names", "worker names"):  # the second fills the gaps that the first one left
            stage.attack(name)
            stage.await_calm(PATIENCE)
        yield stage
        assert "Traceback" not in stage.proxy.log_text()


def endure(stage, name):
    """One attack at its full size; the proxy must hold afterwards what it held before. What happened."""
    before = stage.measure()
    lost = stage.farm.losses
    stage.farm.take_slowest()
    attack = gevent.spawn(stage.attack, name)
    stage.farm.await_shares(PATIENCE)
    record = attack.get()
    stage.farm.await_shares(PATIENCE)
    good = GOOD.get(name, 0)
    after = stage.await_back(before, PATIENCE, jobs=JOBS, workers=good + NOBODY, names_at_pools=good)
    slowest = stage.farm.take_slowest()
    print(f"{name}: {record}; slowest verdict {slowest:.3f} s\n  before: {before}\n  after:  {after}")
    assert stage.farm.losses == lost
    assert slowest < STALL
    assert after.tables["jobs"] <= JOBS
    assert after.status["exceptions"] == 0
    assert record.connections > 0
    assert not record.over_time
    return record


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "extranonce"])
def test_honest_miners_do_not_notice(stage, name):
    lost = stage.farm.losses
    endure(stage, name)
    assert lost == stage.farm.losses == Losses()


CUT = ["slowloris", "idle", "byte a second", "long line", "junk", "malformed", "deaf", "stopped reader",
       "invalid shares", "duplicates", "stale shares"]


@pytest.mark.parametrize("name", CUT)
def test_whoever_goes_on_with_it_is_cut(stage, name):
    record = stage.attack(name, scale=0.1)
    assert record.cut == record.connections > 0


def test_bad_names_forge_nothing(stage):
    begin = len(stage.proxy.log_text())
    record = stage.attack("bad names")
    assert record.logged_in > 20
    text = stage.proxy.log_text()
    assert not UNSAFE.search(text), UNSAFE.findall(text)
    strange = [line for line in text[begin:].splitlines() if not LINE.match(line)]
    assert strange == []
    assert not [line for line in text.splitlines() if LINE.match(line).group(2) == "karoo.forged"]


def test_bad_names_leave_the_page_whole(stage):
    """It is read by a strict parser; what the names say is a text in it, and nothing else."""
    stage.attack("bad names")
    status = stage.proxy.get("/status").decode("utf-8")
    found = json.loads(status, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    names = [worker["worker"] for worker in found["workers"]]
    assert not [name for name in names if not name or re.search("[\x00-\x1f\x7f-\x9f]", name)]
    assert not UNSAFE.search(status)


def test_extranonces_run_out_for_the_attacker_only(tmp_path):
    pool = pool_of(extranonce2_size=3)
    upstream = {"idle_grace_ms": 500}
    with Stage(tmp_path, [pool], miners=20, hashrate=1.0, difficulty=EVERY_HASH, upstream=upstream,
               **SETTINGS) as stage:
        before = stage.measure()
        stage.farm.await_shares(PATIENCE)
        record = stage.attack("extranonce")
        print(record)
        stage.farm.await_shares(PATIENCE)
        assert stage.farm.losses == Losses()
        stage.await_calm(PATIENCE)
        pool.new_job(clean=True)  # the work that the attacker's extranonces were used for is over
        late = Farm(stage.proxy.port, 1, 1.0, name="late.h")
        late.start()
        try:
            late.await_shares(PATIENCE)
        finally:
            late.stop()
        after = stage.await_back(before, PATIENCE, greenlets=ROUTES, jobs=JOBS, workers=2,
                                 names_at_pools=21)
        assert after.status["exceptions"] == 0
        print(after.status["turned_away"], after.status["routes"])


# ---------------------------------------------------------------- the attackers themselves

@pytest.mark.parametrize("host", ["8.8.8.8", "10.0.0.1", "0.0.0.0", "128.0.0.1", "localhost", "pool.example.org", "",
                                  "::", "fe80::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8"])
def test_attacks_stay_on_this_machine(host):
    with pytest.raises(ValueError, match="no loopback address"):
        Target(host, 3333, ("127.1.0.1",))
    with pytest.raises(ValueError, match="no loopback address"):
        Target("127.0.0.1", 3333, (host,))


def test_an_attacker_has_addresses_of_its_own():
    own = [addresses(number, 250) for number in (0, 1, 249, 250, 60_000)]
    assert len({address for part in own for address in part}) == 5 * 250
    assert not any(address.startswith("127.0.") for part in own for address in part)
    for part in own:
        Target("127.0.0.1", 3333, part)
    Target("::1", 3333, ("::1",))
    with pytest.raises(ValueError, match="needs an address"):
        Target("127.0.0.1", 3333, ())


def test_attacks_end_by_themselves_where_nobody_cuts_them():
    """Against a server that accepts and says nothing, reading or not."""
    def swallow(sock, _address):
        with suppress(ConnectionError):
            while sock.recv(65536):
                pass

    def ignore(sock, _address):
        socks.append(sock)

    for serve in (swallow, ignore):
        socks = []
        server = StreamServer(("127.0.0.1", 0), serve)
        server.start()
        before = len(os.listdir("/proc/self/fd"))
        attacks = [gevent.spawn(abuse.run, name, Target("127.0.0.1", server.server_port, addresses(number, 2)), 0.02,
                                0.5) for number, name in enumerate(ATTACKS)]
        records = [attack.get(timeout=PATIENCE) for attack in attacks]
        assert all(record.connections and not record.over_time for record in records), records
        server.stop()
        for sock in socks:
            sock.close()
        with gevent.Timeout(PATIENCE):
            while len(os.listdir("/proc/self/fd")) > before:
                gevent.sleep(0.01)


def test_an_attack_on_nobody_is_refused():
    server = StreamServer(("127.0.0.1", 0), lambda sock, address: None)
    server.start()
    port = server.server_port
    server.stop()
    record = abuse.run("idle", Target("127.0.0.1", port, addresses(0, 2)), 0.01, 1.0)
    assert (record.connections, record.refused) == (0, 50)
