"""Miners behind a real HAProxy: every kind of PROXY header, TLS on either side, health checks, and who is to blame."""

import logging
import struct
from dataclasses import dataclass
from time import monotonic, time

import gevent
import pytest
from gevent import socket

from karoo import cert
from karoo.net.tls import ClientFiles
from karoo.proxy import door
from karoo.sim.scripted import ScriptedMiner
from karoo.sim.via import PLAIN, Via
from tests.haproxy import LOOPBACK, LOOPBACK6, MAPPED, Balancer, needs_haproxy, proxy_of
from tests.site import EASY

pytestmark = needs_haproxy

MINER, NEIGHBOUR = "127.0.0.5", "127.0.0.6"  # both behind the balancer, which is LOOPBACK
BEHIND = [LOOPBACK]
VARDIFF = {"enabled": True, "start_diff": EASY, "min_diff": EASY, "max_diff": 1}
RICH = "send-proxy-v2-ssl-cn proxy-v2-options crc32c,unique-id,authority,cert-key,cert-sig,ssl-cipher"
PLAIN_PORT, TLS_PORT, WEB_PORT, SECURE_WEB_PORT = range(4)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Files for 127.0.0.1 and ::1: certificate, key, and both in one, as HAProxy wants them."""
    folder = tmp_path_factory.mktemp("certificate")
    cert_file, key_file = cert.write(folder, *cert.make([LOOPBACK, LOOPBACK6], 365, time()))
    both = folder / "both.pem"
    both.write_bytes(cert_file.read_bytes() + key_file.read_bytes())
    return str(cert_file), str(key_file), str(both)


@pytest.fixture
def listeners(certificate):
    """One of each kind, in the order of their names above."""
    tls = {"enabled": True, "cert_file": certificate[0], "key_file": certificate[1]}
    kinds = [("plain", {}), ("tls", {"tls": tls}), ("web", {"protocol": "websocket"}),
             ("secure web", {"protocol": "websocket", "tls": tls})]
    return [{"name": name, "address": "127.0.0.1:0", "proxy_protocol": BEHIND, **more} for name, more in kinds]


@pytest.fixture
def balancer(tmp_path):
    balancer = Balancer(tmp_path)
    yield balancer
    balancer.stop()


@pytest.fixture
def trusting(certificate):
    """How miners look at a certificate."""
    return ClientFiles(ca_file=certificate[0])


def connect(site, port, source=MINER, via=PLAIN, host=LOOPBACK):
    """A miner that has said nothing yet."""
    miner = ScriptedMiner()
    miner.connect(host, port, source=source, via=via)
    site.miners.append(miner)
    return miner


def log_in(miner, user="user.rig"):
    miner.subscribe()
    assert miner.authorize(user) is True
    miner.user = user
    miner.wait_job()
    return miner


def address_of(miner):
    """Its own, as it knows it."""
    return "{}:{}".format(*miner._connection._sock.getsockname())


def shown(proxy):
    """The addresses of the sessions."""
    return [session.snapshot(monotonic())["ip"] for session in proxy.sessions.values()]


def loud(site):
    """Log lines that ask for somebody's attention."""
    return [one.getMessage() for one in site.records if one.levelno >= logging.WARNING]


# ---------------------------------------------------------------- every way

@dataclass(frozen=True)
class Way:
    """``server`` and ``bind`` are HAProxy's words, the latter with `{both}` for its certificate; ``to`` is which
    listener it is before. The miner does TLS or WebSocket with whoever that is."""

    server: str
    to: int = PLAIN_PORT
    bind: str = ""
    mode: str = "tcp"
    tls: bool = False
    websocket: bool = False


WAYS = {
    "v1": Way("send-proxy"),
    "v2": Way("send-proxy-v2"),
    "v2 with TLS, of which there is none": Way("send-proxy-v2-ssl"),
    "TLS ends at HAProxy, v1": Way("send-proxy", bind="ssl crt {both}", tls=True),
    "TLS ends at HAProxy, v2": Way("send-proxy-v2", bind="ssl crt {both}", tls=True),
    "TLS ends at HAProxy, v2 tells of it": Way("send-proxy-v2-ssl", bind="ssl crt {both}", tls=True),
    "TLS ends at HAProxy, v2 tells all": Way(RICH, bind="ssl crt {both}", tls=True),
    "TLS passes through, v1": Way("send-proxy", TLS_PORT, tls=True),
    "TLS passes through, v2": Way("send-proxy-v2", TLS_PORT, tls=True),
    "TLS passes through, v2 tells all": Way(RICH, TLS_PORT, tls=True),
    "TLS begins anew at HAProxy": Way("send-proxy-v2-ssl ssl verify none", TLS_PORT, "ssl crt {both}", tls=True),
    "TLS begins at HAProxy": Way("send-proxy ssl verify none", TLS_PORT),
    "WebSocket, v1": Way("send-proxy", WEB_PORT, websocket=True),
    "WebSocket that HAProxy reads": Way("send-proxy-v2", WEB_PORT, mode="http", websocket=True),
    "WebSocket, TLS ends at HAProxy": Way("send-proxy-v2-ssl", WEB_PORT, "ssl crt {both} alpn http/1.1", "http",
                                          tls=True, websocket=True),
    "WebSocket, TLS passes through": Way("send-proxy", SECURE_WEB_PORT, tls=True, websocket=True),
    "WebSocket, TLS begins anew": Way("send-proxy-v2 ssl verify none alpn http/1.1", SECURE_WEB_PORT,
                                      "ssl crt {both} alpn http/1.1", "http", tls=True, websocket=True),
}


def test_a_share_by_each_way(site, balancer, listeners, certificate, trusting):
    """All by one HAProxy and one proxy, each miner from an address of its own, which is the one that is shown."""
    proxy = proxy_of(site, site.pool(), listeners, vardiff=VARDIFF)
    ports = {name: balancer.link(proxy.listeners[way.to].port, way.server, mode=way.mode,
                                 bind=way.bind.format(both=certificate[2])) for name, way in WAYS.items()}
    balancer.start()
    for number, (name, way) in enumerate(WAYS.items()):
        miner = connect(site, ports[name], f"127.0.1.{1 + number}", Via(way.tls, way.websocket, trusting))
        log_in(miner, f"user.rig{number}")
        assert shown(proxy)[-1] == address_of(miner), name
        assert miner.submit(miner.find_share()) is True, name
    assert [one.inside for one in proxy.entrances] == [
        sum(way.to == number for way in WAYS.values()) for number in range(4)]
    assert proxy.metrics.turned_away == {} and proxy.metrics.connections == len(WAYS)
    assert loud(site) == []
    balancer.stop()
    site.wait(lambda: not proxy.sessions, what="the end of those behind a balancer that ended")


@pytest.mark.parametrize("server", ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl"])
def test_a_miner_that_speaks_ipv6(site, balancer, listeners, server):
    proxy = proxy_of(site, site.pool(), listeners, vardiff=VARDIFF)
    port = balancer.link(proxy.listener.port, server, host=LOOPBACK6)
    balancer.start()
    miner = log_in(connect(site, port, LOOPBACK6, host=LOOPBACK6))
    assert shown(proxy) == [f"[::1]:{miner._connection._sock.getsockname()[1]}"]
    assert miner.submit(miner.find_share()) is True
    assert next(iter(proxy.sessions.values())).conn.host == "[::1]"


@pytest.mark.parametrize("server", ["send-proxy", "send-proxy-v2"])
def test_ipv4_is_shown_as_such_where_the_balancer_takes_both(site, balancer, listeners, server):
    """It has the miner as ::ffff:127.0.0.5."""
    proxy = proxy_of(site, site.pool(), listeners)
    port = balancer.link(proxy.listener.port, server, host=MAPPED)
    balancer.start()
    miner = log_in(connect(site, port))
    assert shown(proxy) == [address_of(miner)]


@pytest.mark.parametrize("server", ["send-proxy", "send-proxy-v2"])
def test_a_miner_without_an_address(site, balancer, listeners, server, tmp_path_factory):
    """It comes to HAProxy by a socket of the file system: the header tells none, and whose header it is is shown."""
    proxy = proxy_of(site, site.pool(), listeners)
    path = str(tmp_path_factory.mktemp("s") / "s")
    balancer.link(proxy.listener.port, server, host=path)
    balancer.start()
    sock = socket.socket(socket.AF_UNIX)
    with gevent.Timeout(5):
        sock.connect(path)
        sock.sendall(b'{"id":1,"method":"mining.subscribe","params":["unix/1.0"]}\n'
                     b'{"id":2,"method":"mining.authorize","params":["user.rig","x"]}\n')
        said = b""
        while b"mining.notify" not in said:
            said += sock.recv(4096)
    assert [one.rpartition(":")[0] for one in shown(proxy)] == [f"via {LOOPBACK}"]
    sock.close()
    site.wait(lambda: not proxy.sessions)


def test_miners_that_come_around_the_balancer(site, balancer, listeners):
    """From an address that is not in proxy_protocol they connect as ever, to the same port."""
    proxy = proxy_of(site, site.pool(), listeners, vardiff=VARDIFF)
    port = balancer.link(proxy.listener.port, "send-proxy-v2")
    balancer.start()
    behind, around = log_in(connect(site, port)), log_in(connect(site, proxy.listener.port, NEIGHBOUR))
    assert shown(proxy) == [address_of(behind), address_of(around)]
    for miner in (behind, around):
        assert miner.submit(miner.find_share()) is True


# ---------------------------------------------------------------- health checks

CHECKS = {
    "header v1": ("send-proxy check", PLAIN_PORT),
    "header v2": ("send-proxy-v2 check", PLAIN_PORT),
    "header v1, by name": ("check check-send-proxy send-proxy", PLAIN_PORT),
    "header v1 before TLS": ("send-proxy check", TLS_PORT),
    "header v2 before TLS": ("send-proxy-v2 check check-send-proxy", TLS_PORT),
    "header v1 and TLS": ("send-proxy check check-send-proxy check-ssl verify none", TLS_PORT),
    "header v2 and TLS": ("send-proxy-v2 check check-send-proxy check-ssl verify none", TLS_PORT),
    "header v2 before a WebSocket": ("send-proxy-v2 check", WEB_PORT),
    "header v2 and TLS before a WebSocket": ("send-proxy-v2 check check-ssl verify none", SECURE_WEB_PORT),
}


@pytest.mark.parametrize("name", CHECKS)
def test_health_checks_cost_nothing(site, balancer, listeners, name):
    """No ban, no session, no line in the log, no exception; and HAProxy takes the proxy for healthy."""
    proxy = proxy_of(site, site.pool(), listeners, ratelimit={"enabled": True, "max_connections_per_minute": 1000})
    server, to = CHECKS[name]
    balancer.link(proxy.listeners[to].port, f"{server} inter 30ms")
    site.records.clear()
    metrics = proxy.metrics
    balancer.start()
    site.wait(lambda: metrics.ended.total() + metrics.turned_away.total() >= 20, what="20 checks")
    states = balancer.states()
    balancer.stop()
    site.wait(lambda: not proxy.sessions and not proxy.entrances[to].on_their_way)
    assert states == [("UP", "L6OK" if "check-ssl" in server else "L4OK")], balancer.said
    assert proxy.door.banned == 0 and metrics.bans == 0
    assert [one.getMessage() for one in site.records] == []
    assert metrics.turned_away.keys() <= {"left before its first line"}
    assert metrics.ended.keys() <= {"the miner closed the connection"}


@pytest.mark.parametrize("to", [PLAIN_PORT, TLS_PORT, WEB_PORT, SECURE_WEB_PORT])
def test_a_look_at_the_port_costs_nothing(site, listeners, to):
    """As monitors do it, from the balancer's own machine and with no header; by turns closed and reset."""
    proxy = proxy_of(site, site.pool(), listeners, ratelimit={"enabled": True})
    site.records.clear()
    for number in range(100):
        sock = socket.create_connection((LOOPBACK, proxy.listeners[to].port))
        if number % 2:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    site.wait(lambda: proxy.metrics.turned_away == {"left before its first line": 100})
    assert site.records == [] and proxy.door.banned == 0


# ---------------------------------------------------------------- whose fault it is

@pytest.mark.parametrize("server", ["send-proxy", "send-proxy-v2"])
def test_an_offender_is_banned_and_its_neighbour_mines_on(site, balancer, listeners, server):
    proxy = proxy_of(site, site.pool(), listeners, vardiff=VARDIFF, ratelimit={"enabled": True})
    port = balancer.link(proxy.listener.port, server)
    balancer.start()
    honest = log_in(connect(site, port, MINER))
    offenders = [log_in(connect(site, port, NEIGHBOUR), f"user.bad{number}") for number in range(3)]
    for offender in offenders:
        offender.send_bytes(b"junk {\n" * 50)
        offender.wait_closed()
    site.wait_logged(f"{NEIGHBOUR} is banned")
    assert [ban.address for ban in proxy.door.bans(monotonic())] == [NEIGHBOUR]
    assert proxy.door.is_banned(NEIGHBOUR) and not proxy.door.is_banned(LOOPBACK)
    assert len([line for line in loud(site) if NEIGHBOUR in line]) == 1
    again = connect(site, port, NEIGHBOUR)
    again.wait_closed()
    site.wait_logged(f"{NEIGHBOUR}:")  # turned away
    assert proxy.metrics.turned_away == {"banned": 1}
    assert honest.submit(honest.find_share()) is True
    newcomer = log_in(connect(site, port, MINER), "user.rig2")
    assert newcomer.submit(newcomer.find_share()) is True
    assert not honest.closed


def test_connections_are_counted_by_the_miners_address(site, balancer, listeners):
    proxy = proxy_of(site, site.pool(), listeners, ratelimit={"enabled": True, "max_connections_per_ip": 2})
    port = balancer.link(proxy.listener.port, "send-proxy-v2")
    balancer.start()
    for source in (MINER, NEIGHBOUR):
        for number in range(2):
            log_in(connect(site, port, source), f"user.{number}")
    third = connect(site, port, MINER)
    third.wait_closed()
    assert any(b"Too many connections" in line for line in third.lines)
    assert proxy.metrics.turned_away == {"too many connections": 1}
    site.wait_logged(f"turned away: {MINER} has 2 connections, 2 are allowed")
    assert len(proxy.sessions) == 4
    site.miners[0].close()
    site.wait(lambda: len(proxy.sessions) == 3)
    log_in(connect(site, port, MINER), "user.rig3")


@pytest.mark.parametrize("to", [PLAIN_PORT, TLS_PORT, WEB_PORT, SECURE_WEB_PORT])
@pytest.mark.parametrize("server", ["send-proxy", "send-proxy-v2"])
def test_a_balancer_that_is_not_named(site, balancer, listeners, trusting, server, to):
    """Its header is no way to another address; the log says what is missing."""
    for listener in listeners:
        listener["proxy_protocol"] = ["192.0.2.0/24"] if to else []
    proxy = proxy_of(site, site.pool(), listeners)
    port = balancer.link(proxy.listeners[to].port, server)
    balancer.start()
    miner = ScriptedMiner()
    site.miners.append(miner)
    try:
        miner.connect(LOOPBACK, port, source=MINER, via=Via(to in (TLS_PORT, SECURE_WEB_PORT),
                                                            to in (WEB_PORT, SECURE_WEB_PORT), trusting))
        miner.send_bytes(b'{"id":1,"method":"mining.subscribe","params":[]}\n')
        miner.wait_closed()
    except OSError:
        pass  # closed within its handshake
    site.wait_logged("not in proxy_protocol of this listener")
    assert not site.logged(MINER) and proxy.metrics.exceptions == 0
    site.wait(lambda: not proxy.sessions)


@pytest.mark.parametrize("to", [PLAIN_PORT, TLS_PORT])
def test_a_balancer_that_tells_nothing(site, balancer, listeners, trusting, to):
    """It is named in proxy_protocol, and was not told to send the header."""
    proxy = proxy_of(site, site.pool(), listeners)
    port = balancer.link(proxy.listeners[to].port)
    balancer.start()
    miner = ScriptedMiner()
    site.miners.append(miner)
    try:
        miner.connect(LOOPBACK, port, source=MINER, via=Via(tls=to == TLS_PORT, files=trusting))
        miner.send_bytes(b'{"id":1,"method":"mining.subscribe","params":[]}\n')
        miner.wait_closed()
    except OSError:
        pass  # closed within its handshake
    site.wait_logged("no PROXY header: it begins with")
    assert proxy.metrics.turned_away == {"PROXY header": 1} and not proxy.sessions


@pytest.mark.parametrize("server", ["send-proxy", "send-proxy-v2"])
def test_probes_and_miners_without_an_address_are_not_counted_against_the_balancer(site, balancer, listeners, server,
                                                                                  monkeypatch):
    """Else a balancer that looks every other second, or one of its miners that sends junk, would ban all of them."""
    monkeypatch.setattr(door, "GRACE", 0)
    proxy = proxy_of(site, site.pool(), listeners, vardiff=VARDIFF, ratelimit={
        "enabled": True, "max_connections_per_minute": 3, "max_connections_per_ip": 2, "bad_sessions": 1})
    port = balancer.link(proxy.listener.port, f"{server} check inter 20ms")
    balancer.start()
    site.wait(lambda: proxy.metrics.connections > 20, 15)
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", proxy.listener.port), 5) as sock:
            sock.sendall(b"PROXY UNKNOWN\r\nno JSON\n")
            while sock.recv(4096):
                pass
    assert not proxy.door.bans(monotonic()) and not proxy.metrics.turned_away
    log_in(connect(site, port))
