"""The dial through a SOCKS5 proxy: microsocks, and scripts for what that never says."""

import gc
import re
import time

import pytest
from gevent import socket

from karoo.net import addresses
from karoo.net.dialer import Destination, DialError, dial
from karoo.net.tls import ClientFiles
from tests.dialpeers import (
    PATIENCE,
    BlackHole,
    Certificates,
    Echo,
    Microsocks,
    OpensslServer,
    Scripted,
    needs_microsocks,
    needs_openssl,
    no_more_files,
    unused_port,
)

CREDENTIALS = "socks_proxy.username and socks_proxy.password"
GRANTED = b"\5\0\0\1\0\0\0\0\0\0"


@pytest.fixture
def started():
    peers = []

    def start(peer):
        peers.append(peer)
        return peer
    yield start
    for peer in peers:
        peer.close()


@pytest.fixture
def no_names(monkeypatch):
    """This process resolves none."""
    def refuse(*words):
        raise AssertionError(f"asked for {words}")
    monkeypatch.setattr(addresses.socket, "getaddrinfo", refuse)


def through(port, host="localhost", pool=1, user="", password="", **more):
    return Destination(host, pool, socks_host="127.0.0.1", socks_port=port, socks_user=user, socks_password=password,
                       **more)


def failure(to, timeout=PATIENCE):
    """What is said behind the step."""
    with no_more_files(), pytest.raises(DialError) as caught:
        dial(to, timeout)
    step = f"connect through the SOCKS5 proxy {to.socks_host}:{to.socks_port} with {to}: "
    assert str(caught.value).startswith(step)
    return str(caught.value).removeprefix(step)


def echoes(to):
    sock, layer, early = dial(to, PATIENCE)
    with sock:
        sock.sendall(b"hello")
        return (layer, early, sock.recv(100)) == (None, b"", b"hello")


# ------------------------------------------------------------------ microsocks

@needs_microsocks
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_proxy_resolves_the_name(started, no_names, host):
    proxy, pool = started(Microsocks()), started(Echo())
    assert echoes(through(proxy.port, host, pool.port))


@needs_microsocks
def test_a_pool_with_an_ipv6_address(started, no_names):
    proxy, pool = started(Microsocks()), started(Echo(host="::1"))
    assert echoes(through(proxy.port, "::1", pool.port))


@needs_microsocks
@pytest.mark.parametrize(("user", "password"), [
    ("user", "secret"), ("u" * 127, "p" * 128), ("u" * 128, "p" * 127), ("u" * 255, "p" * 255), ("Jörg", "päß")])
def test_a_user_and_a_password_of_any_length_that_the_protocol_knows(started, user, password):
    proxy, pool = started(Microsocks("-u", user, "-P", password)), started(Echo())
    assert echoes(through(proxy.port, pool=pool.port, user=user, password=password))


@needs_microsocks
@pytest.mark.parametrize(("user", "password", "reason"), [
    ("", "", f"the proxy wants a user name and a password: set {CREDENTIALS}"),
    ("user", "", f"the proxy wants a user name and a password: set {CREDENTIALS}"),
    ("user", "guess", f"the proxy refuses the user name or the password: check {CREDENTIALS}")])
def test_a_proxy_with_a_password_is_asked_without_it(started, user, password, reason):
    proxy, pool = started(Microsocks("-u", "user", "-P", "secret")), started(Echo())
    assert failure(through(proxy.port, pool=pool.port, user=user, password=password)) == reason
    assert not pool.served


@needs_microsocks
def test_refusals_leave_no_descriptor(started):
    proxy = started(Microsocks("-u", "user", "-P", "secret"))
    gc.disable()  # which would clear up behind us
    try:
        for credentials in ({}, {"user": "user", "password": "guess"}, {"user": "user", "password": "secret"}):
            with no_more_files():
                for _ in range(50):
                    failure(through(proxy.port, **credentials))
    finally:
        gc.enable()


@needs_microsocks
def test_a_password_for_a_proxy_without_one_does_no_harm(started):
    proxy, pool = started(Microsocks()), started(Echo())
    assert echoes(through(proxy.port, pool=pool.port, user="user", password="secret"))


@needs_microsocks
@needs_openssl
def test_tls_goes_through_the_proxy_end_to_end(started, no_names, tmp_path):
    certificates = Certificates(tmp_path)
    proxy, pool = started(Microsocks()), started(OpensslServer(certificates.good))
    files = ClientFiles(ca_file=str(certificates.ca))
    sock, layer, early = dial(through(proxy.port, pool=pool.port, tls=True, files=files), PATIENCE)
    with sock:
        sock.sendall(layer.encode(b"Stratum\n"))
        while b"\n" not in early:
            early += layer.decode(sock.recv(4096))
    assert early == b"mutartS\n"
    bad = started(OpensslServer(certificates.foreign))
    with no_more_files(), pytest.raises(DialError, match=r"TLS handshake with .* of an unknown authority"):
        dial(through(proxy.port, pool=bad.port, tls=True, files=files), PATIENCE)


@needs_microsocks
def test_a_pool_that_the_proxy_does_not_reach(started):
    proxy = started(Microsocks())
    with unused_port() as nobody:
        assert failure(through(proxy.port, pool=nobody.getsockname()[1])) == (
            "the pool refuses the proxy's connection (0x05): check host and port")
    assert failure(through(proxy.port, "pool.invalid")).startswith("the proxy failed (0x01): its log may say why")


# ------------------------------------------------------------------ the proxy's own address

@needs_microsocks
def test_the_addresses_of_the_proxy_are_tried_in_turn(started, monkeypatch):
    proxy, pool, hole, silent = started(Microsocks()), started(Echo()), started(BlackHole()), started(Scripted())
    places = [("127.0.0.1", one.port) for one in (hole, silent, proxy)]
    with unused_port() as nobody:
        places.insert(0, nobody.getsockname())
        monkeypatch.setattr(addresses.socket, "getaddrinfo", lambda host, *_: host == "tor.example" and [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in places])
        to = Destination("localhost", pool.port, socks_host="tor.example", socks_port=9050)
        began = time.monotonic()
        sock = dial(to, 1.2).sock
        with sock:
            sock.sendall(b"hello")
            assert sock.recv(100) == b"hello"
        assert 0.75 < time.monotonic() - began < 1.2
        places.pop()
        text = failure(to, 0.6)
        assert "; 127.0.0.1: the proxy itself: Connection refused: does it run? Check socks_proxy.host" in text
        assert re.match("no answer within 0.[1-3] s from the proxy, or from the pool behind it; that was 127", text)


def test_a_proxy_with_an_ipv6_address(started):
    proxy = started(Scripted(b"", b"\5\0", GRANTED, host="::1"))
    to = Destination("pool.example", 3333, socks_host="::1", socks_port=proxy.port)
    with dial(to, PATIENCE).sock:
        assert proxy.heard[:2] == [b"\5\1\0", b"\5\1\0\3\x0cpool.example\x0d\x05"]


def test_a_proxy_that_is_not_there(started):
    with unused_port() as nobody:
        assert failure(through(nobody.getsockname()[1])) == (
            "the proxy itself: Connection refused: does it run? Check socks_proxy.host and socks_proxy.port")


# ------------------------------------------------------------------ what proxies say

@pytest.mark.parametrize("says", [(), (b"", b"\5"), (b"", b"\5\0"), (b"", b"\5\0", b"\5\0\0")])
def test_a_proxy_that_falls_silent_is_given_up_in_time(started, says):
    proxy = started(Scripted(*says))
    began = time.monotonic()
    assert re.fullmatch("no answer within 0.[12] s from the proxy, or from the pool behind it",
                        failure(through(proxy.port), 0.2))
    assert 0.15 < time.monotonic() - began < 1.0


@pytest.mark.parametrize("says", [(b"",), (b"", b"\5"), (b"", b"\5\0"), (b"", b"\5\0", b"\5\0\0")])
def test_a_proxy_that_leaves(started, says):
    proxy = started(Scripted(*says, leaves=True))
    assert failure(through(proxy.port)) == (
        "the proxy closed the connection: does it speak SOCKS5? Check socks_proxy.port")


@pytest.mark.parametrize("says", [
    (b"HTTP/1.1 400 Bad Request\r\n\r\n",), (b"", b"\0\x5b\0\0\0\0\0\0"), (b"\x15\x03\x01\0\2\2\x46",), (b"", b"\5\1"),
    (b"", b"\5\0", b"HTTP/1.1"), (b"", b"\5\0", b"\5\0\0\7")])
def test_what_is_no_socks5(started, says):
    proxy = started(Scripted(*says))
    assert failure(through(proxy.port)).startswith("the proxy does not speak SOCKS5: check socks_proxy.port")


@pytest.mark.parametrize(("code", "words"), [
    (1, "the proxy failed (0x01): "), (2, "the proxy's rules forbid it (0x02): "),
    (3, "the proxy has no network that leads to the pool (0x03): "),
    (4, "the proxy cannot reach the pool's host (0x04): "), (5, "the pool refuses the proxy's connection (0x05): "),
    (6, "the pool does not answer the proxy (0x06): "), (7, "the proxy makes no connections for others (0x07): "),
    (8, "the proxy does not take such an address (0x08): "), (0xf0, "the proxy refuses: 0xf0: "),
    (0xff, "the proxy refuses: 0xff: ")])
def test_every_answer_has_its_words(started, code, words):
    proxy = started(Scripted(b"", b"\5\0", bytes([5, code]) + GRANTED[2:]))
    text = failure(through(proxy.port))
    assert text.startswith(words) and ";" not in text


def test_a_proxy_that_wants_another_authentication(started):
    proxy = started(Scripted(b"", b"\5\xff"))
    assert failure(through(proxy.port, user="user", password="secret")) == (
        "the proxy takes neither this side's password nor none: have it allow one of them")


@pytest.mark.parametrize(("more", "words"), [
    ({"user": "ü" * 128, "password": "x"}, "socks_proxy.username has 256 bytes, and SOCKS5 takes 255: "),
    ({"user": "x", "password": "x" * 300}, "socks_proxy.password has 300 bytes, and SOCKS5 takes 255: "),
    ({"host": "a." * 127 + "ab"}, "host has 256 bytes, and SOCKS5 takes 255: "),
    ({"host": "a..b"}, "host cannot be the name of a host: check it")])
def test_what_the_protocol_cannot_say_is_not_said(started, more, words):
    proxy = started(Scripted())
    assert failure(through(proxy.port, **more)).startswith(words)
    assert not proxy.served


@pytest.mark.parametrize("host", ["a." * 126 + "abc", "a." * 63 + "ab", "expyuzz4wqqyqhjn.onion", "pöol.example"])
def test_names_of_any_length_arrive_whole(started, host):
    proxy = started(Scripted(b"", b"\5\0", GRANTED))
    name = host.encode("idna")
    with dial(through(proxy.port, host, 3333), PATIENCE).sock:
        assert proxy.heard[1] == b"\5\1\0\3" + bytes([len(name)]) + name + b"\x0d\x05"
