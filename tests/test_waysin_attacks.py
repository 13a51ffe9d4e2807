"""Attacks on what goes before a miner's first line, and around it, against a live proxy whose honest miners come plain,
over TLS, over WebSockets and behind PROXY headers: they must not lose one share by it."""

import logging
import subprocess
import time
from contextlib import contextmanager
from types import SimpleNamespace

import gevent
import gevent.event
import pytest
from gevent.server import StreamServer

from karoo import cert
from karoo.net.tls import ClientFiles, ServerFiles, Tls, server_context
from karoo.sim import abuse
from karoo.sim.abusetls import Records, records_of
from karoo.sim.farm import EVERY_HASH, Farm, Losses
from karoo.sim.offender import Target, addresses
from karoo.sim.pool import SimulatedPool
from karoo.sim.stage import Stage
from karoo.sim.via import PLAIN, Via
from tests.dialpeers import OPENSSL, needs_openssl

MINERS = 50  # ten by each way
PATIENCE = 20  # seconds for what takes one or two
STALL = 2.0  # seconds: the longest that an honest miner may wait for a verdict, which takes some ms; we share the CPU
JOBS = 128  # that a proxy keeps; the table fills while the tests run
NOBODY = 1  # the account of refused shares that nobody owns
SETTINGS = {
    "proxy": {"first_byte_ms": 1500, "subscribe_ms": 2000, "authorize_ms": 3000, "handshake_ms": 1500},
    "ratelimit": {"enabled": True, "max_connections_per_ip": 1000, "max_connections_per_minute": 1000},
}
FILES = ClientFiles(verify=False)
OVER_TLS, OVER_WEB = Via(tls=True, files=FILES), Via(tls=True, websocket=True, files=FILES)
HEADER = b"PROXY TCP4 10.0.0.1 10.0.0.2 3000 3333\r\n"  # of all honest miners behind a balancer
WAYS = {"plain": PLAIN, "tls": OVER_TLS, "web": Via(websocket=True), "secure web": OVER_WEB,
        "balanced": Via(header=HEADER)}


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """Dozens of shares a second are no news."""
    logger = logging.getLogger("karoo.sim")
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A certificate and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    return [str(path) for path in cert.write(folder, *cert.make(["127.0.0.1"], 365, time.time()))]


@pytest.fixture(scope="module")
def stage(tmp_path_factory, files):
    """Warmed up: memory is as it stays after many handshakes."""
    tls = {"enabled": True, "cert_file": files[0], "key_file": files[1]}
    listeners = {"plain": {}, "tls": {"tls": tls}, "web": {"protocol": "websocket"},
                 "secure web": {"protocol": "websocket", "tls": tls}, "balanced": {"proxy_protocol": ["127.0.0.0/8"]}}
    pool = SimulatedPool(difficulty=EVERY_HASH, job_every=0.5, clean_every=1 << 30, branches=2)
    with Stage(tmp_path_factory.mktemp("ways"), [pool], miners=MINERS, hashrate=2.0, difficulty=EVERY_HASH,
               listeners=listeners, ways=WAYS, **SETTINGS) as stage:
        pool.set_difficulty(4 * EVERY_HASH)
        stage.attack("stuck handshakes", 2.0, listener="tls")
        stage.await_calm(PATIENCE)
        yield stage
        assert "Traceback" not in stage.proxy.log_text()


def gone(status):
    """Connections whose end was counted."""
    return sum(status["turned_away"].values()) + sum(status["ended"].values())


def await_counted(stage, before, connections):
    """Wait until the end of so many connections was counted; the status may be a second old."""
    with gevent.Timeout(PATIENCE, AssertionError(f"the end of {connections} connections is not counted")):
        while gone(stage.proxy.status()) - gone(before.status) < connections:
            gevent.sleep(0.1)


def endure(stage, attack):
    """An attack, which is called; the proxy must hold afterwards what it held before, and have counted each connection
    once. What the attack returned."""
    before = stage.measure()
    lost = stage.farm.losses
    stage.farm.take_slowest()
    running = gevent.spawn(attack)
    stage.farm.await_shares(PATIENCE)
    record = running.get()
    stage.farm.await_shares(PATIENCE)
    await_counted(stage, before, record.connections)
    after = stage.await_back(before, PATIENCE, jobs=JOBS, workers=NOBODY, names_at_pools=2)
    slowest = stage.farm.take_slowest()
    print(f"{record}; slowest verdict {slowest:.3f} s\n  before: {before}\n  after:  {after}\n"
          f"  {after.status['turned_away']} {after.status['ended']}")
    assert stage.farm.losses == lost == Losses()
    assert slowest < STALL
    assert after.status["exceptions"] == 0
    assert gone(after.status) - gone(before.status) == record.connections
    return record


CASES = [("stuck handshakes", "tls", PLAIN, True), ("stuck handshakes", "secure web", PLAIN, True),
         ("dropped handshakes", "tls", PLAIN, False), ("done handshakes", "tls", PLAIN, False),
         ("key updates", "tls", PLAIN, True), ("empty records", "tls", PLAIN, True),
         ("partial records", "tls", PLAIN, True), ("garbage", "tls", PLAIN, True),
         ("garbage", "secure web", PLAIN, True), ("stuck headers", "balanced", PLAIN, True),
         ("stuck requests", "web", PLAIN, True), ("stuck requests", "secure web", OVER_TLS, True),
         ("frames", "web", PLAIN, True), ("frames", "secure web", OVER_TLS, True),
         ("deaf", "tls", OVER_TLS, True), ("deaf", "secure web", OVER_WEB, True),
         ("stopped reader", "tls", OVER_TLS, True), ("stopped reader", "secure web", OVER_WEB, True),
         *[("misplaced", listener, PLAIN, True) for listener in WAYS]]


@pytest.mark.parametrize("name, listener, via, cut", CASES, ids=[f"{case[0]}, {case[1]}" for case in CASES])
def test_honest_miners_do_not_notice(stage, name, listener, via, cut):
    """And whoever goes on with it is cut."""
    record = endure(stage, lambda: stage.attack(name, listener=listener, via=via))
    assert record.connections > 0 and not record.refused and not record.over_time
    assert record.sent_bytes > 0 or name == "done handshakes"
    if cut:
        assert record.cut == record.connections


BREACHES = {  # of a WebSocket's rules, as they are told
    "WebSocket: a frame of more than 16384 bytes", "WebSocket: a message of more than 16384 bytes",
    "WebSocket: a message in more than 64 pieces", "WebSocket: a frame out of turn",
    "WebSocket: a frame that is not masked", "WebSocket: a reserved bit is set", "WebSocket: only text is taken here",
    "WebSocket: unknown opcode 3", "WebSocket: unknown opcode 15", "WebSocket: invalid UTF-8",
    "WebSocket: no valid close code"}


@pytest.mark.parametrize("listener, via", [("web", PLAIN), ("secure web", OVER_TLS)])
def test_each_breach_of_a_websocket_is_told(stage, listener, via):
    before = stage.measure()
    record = stage.attack("frames", listener=listener, via=via)
    assert record.cut == record.connections
    await_counted(stage, before, record.connections)
    whys = {cut["why"] for cut in stage.proxy.status()["cut"]}
    assert whys >= BREACHES
    assert any(why.endswith(" junk lines") for why in whys)
    assert any(why.startswith("nothing sent within ") for why in whys)  # frames that never end


# ---------------------------------------------------------------- newcomers

def come_and_mine(stage, ways):
    """One miner more by each of these ways; the seconds until all had a share accepted."""
    began = time.monotonic()
    late = Farm(0, len(ways), 1.0, name="late.h", backoff=0.1, ways=[(stage.proxy.ports[name], WAYS[name])
                                                                     for name in ways])
    late.start()
    try:
        late.await_shares(PATIENCE)
        return time.monotonic() - began
    finally:
        late.stop()
        assert not late.losses.refused


def newcomers_during(stage, ways, name, scale):
    """What became of an attack, and the longest that newcomers took meanwhile, of whom the next come when the last
    ones are in."""
    attack = gevent.spawn(stage.attack, name, scale, listener="tls")
    slowest = 0.0
    while not attack.dead:
        slowest = max(slowest, come_and_mine(stage, ways))
    return attack.get(), slowest


@pytest.mark.parametrize("ways", [["tls"], [name for name in WAYS if name != "tls"]], ids=["same way", "other ways"])
@pytest.mark.parametrize("name, scale", [("dropped handshakes", 1.0), ("stuck handshakes", 6.0)])
def test_newcomers_get_in_meanwhile(stage, ways, name, scale):
    """The second keeps one way in full: there is room for 1,000 of its 1,200. Others by that way wait for some of them
    to be cut."""
    if scale > 1:  # what a thousand handshakes at once take is not given back to the system
        before = stage.measure()
        await_counted(stage, before, stage.attack(name, scale, listener="tls").connections)
    stage.farm.take_slowest()
    before = stage.await_calm(PATIENCE)
    record, slowest = newcomers_during(stage, ways, name, scale)
    await_counted(stage, before, record.connections)
    after = stage.await_back(before, PATIENCE, jobs=JOBS, workers=len(WAYS) + NOBODY, names_at_pools=len(WAYS),
                             remembered_difficulties=len(WAYS))
    print(f"{record}; newcomers took {slowest:.2f} s\n  {after.status['turned_away']}\n  before: {before}\n"
          f"  after:  {after}")
    assert stage.farm.losses == Losses() and stage.farm.take_slowest() < STALL
    assert slowest < (2 * STALL if ways == ["tls"] else STALL)
    assert record.connections == (1200 if scale > 1 else 1500)
    assert after.status["exceptions"] == 0
    if scale > 1:
        assert after.status["turned_away"]["too many on their way in"] > 0


# ---------------------------------------------------------------- openssl

class Client:
    """`openssl s_client`, whose commands are letters at the start of what it is given."""

    def __init__(self, port, *words):
        self.said = b""
        self.process = subprocess.Popen([OPENSSL, "s_client", "-connect", f"127.0.0.1:{port}", *words],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._reader = gevent.spawn(self._read)

    def _read(self):
        while data := self.process.stdout.read1(65536):
            self.said += data

    def say(self, data):
        try:
            self.process.stdin.write(data)
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, which its output tells

    def wait_for(self, text, times=1):
        with gevent.Timeout(PATIENCE, AssertionError(f"no {text!r} in {self.said!r}")):
            while self.said.count(text) < times:
                gevent.sleep(0.01)

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait()
        self._reader.join(PATIENCE)
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                pipe.close()
            except BrokenPipeError:
                pass  # what was left in it


@contextmanager
def clients(count, port, *words):
    found = []
    try:
        for _ in range(count):
            found.append(Client(port, *words))
        for client in found:
            client.wait_for(b"Verify return code")
        yield found
    finally:
        for client in found:
            client.end()


@needs_openssl
def test_nobody_negotiates_again(stage):
    """TLS 1.2: whoever tries it is refused, and gone."""
    def negotiate():
        with clients(5, stage.proxy.ports["tls"], "-tls1_2") as found:
            for client in found:
                client.say(b"R\n")
            for client in found:
                client.wait_for(b"no renegotiation")
        return SimpleNamespace(connections=5)

    endure(stage, negotiate)


@needs_openssl
@pytest.mark.parametrize("letter", [b"K\n", b"k\n"])
def test_keys_may_be_changed(stage, letter):
    """TLS 1.3, with the server's changed as well or not: lines go on."""
    def change():
        with clients(1, stage.proxy.ports["tls"], "-tls1_3") as (client,):
            for times in range(1, 6):
                client.say(letter)
                client.wait_for(b"KEYUPDATE", times)
                client.say(b'{"id":%d,"method":"mining.ping","params":[]}\n' % times)
                client.wait_for(b'"id":%d,' % times)
        return SimpleNamespace(connections=1)

    endure(stage, change)


# ---------------------------------------------------------------- the attackers themselves

def test_records_by_hand_are_what_a_server_reads(files):
    """Lines, padded ones, and lines behind other keys."""
    said, done = [], gevent.event.Event()

    def serve(sock, _address):
        tls = Tls(server_context(ServerFiles(*files)))
        said.append(tls.shake_hands(sock))
        while data := sock.recv(4096):
            said.append(tls.decode(data))
        said.append(tls.fault.encode())
        done.set()

    server = StreamServer(("127.0.0.1", 0), serve)
    server.start()
    crowd = abuse.Crowd(Target("127.0.0.1", server.server_port, addresses(0, 1)), 1.0, PATIENCE)
    try:
        offender = crowd.connect()
        records = records_of(offender)
        assert isinstance(records, Records)
        offender.send_raw(records.record(23, b"one\n") + records.key_update(False) + records.record(23, b"two\n", 99)
                          + records.key_update(True) + records.key_update(True) + records.record(23, b"three\n"))
    finally:
        crowd.close()
    assert done.wait(PATIENCE)
    server.stop()
    assert b"".join(said) == b"one\ntwo\nthree\n"


def test_attacks_end_by_themselves_where_nobody_cuts_them():
    """Against a server that accepts and says nothing."""
    def swallow(sock, _address):
        try:
            while sock.recv(65536):
                pass
        except ConnectionError:
            pass

    server = StreamServer(("127.0.0.1", 0), swallow)
    server.start()
    attacks = [gevent.spawn(abuse.run, name, Target("127.0.0.1", server.server_port, addresses(number, 2)), 0.02, 0.5)
               for number, name in enumerate(abuse.WAYS)]
    records = [attack.get(timeout=PATIENCE) for attack in attacks]
    server.stop()
    assert all(record.connections and not record.over_time for record in records), records
