"""Who is let in and who is cut, over real sockets: deadlines, misbehaviour, limits by address, bans, full houses."""

import errno
import gc
import json
import logging
import os
import resource
import socket as stdlib_socket
from time import monotonic

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from karoo import descriptors
from karoo.net import listener as listening
from karoo.net.listener import Listener, listening_socket
from karoo.proxy import door
from karoo.stratum import messages
from karoo.web.status import Status
from tests.fuzz import Offender
from tests.site import EASY

SUBSCRIBE = messages.request(1, "mining.subscribe", ["evil/1.0"])
AUTHORIZE = messages.request(2, "mining.authorize", ["evil.rig", "x"])
JOB = b'"method":"mining.notify"'
BAD_LINE = b'{"id":{},"method":"mining.ping","params":[]}\n'
LIMITED = {"enabled": True, "max_connections_per_ip": 1000, "max_connections_per_minute": 1000}


@pytest.fixture
def peers():
    """Makes bare connections, closed in the end: `peers(proxy, source="127.0.0.9")`."""
    made = []

    def connect(proxy, source="127.0.0.1"):
        made.append(Offender(proxy, source=source))
        return made[-1]
    yield connect
    for peer in made:
        peer.close()


def told(peer):
    """All that it is told until it is cut, as objects."""
    lines = [json.loads(line) for line in peer.read_all()]
    assert peer.cut
    return lines


def last_cut(proxy):
    return proxy.snapshot()["cut"][0]


# ---------------------------------------------------------------- deadlines

@pytest.mark.parametrize(("said", "why"), [
    (b"", "nothing sent within 0.2 s"), (b'{"id":1,"method"', "not subscribed within 0.4 s"),
    (AUTHORIZE.replace(b"authorize", b"ping"), "not subscribed within 0.4 s"),
    (SUBSCRIBE, "not authorized within 0.6 s")])
def test_a_handshake_that_is_not_finished_in_time_ends_the_session(site, peers, said, why):
    proxy = site.proxy(site.pool(), proxy={"first_byte_ms": 200, "subscribe_ms": 400, "authorize_ms": 600})
    honest = site.miner(proxy)
    peer = peers(proxy)
    peer.send(said)
    told(peer)
    assert last_cut(proxy)["why"] == why and last_cut(proxy)["banned_until_unix"] is None
    assert proxy.metrics.ended["misbehaviour"] == 1 and site.logged(f"cut: {why}")
    assert honest.submit(honest.find_share()) is True


def test_the_time_that_a_miner_waits_for_the_pool_is_not_its_own(site):
    pool = site.pool()
    pool.stop()
    proxy = site.proxy(pool, proxy={"first_byte_ms": 200, "subscribe_ms": 300, "authorize_ms": 1500,
                                    "client_idle_ms": 300})
    miner = site.connect(proxy)
    waiting = miner.request_async("mining.subscribe", ["a/1"])
    site.wait(lambda: proxy.snapshot()["uptime_seconds"] > 3.2, 10)
    pool.start()
    assert miner.answer(waiting).error is None
    assert miner.authorize("u.rig") is True
    miner.wait_job()


def test_a_miner_that_asks_on_and_on_does_not_put_its_deadline_off(site, peers):
    proxy = site.proxy(site.pool(), proxy={"first_byte_ms": 300, "subscribe_ms": 800})
    site.miner(proxy)
    peer = peers(proxy)
    ask = messages.request(1, "mining.configure", [["version-rolling"], {"version-rolling.mask": "1fffe000"}])
    peer.sock.settimeout(0.1)
    while peer.send(ask):
        try:
            peer.read()
        except TimeoutError:
            continue
    assert last_cut(proxy)["why"] == "not subscribed within 0.8 s"


# ---------------------------------------------------------------- misbehaviour of a session

def at_work(site, peers, proxy):
    """A bare connection that has a job, and that job's id and ntime."""
    peer = peers(proxy)
    peer.send(SUBSCRIBE + AUTHORIZE)
    lines = []
    peer.read_until(lambda more: lines.extend(more) or JOB in b"".join(lines))
    notify = next(json.loads(line) for line in lines if JOB in line)
    return peer, notify["params"][0], notify["params"][7]


def share(number, job="zz", ntime="68000000", nonce=None):
    nonce = f"{number:08x}" if nonce is None else nonce
    return messages.request(number, "mining.submit", ["evil.rig", job, "00000000", ntime, nonce])


@pytest.mark.parametrize(("flood", "why"), [
    (lambda job, ntime: BAD_LINE * 30, "20 junk lines"),
    (lambda job, ntime: b'{"id":5,"method":"mining.suggest_difficulty","params":["?"]}\n' * 30, "20 junk lines"),
    (lambda job, ntime: b"".join(share(n) for n in range(1000)), "801 stale shares"),
    (lambda job, ntime: b"".join(share(n, job, ntime, "xyz") for n in range(300)), "201 invalid shares"),
    (lambda job, ntime: b"".join(share(n, job, ntime) for n in range(300)), "201 low-difficulty shares"),
    (lambda job, ntime: b"hello\n", "not JSON"),
    (lambda job, ntime: b"\n" * 2000, "20 junk lines"),
    (lambda job, ntime: b"[" * 20_000, "a line of more than 16384 bytes"),
])
def test_a_miner_that_only_does_wrong_is_told_and_cut(site, peers, flood, why):
    pool = site.pool(difficulty=1e9)
    proxy = site.proxy(pool, vardiff={"start_diff": 1e6}, upstream={"user": "wallet"})
    honest_pool = site.miner(proxy)
    peer, job, ntime = at_work(site, peers, proxy)
    peer.send(flood(job, ntime))
    lines = told(peer)
    said = [line["params"][0] for line in lines if line.get("method") == "client.show_message"]
    assert len(said) == 1 and why in said[0]
    cut = last_cut(proxy)
    assert why in cut["why"] and cut["worker"] == "rig" and cut["agent"] == "evil/1.0"
    assert cut["banned_until_unix"] is None, "limits are not enabled"
    assert not honest_pool.closed


def test_a_flood_of_one_good_share_again_and_again_is_cut(site):
    proxy = site.proxy(site.pool(difficulty=EASY))
    miner = site.miner(proxy)
    found = miner.find_share()
    assert miner.submit(found) is True
    for _ in range(300):
        miner.send_bytes(messages.request(7, "mining.submit", found.params(miner.user)))
    miner.wait_closed()
    assert last_cut(proxy)["why"] == "201 duplicate shares"


def test_submits_before_any_authorization_are_cut_although_all_were_answered(site, peers):
    proxy = site.proxy(site.pool())
    peer = peers(proxy)
    peer.send(b"".join(share(n) for n in range(1, 31)))
    lines = told(peer)
    assert [line["id"] for line in lines] == list(range(1, 21)) and {line["error"][0] for line in lines} == {25}
    assert last_cut(proxy)["why"] == "20 submits before authorization"


def test_good_shares_make_bad_ones_good(site):
    """One bad share for each good one, some hundreds: the miner stays."""
    proxy = site.proxy(site.pool(difficulty=1e-9), vardiff={"min_diff": 1e-12})
    miner = site.miner(proxy)
    for _ in range(250):
        found = miner.find_share()
        assert miner.submit(found) is True
        assert miner.submit(found)[0] == 22
    assert not miner.closed and not proxy.snapshot()["cut"]


@pytest.mark.parametrize("odd", [b" %s\n", b"%s \n", b"\t%s\r\n", b"%s\0\n", b"\xef\xbb\xbf%s\n", b"\n \n%s\n\0\n"])
def test_what_firmware_puts_around_its_lines_is_passed_over(site, peers, odd):
    proxy = site.proxy(site.pool())
    peer, _, _ = at_work(site, peers, proxy)
    for number in range(5):
        peer.send(odd % messages.request(number, "mining.ping", []).strip())
        peer.read_until(lambda lines: b'"pong"' in b"".join(lines))
    assert not peer.cut


def test_too_many_submits_are_cut_where_limits_are_enabled(site, peers):
    pool = site.pool()
    ping = b'{"id":1,"method":"mining.ping","params":[]}\n' * 1000
    for enabled in (False, True):
        proxy = site.proxy(pool, ratelimit={**LIMITED, "enabled": enabled, "max_submits_per_second": 10})
        peer, _, _ = at_work(site, peers, proxy)
        peer.send(ping)
        if enabled:
            told(peer)
            assert last_cut(proxy)["why"] == "more than 10 submits a second over 30 s"
        else:
            answers = []
            peer.read_until(lambda more, answers=answers: answers.extend(more) or len(answers) >= 1000)
            assert not peer.cut


# ---------------------------------------------------------------- limits by address

def test_connections_of_an_address_are_limited_told_and_counted(site, peers):
    proxy = site.proxy(site.pool(), ratelimit={**LIMITED, "max_connections_per_ip": 3})
    kept = [peers(proxy, "127.0.0.5") for _ in range(3)]
    site.wait(lambda: len(proxy.sessions) == 3)
    peer = peers(proxy, "127.0.0.5")
    peer.send(SUBSCRIBE)
    assert told(peer) == [{"id": None, "result": None, "error": [
        20, "Too many connections: 127.0.0.5 has 3 connections, 3 are allowed", None]}]
    assert proxy.metrics.turned_away["too many connections"] == 1
    site.miner(proxy)  # another address is not concerned
    kept[0].close()
    site.wait(lambda: len(proxy.sessions) == 3)
    again = peers(proxy, "127.0.0.5")
    again.send(SUBSCRIBE)
    again.read_until(lambda lines: lines)
    assert not again.cut


def test_a_rush_of_connections_is_banned_for_a_while(site, peers, monkeypatch):
    monkeypatch.setattr(door, "GRACE", 0.0)
    proxy = site.proxy(site.pool(), ratelimit={**LIMITED, "max_connections_per_minute": 5, "ban_duration_seconds": 1,
                                               "cleanup_interval_seconds": 1})
    for _ in range(6):
        peers(proxy, "127.0.0.6").close()
    site.wait_logged("127.0.0.6 is banned for 1 s: more than 5 connections in a minute")
    assert told(peers(proxy, "127.0.0.6")) == []
    state = proxy.snapshot()
    ban = state["bans"][0]
    assert (ban["ip"], ban["why"], ban["times"]) == ("127.0.0.6", "more than 5 connections in a minute", 1)
    assert ban["until_unix"] - ban["since_unix"] == 1 and state["banned_ips"] == 1
    status = Status(proxy.snapshot, proxy.session_snapshots, proxy.worker_snapshots, lambda: proxy.settings)
    assert json.loads("".join(status.pieces()))["ratelimit"]["banned_ips"] == 1
    site.wait(lambda: not proxy.snapshot()["bans"])
    site.wait(lambda: proxy.door.tables()["bans"] == 0)
    assert proxy.door.tables()["past_bans"] == 1, "remembered, so that the next one is longer"


def test_who_is_denied_never_gets_in_and_who_is_allowed_always_does(site, peers):
    pool = site.pool()
    proxy = site.proxy(pool, ratelimit={"deny": ["127.0.0.7"]})  # counts although limits are not enabled
    assert told(peers(proxy, "127.0.0.7")) == []
    assert proxy.metrics.turned_away == {"denied": 1}
    proxy = site.proxy(pool, ratelimit={**LIMITED, "max_connections_per_ip": 1, "max_connections_per_minute": 1,
                                        "allow": ["127.0.0.0/24"]})
    for _ in range(4):
        site.miner(proxy)


def test_an_address_is_banned_when_several_of_its_miners_were_cut_and_its_others_go_on(site, peers):
    proxy = site.proxy(site.pool(), ratelimit=LIMITED)
    first = [peers(proxy, "127.0.0.8") for _ in range(4)]
    for peer in first:
        peer.send(SUBSCRIBE)
        peer.read_until(lambda lines: lines)
    for peer in first[:3]:
        peer.send(b"junk\n")
        told(peer)
    site.wait_logged("127.0.0.8 is banned for 300 s: 3 sessions cut at once, the last one: not JSON")
    assert last_cut(proxy)["banned_until_unix"] > 0
    assert told(peers(proxy, "127.0.0.8")) == []
    first[3].send(AUTHORIZE)
    first[3].read_until(lambda lines: JOB in b"".join(lines))
    assert not first[3].cut, "a ban keeps newcomers out"


def test_one_bad_miner_does_not_ban_the_farm_behind_its_address(site, peers):
    proxy = site.proxy(site.pool(), ratelimit=LIMITED)
    farm = [site.miner(proxy, f"user.rig{number}") for number in range(12)]
    for _ in range(6):
        peer = peers(proxy)
        peer.send(b"junk\n")
        told(peer)
    assert not proxy.snapshot()["bans"] and len(proxy.snapshot()["cut"]) == 6
    assert all(miner.submit(miner.find_share()) is True for miner in farm)


def test_silent_connections_beside_a_farm_are_cut_and_ban_nobody(site, peers):
    proxy = site.proxy(site.pool(), ratelimit=LIMITED, proxy={"first_byte_ms": 100})
    farm = [site.miner(proxy, f"user.rig{number}") for number in range(4)]
    for _ in range(4):
        told(peers(proxy))
    assert len(proxy.snapshot()["cut"]) == 4 and not proxy.snapshot()["bans"]
    farm.append(site.miner(proxy, "user.rig5"))
    assert all(miner.submit(miner.find_share()) is True for miner in farm)


def test_miners_whose_user_is_faulty_are_told_so_and_not_banned(site, peers):
    proxy = site.proxy(site.pool(), ratelimit=LIMITED, proxy={"authorize_ms": 300})
    for _ in range(5):
        peer = peers(proxy, "127.0.0.9")
        peer.send(SUBSCRIBE + messages.request(2, "mining.authorize", ["", "x"]))
        assert any(line.get("error") and "must not be empty" in line["error"][1] for line in told(peer))
    assert last_cut(proxy)["why"] == "not authorized within 0.3 s" and not proxy.snapshot()["bans"]
    assert site.logged("authorization refused: the user must not be empty")


def test_a_farm_that_the_proxy_sends_away_may_come_back_at_once(site, monkeypatch):
    """Miners without set_extranonce have to reconnect when the pool changes it: that is no rush of theirs."""
    monkeypatch.setattr(door, "GRACE", 0.0)
    pool = site.pool()
    limits = {"enabled": True, "max_connections_per_minute": 12}
    proxy = site.proxy(pool, ratelimit=limits)
    for number in range(4):
        farm = [site.miner(proxy, f"user.rig{rig}") for rig in range(8)]
        assert all(miner.submit(miner.find_share()) is True for miner in farm)
        if number < 3:
            pool.set_extranonce()
            for miner in farm:
                miner.wait_closed()
    assert not proxy.snapshot()["bans"] and not proxy.metrics.turned_away


# ---------------------------------------------------------------- a full house

def test_who_finds_the_house_full_reads_so_whatever_it_sent_already(site, peers):
    proxy = site.proxy(site.pool(), proxy={"max_clients": 1})
    honest = site.miner(proxy)
    for _ in range(20):
        peer = peers(proxy)
        peer.send(SUBSCRIBE + AUTHORIZE)
        assert told(peer) == [{"id": None, "result": None, "error": [20, "The proxy is full", None]}]
    assert proxy.metrics.turned_away["max_clients"] == 20
    assert honest.submit(honest.find_share()) is True


def test_who_tries_again_and_again_to_get_into_a_full_house_is_not_banned(site, peers, monkeypatch):
    monkeypatch.setattr(door, "GRACE", 0.0)
    proxy = site.proxy(site.pool(), proxy={"max_clients": 1},
                       ratelimit={"enabled": True, "max_connections_per_minute": 5})
    site.miner(proxy)
    for _ in range(30):
        told(peers(proxy, "127.0.0.9"))
    assert proxy.metrics.turned_away == {"max_clients": 30} and not proxy.snapshot()["bans"]


def test_a_rush_on_a_full_house_is_not_given_time_to_read(site, peers):
    proxy = site.proxy(site.pool(), proxy={"max_clients": 1})
    site.miner(proxy)
    rush = [peers(proxy) for _ in range(200)]
    site.wait(lambda: proxy.metrics.turned_away["max_clients"] == 200)
    with gevent.Timeout(5):
        for peer in rush:
            peer.read_all()


def is_closed(sock):
    """Whether the other side closed it; waits for the event as long as it takes to be on its way."""
    sock.settimeout(0.05)
    try:
        return sock.recv(1) == b""
    except TimeoutError:
        return False


def test_without_a_descriptor_each_client_is_closed_at_once_and_the_first_free_one_serves_again(monkeypatch, capfd):
    served, starved = [], []
    sock = listening_socket("127.0.0.1", 0)
    server = Listener([sock], lambda sock, _: served.append(sock), lambda: starved.append(1))
    server.start()
    clients = [socket.socket() for _ in range(40)]
    gc.collect()  # what former tests left must not free descriptors in the middle of this one
    gevent.sleep(0.01)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    first_free = os.open(os.devnull, os.O_RDONLY)
    os.close(first_free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (first_free + 5, limits[1]))
        for client in clients:
            client.settimeout(5)
            client.connect(("127.0.0.1", server.port))
        with gevent.Timeout(5):
            while len(served) + len(starved) < len(clients):
                gevent.sleep(0.001)
        assert sum(is_closed(client) for client in clients) == len(starved) > 20, "all the others know at once"
        while served:
            served.pop().close()
        newcomer = clients[0]
        newcomer.close()
        newcomer = socket.create_connection(("127.0.0.1", server.port), 5)
        with gevent.Timeout(5):
            while not served:
                gevent.sleep(0.001)
        newcomer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        server.stop()
        for client in (*clients, *served):
            client.close()
    assert "Traceback" not in capfd.readouterr().err


def test_where_even_the_spare_descriptor_is_gone_the_listener_pauses_and_does_not_spin(monkeypatch, capfd):
    monkeypatch.setattr(listening, "PAUSE", 0.05)
    served, tries = Event(), []
    server = Listener([listening_socket("127.0.0.1", 0)], lambda sock, _: (sock.close(), served.set()), lambda: None)
    real = listening.StreamServer.do_read

    def out_of_descriptors(self):
        tries.append(monotonic())
        if tries[-1] - tries[0] > 0.5:
            return real(self)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(listening.StreamServer, "do_read", out_of_descriptors)
    monkeypatch.setattr(listening.Frugal, "_close_next", listening.Frugal._pause)
    server.start()
    client = socket.create_connection(("127.0.0.1", server.port), 5)
    assert served.wait(5)
    assert len(tries) < 20, "it spins"
    server.stop()
    client.close()
    assert "Traceback" not in capfd.readouterr().err


def test_the_limit_of_open_files_bounds_the_miners(site, monkeypatch):
    monkeypatch.setattr(descriptors, "RESERVED", resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 2)
    assert descriptors.room() == 2
    proxy = site.proxy(site.pool())
    assert proxy.door.room == proxy.snapshot()["max_sessions"] == 2


# ---------------------------------------------------------------- peers that vanish

def test_vanished_peers_are_noticed_by_the_kernel_on_both_sides(site):
    pool = site.pool()
    proxy = site.proxy(pool)
    site.miner(proxy)
    ours = next(iter(proxy.sessions.values())).conn
    theirs = proxy.routes.routes[0].upstream._conn
    for conn in (ours, theirs):
        for option, value in (("TCP_KEEPIDLE", 30), ("TCP_USER_TIMEOUT", 90_000)):
            assert conn._sock.getsockopt(stdlib_socket.IPPROTO_TCP, getattr(stdlib_socket, option)) == value
        assert conn._sock.getsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_KEEPALIVE) == 1


# ---------------------------------------------------------------- secrets

def ask(miner, line):
    """Send a line as it is, and wait for something to come back."""
    before = len(miner.messages)
    miner.send(line)
    miner.wait(lambda: len(miner.messages) > before)


def test_passwords_are_nowhere(site, monkeypatch):
    """Of miners and of the pool: in no log line at any level, no page, no traceback."""
    secret = "s3cret-Pa55"
    pool = site.pool()
    proxy = site.proxy(pool, upstream={"pass": f"{secret}-pool", "worker_names": "passthrough"})
    logging.getLogger("karoo").setLevel(logging.DEBUG)
    miner = site.connect(proxy)
    miner.subscribe()
    ask(miner, f'{{"id":50,"method":"mining.auth\\u006frize","params":["a.rig","{secret}"]}}')
    miner.user = "a.rig"
    miner.wait_job()
    assert miner.submit(miner.find_share()) is True
    for odd in (f'["u", "{secret}", {{}}]', f'{{"user": "u", "pass": "{secret}"}}', f'["", "{secret}"]',
                f'["u", ["{secret}"]]', f'"{secret}"', f'["{"u" * 600}", "{secret}"]'):
        ask(miner, f'{{"id":51,"method":"mining.authorize","params":{odd}}}')

    def broken(*_):
        raise ValueError("a bug")
    monkeypatch.setattr("karoo.proxy.login.hints.read_password", broken)
    miner.send(f'{{"id":52,"method":"mining.authorize","params":["b.rig","{secret}"]}}')
    miner.wait_closed()
    site.wait(lambda: not proxy.sessions)
    proxy.metrics.exceptions = 0  # that one was meant
    assert f"{secret}" in str(pool.lines), "passthrough hands it to the pool"
    formatter = logging.Formatter()
    text = "\n".join(formatter.format(record) + repr(vars(record)) for record in site.records
                     if record.name != "karoo.sim.pool")
    assert "a bug" in text and "mining.subscribe" in text
    pages = json.dumps([proxy.snapshot(), *proxy.session_snapshots(), *proxy.worker_snapshots()])
    for shown in (text, pages, repr(proxy.settings)):
        assert secret not in shown
