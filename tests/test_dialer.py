"""The dial: names and their addresses, the one deadline over all, and that nothing is left behind."""

import _socket
import gc
import re
import time
from types import SimpleNamespace

import gevent
import pytest
from gevent import monkey, socket

from karoo.net import addresses, tcp
from karoo.net.addresses import Address, alternated
from karoo.net.dialer import Destination, DialError, dial
from karoo.net.tls import ClientFiles
from tests.dialpeers import PATIENCE, BlackHole, Certificates, Echo, Scripted, no_more_files, open_files, unused_port

NAME = "pool.example"


@pytest.fixture
def started():
    """Peers, stopped in the end."""
    peers = []

    def start(peer):
        peers.append(peer)
        return peer
    yield start
    for peer in peers:
        peer.close()


@pytest.fixture
def resolved(monkeypatch):
    """What the name resolves to, as `(host, port)`; how often it was asked for."""
    answer = SimpleNamespace(places=[], asked=0)

    def getaddrinfo(host, _port, *_more):
        assert host == NAME
        answer.asked += 1
        return [(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM, 6, "",
                 (ip, port, 0, 0) if ":" in ip else (ip, port)) for ip, port in answer.places]
    monkeypatch.setattr(addresses.socket, "getaddrinfo", getaddrinfo)
    return answer


@pytest.fixture
def closed(started):
    """Makes places where nobody listens."""
    return lambda host="127.0.0.1": started(unused_port(host)).getsockname()[:2]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


def failure(to, timeout=PATIENCE):
    """What the dial says, and how long it took."""
    began = time.monotonic()
    with pytest.raises(DialError) as caught:
        dial(to, timeout)
    return str(caught.value), time.monotonic() - began


def greeted(dialled):
    """Whether there is an echo; closes."""
    sock, layer, early = dialled
    sock.sendall(b"hello")
    try:
        return (layer, early, sock.recv(100)) == (None, b"", b"hello")
    finally:
        sock.close()


# ------------------------------------------------------------------ addresses

def test_the_families_take_turns_and_each_keeps_its_order():
    def address(host):
        return Address(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, 6, (host, 1, 0, 0))

    def order(*hosts):
        return [one.place[0] for one in alternated(map(address, hosts))]
    assert order("::1", "::2", "::3", "1.1.1.1", "1.1.1.2") == ["::1", "1.1.1.1", "::2", "1.1.1.2", "::3"]
    assert order("1.1.1.1", "::1", "::1", "1.1.1.1", "1.1.1.2") == ["1.1.1.1", "::1", "1.1.1.2"]
    assert order("1.1.1.2", "1.1.1.1") == ["1.1.1.2", "1.1.1.1"] and order() == []


@pytest.mark.parametrize(("host", "shown"), [
    ("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("fe80::1%lo", "fe80::1%1")])
def test_an_ip_address_is_not_asked_for(resolved, host, shown):
    """Were all threads of the resolver stuck, a pool with an IP address could still be reached."""
    assert [(str(one), one.place[1]) for one in addresses.resolve(host, 3333)] == [(shown, 3333)]
    assert not resolved.asked


def test_a_name_is_resolved_anew_each_time(started, resolved):
    first, second = started(Echo()), started(Echo())
    for pool in (first, second):
        resolved.places = [("127.0.0.1", pool.port)]
        assert greeted(dial(Destination(NAME, 1), PATIENCE))
    assert (first.served, second.served, resolved.asked) == (1, 1, 2)


def test_the_next_address_is_tried_where_one_refuses(started, resolved, closed):
    pool = started(Echo())
    resolved.places = [closed("::1"), closed(), ("127.0.0.1", pool.port)]
    with no_more_files():
        assert greeted(dial(Destination(NAME, 1), PATIENCE))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_address_that_swallows_all_takes_its_part_of_the_time_only(started, resolved, host):
    hole, pool = started(BlackHole(host)), started(Echo())
    resolved.places = [(host, hole.port), ("127.0.0.1", pool.port)]
    began = time.monotonic()
    assert greeted(dial(Destination(NAME, 1), 1.0))
    assert 0.45 < time.monotonic() - began < 0.95


def test_what_one_address_leaves_of_its_time_is_for_the_next(started, resolved, closed):
    hole = started(BlackHole())
    resolved.places = [closed(), closed(), closed(), ("127.0.0.1", hole.port)]
    text, took = failure(Destination(NAME, 1), 0.6)
    assert 0.55 < took < 1.2
    assert re.fullmatch("connect with pool.example:1: no answer within 0.[3-6] s; that was 127.0.0.1; "
                        "127.0.0.1, 127.0.0.1, 127.0.0.1: Connection refused", text)


def test_one_deadline_is_over_all_addresses_and_few_are_tried(started, resolved):
    holes = [started(BlackHole()) for _ in range(3)]
    resolved.places = [("127.0.0.1", hole.port) for hole in holes] + [("127.0.0.2", 1)] * 2 + [
        (f"127.0.0.{last}", 1) for last in range(3, 20)]
    text, took = failure(Destination(NAME, 1), 0.6)
    assert "pool.example:1: Connection refused; that was 127.0.0.2, 127.0.0.3, 127.0.0.4; " in text
    assert text.count("127.0.0.") == addresses.MOST and "127.0.0.1: no answer within 0.1 s" in text
    assert took < 0.6


def test_the_time_of_the_resolver_counts(resolved, started, monkeypatch):
    hole = started(BlackHole())
    resolved.places = [("127.0.0.1", hole.port)]
    quick = addresses.socket.getaddrinfo

    def slow(*words):
        gevent.sleep(0.3)
        return quick(*words)
    monkeypatch.setattr(addresses.socket, "getaddrinfo", slow)
    text, took = failure(Destination(NAME, 1), 0.6)
    assert 0.55 < took < 0.85 and re.fullmatch("connect with pool.example:1: no answer within 0.[1-3] s", text)


def test_equal_reasons_are_told_once_and_the_one_that_led_furthest_first(started, resolved, closed):
    resolved.places = [closed("::1"), ("127.0.0.1", started(Scripted(b"HTTP/1.1 400\r\n")).port), closed("::1")]
    text, _ = failure(Destination(NAME, 7, tls=True))
    assert text == ("TLS handshake with pool.example:7: the pool's answer is not TLS (wrong version number): is this "
                    "its port for TLS? If it has none, set tls: false; that was 127.0.0.1; "
                    "::1, ::1: connect: Connection refused")
    resolved.places = resolved.places[::2]
    text, _ = failure(Destination(NAME, 7))
    assert text == "connect with pool.example:7: Connection refused; that was ::1, ::1"


def test_a_tls_handshake_without_an_answer_leaves_time_to_the_next_address(started, resolved, certificates):
    silent, other = started(Scripted()), started(Scripted(b"HTTP/1.1 400\r\n"))
    resolved.places = [("127.0.0.1", silent.port), ("127.0.0.1", other.port)]
    text, took = failure(Destination(NAME, 7, tls=True, files=ClientFiles(ca_file=str(certificates.ca))), 0.6)
    assert took < 0.6 and "the pool's answer is not TLS" in text
    assert re.search("; 127.0.0.1: no answer within 0.[23] s: ", text)


@pytest.mark.parametrize("option", ["host", "server_name", "socks_host"])
@pytest.mark.parametrize("name", ["pool..example", ".pool", "a\0b", "x" * 64 + ".example"])
def test_a_name_that_cannot_be_one_is_not_asked_for(resolved, option, name, capfd):
    text, _ = failure(Destination(**{"host": NAME, "port": 1, "tls": True, option: name}))
    said = {"socks_host": "socks_proxy.host"}.get(option, option)
    assert text.endswith(f": {said} cannot be the name of a host: check it")
    assert not resolved.asked and capfd.readouterr().err == "", "gevent logs what fails in its threads"


@pytest.mark.parametrize("empty", [False, True])
def test_a_name_without_addresses(resolved, monkeypatch, empty):
    def refuse(*_words):
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    if not empty:
        monkeypatch.setattr(addresses.socket, "getaddrinfo", refuse)
    why = "No address associated with hostname" if empty else "Temporary failure in name resolution"
    assert failure(Destination(NAME, 1))[0] == (
        f"connect with pool.example:1: the name does not resolve ({why}): check host, and the DNS of this machine")
    text, _ = failure(Destination("far.example", 1, socks_host=NAME, socks_port=9))
    assert text == (f"connect through the SOCKS5 proxy pool.example:9 with far.example:1: the proxy's name does not "
                    f"resolve ({why}): check socks_proxy.host, and the DNS of this machine")


def test_a_resolver_that_hangs_keeps_nobody_else(monkeypatch):
    """It waits in a thread of its own, for as long as the system's may."""
    lock, over = monkey.get_original("_thread", "allocate_lock")(), []
    lock.acquire()
    ask = _socket.getaddrinfo

    def hang(*words):
        if socket.AI_NUMERICHOST in words:
            return ask(*words)  # the system asks nobody for an IP address
        lock.acquire()
        lock.release()
        over.append(True)
        return []
    monkeypatch.setattr(_socket, "getaddrinfo", hang)
    ticks = []

    def tick():
        while True:
            ticks.append(time.monotonic())
            gevent.sleep(0.01)
    ticking = gevent.spawn(tick)
    try:
        text, took = failure(Destination(NAME, 1), 0.5)
    finally:
        ticking.kill()
        lock.release()
    assert 0.45 < took < 1.0 and len(ticks) > 10 and not over
    assert text == ("connect with pool.example:1: the name does not resolve (no answer within 0.5 s): check host, and "
                    "the DNS of this machine")
    with gevent.Timeout(PATIENCE):
        while not over:
            gevent.sleep(0.01)


# ------------------------------------------------------------------ somebody else's deadline

def test_whoever_ends_the_greenlet_ends_the_dial_and_the_connection(started):
    silent = started(Scripted())
    with no_more_files():
        for to in (Destination("127.0.0.1", silent.port, tls=True),
                   Destination(NAME, 1, socks_host="127.0.0.1", socks_port=silent.port)):
            dialling = gevent.spawn(dial, to, PATIENCE)
            served = silent.served
            with gevent.Timeout(PATIENCE):
                while silent.served == served:
                    gevent.sleep(0.001)
            dialling.kill(timeout=PATIENCE)
            assert dialling.dead


def test_the_timeout_of_the_caller_stays_the_callers(started):
    silent = started(Scripted())
    with no_more_files(), pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.05) as theirs:
        dial(Destination("127.0.0.1", silent.port, tls=True), PATIENCE)
    assert caught.value is theirs


# ------------------------------------------------------------------ descriptors

@pytest.fixture
def failing(started, resolved, closed, certificates):
    """Destinations that fail, each in its own way, and how long one dial may take."""
    def local(peer):
        return "127.0.0.1", started(peer).port
    resolved.places = [closed("::1"), local(BlackHole()), local(Scripted())]
    silent, tls = local(Scripted()), {"tls": True}
    return {
        "refused": (Destination(*closed()), 1.0),
        "black hole": (Destination(*local(BlackHole())), 0.01),
        "many addresses": (Destination(NAME, 1, **tls), 0.03),
        "no such file": (Destination(*silent, files=ClientFiles(ca_file="/nowhere"), **tls), 1.0),
        "TLS: silence": (Destination(*silent, **tls), 0.01),
        "TLS: garbage": (Destination(*local(Scripted(b"garbage, no TLS\r\n")), **tls), 1.0),
        "TLS: closed": (Destination(*local(Scripted(b"", leaves=True)), **tls), 1.0),
        "SOCKS5: refused": _through(closed(), 1.0),
        "SOCKS5: black hole": _through(local(BlackHole()), 0.01),
        "SOCKS5: silence": _through(silent, 0.01),
        "SOCKS5: silence later": _through(local(Scripted(b"\5\0")), 0.01),
        "SOCKS5: HTTP": _through(local(Scripted(b"HTTP/1.1 400 Bad Request\r\n")), 1.0),
        "SOCKS5: closed": _through(local(Scripted(b"", leaves=True)), 1.0),
        "SOCKS5: wants a password": _through(local(Scripted(b"\5\2")), 1.0),
        "SOCKS5: rules": _through(local(Scripted(b"\5\0", b"\5\2\0\1\0\0\0\0\0\0")), 1.0),
        "SOCKS5: TLS garbage": _through(local(Scripted(b"\5\0", b"\5\0\0\1\0\0\0\0\0\0", b"garbage")), 1.0, **tls),
    }


def _through(place, seconds, **more):
    return Destination("far.example", 1, socks_host=place[0], socks_port=place[1], **more), seconds


def test_no_failure_leaves_a_descriptor(failing):
    gc.disable()  # which would clear up behind us
    try:
        for to, seconds in failing.values():
            failure(to, seconds)  # what is opened once and kept
        for name, (to, seconds) in failing.items():
            with no_more_files():
                before = open_files()
                for _ in range(50):
                    failure(to, seconds)
                assert open_files() < before + 50, name
    finally:
        gc.enable()


def test_the_socket_is_tuned_and_nobodys_timeout_is_left_on_it(started):
    pool = started(Echo())
    sock, _, _ = dial(Destination("127.0.0.1", pool.port), 0.2)
    with sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == tcp.USER_TIMEOUT
        gevent.sleep(0.25)  # longer than the dial had
        sock.sendall(b"still here")
        assert sock.recv(100) == b"still here"
