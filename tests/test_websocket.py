"""WebSockets: the protocol byte by byte, attacks on it, and a real client."""

import logging
import os
import struct
import tracemalloc
from contextlib import ExitStack, contextmanager
from time import monotonic

import gevent
import pytest
from flask import Flask
from gevent import socket
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK
from websockets.sync.client import connect

from karoo.net import wsframes
from karoo.net.listener import listening_socket
from karoo.net.websocket import WebSocket
from karoo.net.wsframes import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Limits,
    encode,
    unmask,
)
from karoo.net.wshandshake import HandshakeError, handshake
from karoo.web.server import WebServer
from karoo.web.upgrade import upgrade


def frame(opcode, payload=b"", fin=True, rsv=0, mask=b"\x01\x02\x03\x04", announced=None):
    """What a client sends; `announced` is a length that is not the payload's."""
    size = len(payload) if announced is None else announced
    masked = 0x80 if mask else 0
    head = bytes([(0x80 if fin else 0) | rsv | opcode])
    if size < 126:
        head += bytes([masked | size])
    elif size < 65536:
        head += bytes([masked | 126]) + struct.pack("!H", size)
    else:
        head += bytes([masked | 127]) + struct.pack("!Q", size)
    return head + mask + (unmask(payload, mask) if mask else payload)


class Peer:
    """A client that says what a test wants, and a server that says everything again."""

    def __init__(self, early=b"", **limits):
        self.sock, server = socket.socketpair()
        self.sock.settimeout(5)
        self.websocket = WebSocket(server, early, Limits(**limits))
        self.heard = []
        self.server = gevent.spawn(self._echo)

    def _echo(self):
        while (message := self.websocket.receive()) is not None:
            self.heard.append(message)
            self.websocket.send(message)

    def send(self, *frames):
        self.sock.sendall(b"".join(frames))

    def exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.sock.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def receive(self):
        """The next frame's opcode and payload; EOFError at the end."""
        first, size = self.exactly(2)
        assert first & 0x80 and not first & 0x70 and not size & 0x80
        if size == 126:
            size, = struct.unpack("!H", self.exactly(2))
        elif size == 127:
            size, = struct.unpack("!Q", self.exactly(8))
        return first & 15, self.exactly(size)

    def close_code(self):
        """The code of the close frame that comes next, and behind which there is nothing."""
        opcode, payload = self.receive()
        assert opcode == CLOSE
        with pytest.raises(EOFError):
            self.receive()
        return int.from_bytes(payload[:2], "big")

    def end(self):
        self.sock.close()
        self.server.join(5)
        assert self.server.ready()
        assert self.websocket.closed


@pytest.fixture
def peer():
    peers = []

    def start(*words, **limits):
        peers.append(Peer(*words, **limits))
        return peers[-1]
    yield start
    for one in peers:
        one.end()


# Messages

@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_unmasking_is_the_xor_of_the_protocol(payload, mask):
    assert unmask(payload, mask) == bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


@settings(max_examples=40)
@given(st.lists(st.text(max_size=200) | st.binary(max_size=200), max_size=5), st.randoms(use_true_random=False))
def test_messages_come_whole_however_they_are_cut(messages, rng):
    peer = Peer()
    wire = b""
    for message in messages:
        opcode, data = (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(4)))
        pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        for at, piece in enumerate(pieces):
            if rng.random() < 0.3:
                wire += frame(PING, b"in between")
            wire += frame(opcode if at == 0 else CONTINUATION, piece, fin=at == len(pieces) - 1, mask=rng.randbytes(4))
    while wire:
        cut = rng.randrange(1, len(wire) + 1)
        peer.send(wire[:cut])
        wire = wire[cut:]
    echoes = []
    while len(echoes) < len(messages):
        opcode, payload = peer.receive()
        if opcode == PONG:
            assert payload == b"in between"
        else:
            echoes.append(payload.decode() if opcode == TEXT else payload)
    assert echoes == messages == peer.heard
    peer.end()


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 16383, 16384])
def test_frames_of_every_form_of_length(peer, size):
    one = peer()
    one.send(frame(TEXT, b"x" * size))
    assert one.receive() == (TEXT, b"x" * size)


def test_a_message_beyond_16_bits_is_sent_as_one_frame(peer):
    one = peer()
    assert encode("x" * 70000)[:2] == bytes([0x81, 127])
    one.websocket.send("x" * 70000)
    assert one.receive() == (TEXT, b"x" * 70000)


def test_what_came_with_the_handshake_is_read_first(peer):
    one = peer(frame(TEXT, b"early")[:7])
    one.send(frame(TEXT, b"early")[7:], frame(TEXT, b"late"))
    assert [one.receive(), one.receive()] == [(TEXT, b"early"), (TEXT, b"late")]


# What is refused

@pytest.mark.parametrize(("code", "frames"), [
    (1002, [frame(TEXT, b"x", mask=b"")]),
    (1002, [frame(TEXT, b"x", rsv=0x40)]),
    (1002, [frame(TEXT, b"x", rsv=0x20)]),
    (1002, [frame(TEXT, b"x", rsv=0x10)]),
    (1002, [frame(PING, b"x", rsv=0x40)]),
    *[(1002, [frame(opcode, b"x")]) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)],
    (1002, [frame(PING, b"x" * 126)]),
    (1002, [frame(PONG, b"", announced=1 << 40)]),
    (1002, [frame(PING, b"x", fin=False)]),
    (1002, [frame(CLOSE, b"", fin=False)]),
    (1002, [frame(CONTINUATION, b"x")]),
    (1002, [frame(CONTINUATION, b"x", fin=False)]),
    (1002, [frame(TEXT, b"x", fin=False), frame(TEXT, b"x")]),
    (1002, [frame(TEXT, b"x", fin=False), frame(BINARY, b"x")]),
    (1002, [frame(CLOSE, b"\x03")]),
    *[(1002, [frame(CLOSE, struct.pack("!H", code))])
      for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)],
    (1007, [frame(CLOSE, struct.pack("!H", 1000) + b"\xff")]),
    (1007, [frame(TEXT, b"\xce\xba\xe1\xbd\xb9\xff")]),
    (1007, [frame(TEXT, b"\xed\xa0\x80")]),
    (1007, [frame(TEXT, b"\xf4\x90\x80\x80", fin=False)]),
    (1007, [frame(TEXT, b"caf\xc3")]),
    (1007, [frame(TEXT, b"caf\xc3", fin=False), frame(CONTINUATION, b"")]),
    (1009, [frame(TEXT, b"x" * 16385)]),
    (1009, [frame(TEXT, announced=1 << 40)]),
    (1009, [frame(BINARY, announced=(1 << 63) - 1)]),
    (1009, [frame(TEXT, announced=(1 << 64) - 1)]),
    (1009, [frame(BINARY, b"x" * 16384, fin=False), *[frame(CONTINUATION, b"x" * 16384, fin=False)] * 4]),
    (1009, [frame(TEXT, fin=False), *[frame(CONTINUATION, fin=False)] * 64]),
])
def test_each_offence_has_its_close_code(peer, code, frames):
    one = peer()
    one.send(*frames)
    assert one.close_code() == code == one.websocket.close_code
    assert one.heard == []


def test_binary_where_only_text_is_taken(peer):
    one = peer(binary=False)
    one.send(frame(TEXT, b"fine"), frame(BINARY, b"not"))
    assert one.receive() == (TEXT, b"fine")
    assert one.close_code() == 1003


def test_an_announcement_of_a_terabyte_allocates_nothing(peer):
    one = peer()
    tracemalloc.start()
    try:
        one.send(frame(BINARY, announced=1 << 40))
        assert one.close_code() == 1009
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@settings(max_examples=100)
@given(st.lists(st.binary(max_size=50) | st.builds(
    frame, st.integers(0, 15), st.binary(max_size=150), st.booleans(), st.sampled_from([0, 0, 0, 16, 64]),
    st.sampled_from([b"", b"abcd", b"abcd", b"\0\0\0\0"]), st.none() | st.integers(0, 2 ** 64 - 1)), max_size=8))
def test_whatever_comes_ends_in_order(chunks):
    one = Peer(close_seconds=0.2)
    one.send(*chunks)
    one.sock.shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        while True:
            one.receive()
    one.end()


# Closing

@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 1012, 1014, 3000, 4999])
def test_a_close_is_answered_with_its_own_code(peer, code):
    one = peer(close_seconds=0.2)
    one.send(frame(CLOSE, struct.pack("!H", code) + "längst".encode()), frame(TEXT, b"too late"))
    assert one.close_code() == code
    one.server.join(5)
    assert one.websocket.close_code == code and one.heard == []


def test_a_close_without_a_code_is_answered_without_one(peer):
    one = peer()
    one.send(frame(CLOSE))
    assert one.receive() == (CLOSE, b"")
    with pytest.raises(EOFError):
        one.receive()
    assert one.websocket.close_code == 1005


def test_a_close_from_this_side_waits_for_the_answer(peer):
    one = peer(close_seconds=5)
    one.websocket.close(1001, "bye" * 100)
    opcode, payload = one.receive()
    assert (opcode, payload[:2], len(payload)) == (CLOSE, struct.pack("!H", 1001), 125)
    assert not one.server.ready()
    one.websocket.send("nobody hears this")
    one.send(frame(TEXT, b"crosses it"), frame(CLOSE, payload))
    with pytest.raises(EOFError):
        one.receive()
    assert one.websocket.close_code == 1001 and one.heard == []


def test_a_peer_that_does_not_answer_a_close_is_cut(peer):
    one = peer(close_seconds=0.1)
    one.websocket.close(1000)
    one.server.join(5)
    assert one.server.ready()
    assert one.receive() == (CLOSE, struct.pack("!H", 1000))
    with pytest.raises(EOFError):
        one.receive()


def test_a_peer_that_leaves_without_a_word(peer):
    one = peer()
    one.sock.close()
    one.server.join(5)
    assert one.websocket.close_code == 1006


def test_a_reason_is_cut_between_two_characters():
    payload = wsframes.close_payload(1000, "x" + "é" * 100)
    assert payload[2:].decode() == "x" + "é" * 61


# Silence, and peers that do not read

def test_a_silent_peer_is_pinged_and_stays_if_it_answers(peer):
    one = peer(idle_seconds=0.1)
    for _ in range(3):
        assert one.receive() == (PING, b"")
        one.send(frame(PONG))
    assert not one.server.ready()


def test_a_silent_peer_that_does_not_answer_is_dropped(peer):
    one = peer(idle_seconds=0.1, close_seconds=0.1)
    assert one.receive() == (PING, b"")
    assert one.close_code() == 1001
    one.server.join(5)
    assert one.websocket.close_code == 1006


def test_a_frame_that_comes_byte_by_byte_keeps_nobody_here(peer):
    one = peer(idle_seconds=0.1, close_seconds=0.1)
    began = monotonic()
    with pytest.raises(OSError):
        for byte in frame(TEXT, b"x" * 100):
            one.send(bytes([byte]))
            gevent.sleep(0.05)
    assert monotonic() - began < 3


def test_writing_never_waits_and_a_peer_that_does_not_read_is_dropped(peer):
    one = peer(write_seconds=0.2, max_backlog=1 << 22)
    began = monotonic()
    for _ in range(10):
        one.websocket.send(b"x" * 100_000)
    assert monotonic() - began < 0.15 and one.websocket.backlog_bytes > 0
    one.server.join(5)
    assert one.server.ready() and one.websocket.close_code == 1006 and one.websocket.backlog_bytes == 0


def test_a_backlog_beyond_its_bound_drops_the_peer_at_once(peer):
    one = peer(max_backlog=100_000)
    while not one.websocket.closed:
        one.websocket.send(b"x" * 50_000)
        assert one.websocket.backlog_bytes <= 100_000
    one.server.join(5)
    assert one.server.ready()


def test_a_slow_reader_gets_all_of_it_in_order(peer):
    one = peer(max_backlog=1 << 22)
    for number in range(20):
        one.websocket.send(bytes([number]) * 100_000)
    assert one.websocket.backlog_bytes > 0
    for number in range(20):
        assert one.receive() == (BINARY, bytes([number]) * 100_000)
    assert one.websocket.backlog_bytes == 0


def test_a_peer_that_never_pauses_lets_others_have_their_turn(peer):
    one, turns = peer(), 0
    one.send(frame(PONG, bytes(100)) * 1000, frame(TEXT, b"the last"))
    while not one.heard:
        gevent.sleep(0)
        turns += 1
    assert turns > 20
    assert one.receive() == (TEXT, b"the last")


# The handshake

GOOD = {"Connection": "keep-alive, Upgrade", "Upgrade": "WebSocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}


def test_the_handshake_of_the_rfc():
    assert ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") in handshake("GET", GOOD.get)


@pytest.mark.parametrize(("method", "changed", "status"), [
    ("POST", {}, 400), ("GET", {"Upgrade": None}, 426), ("GET", {"Upgrade": "h2c"}, 426),
    ("GET", {"Connection": "close"}, 426), ("GET", {"Connection": None}, 426),
    ("GET", {"Sec-WebSocket-Version": "8"}, 426), ("GET", {"Sec-WebSocket-Version": None}, 426),
    ("GET", {"Sec-WebSocket-Key": None}, 400), ("GET", {"Sec-WebSocket-Key": "short"}, 400),
    ("GET", {"Sec-WebSocket-Key": "AAAA"}, 400), ("GET", {"Sec-WebSocket-Key": "\xe9" * 24}, 400),
    ("GET", {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==\n"}, None),
])
def test_what_is_no_handshake(method, changed, status):
    header = {**GOOD, **changed}.get
    if status is None:
        handshake(method, header)
        return
    with pytest.raises(HandshakeError) as refused:
        handshake(method, header)
    assert refused.value.status == status


# A real client, over the server of the status page

@contextmanager
def served(serve, **limits):
    app = Flask("test")
    app.add_url_rule("/ws", "ws", lambda: upgrade(serve, Limits(**limits)), websocket=True)
    server = WebServer(listening_socket("127.0.0.1", 0), app)
    server.start()
    try:
        yield server, f"ws://127.0.0.1:{server.port}/ws"
    finally:
        server.stop()


def echo(ws):
    while (message := ws.receive()) is not None:
        ws.send(message)


def test_a_real_client_and_its_fragments_and_pings(caplog):
    with caplog.at_level(logging.WARNING, "karoo"), served(echo) as (_, url), connect(url, compression=None) as client:
        client.send("h\u00e9llo")
        assert client.recv(5) == "h\u00e9llo"
        client.send(["in ", "three ", "pieces"])
        assert client.recv(5) == "in three pieces"
        client.send([b"\0", b"\xff"])
        assert client.recv(5) == b"\0\xff"
        assert client.ping(b"there?").wait(5)
        big = os.urandom(16384)
        client.send(big)
        assert client.recv(5) == big
        client.close(3210, "enough")
        assert client.close_code == 3210
    assert not caplog.records


def test_a_real_client_offers_compression_in_vain_and_is_told_when_it_sends_too_much():
    with served(echo) as (_, url), connect(url) as client:
        client.send("a" * 20000)
        with pytest.raises(ConnectionClosedError) as closed:
            client.recv(5)
        assert closed.value.rcvd.code == 1009


def test_the_server_closes_when_it_has_said_what_it_had_to_say():
    with served(lambda ws: ws.send("all")) as (_, url), connect(url) as client:
        assert client.recv(5) == "all"
        with pytest.raises(ConnectionClosedOK) as closed:
            client.recv(5)
        assert closed.value.rcvd.code == 1000


def test_a_bug_closes_with_1011_and_is_logged(caplog):
    def fail(ws):
        raise RuntimeError("a mistake")

    with served(fail) as (_, url), connect(url) as client:
        with pytest.raises(ConnectionClosedError) as closed:
            client.recv(5)
        assert closed.value.rcvd.code == 1011
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [RuntimeError]


def test_websockets_take_up_no_places_of_requests_and_end_with_the_server(monkeypatch):
    monkeypatch.setattr("karoo.web.server.MAX_CONNECTIONS", 2)
    with served(echo) as (server, url), ExitStack() as stack:
        clients = [stack.enter_context(connect(url)) for _ in range(5)]
        for client in clients:
            client.send("x")
            assert client.recv(5) == "x"
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
            sock.sendall(b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.1 400")
        server.stop()
        for client in clients:
            with pytest.raises(ConnectionClosed):
                client.recv(5)
