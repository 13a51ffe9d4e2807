"""Attacks on what goes before a miner's first line, and around it: PROXY headers, requests for a WebSocket, its frames.
See `abuse` for the table."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain, repeat

from karoo.net.proxyheader import SIGNATURE
from karoo.net.wsframes import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT
from karoo.sim.abusetls import client_hello, get_stuck
from karoo.sim.offender import Crowd, Offender
from karoo.stratum import messages

_REQUEST = (b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n")
_HEADER = b"PROXY TCP4 127.0.0.1 127.0.0.1 1000 1001\r\n"
_HEADER_V2 = SIGNATURE + b"\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01\x03\xe8\x03\xe9"
_MESSAGE = messages.request(1, "mining.no_such_method", [])


def stuck_headers(crowd: Crowd) -> None:
    """PROXY headers that do not end: half ones, announced ones, too long ones, some byte by byte."""
    get_stuck(crowd, crowd.many(200), [
        b"PROXY TCP4 127.0.0.1", b"PROXY UNKNOWN " + b"x" * 80, b"PROXY UNKNOWN " + b"x" * 200, SIGNATURE[:7],
        SIGNATURE, SIGNATURE + b"\x21\x11\xff\xff", SIGNATURE + b"\x21\x11\x0f\xa0",
        SIGNATURE + b"\x20\0\x0f\xa0" + bytes(3999),
    ], _HEADER)


def stuck_requests(crowd: Crowd) -> None:
    """Requests that do not end: half ones, endless headers, endlessly many, some byte by byte."""
    get_stuck(crowd, crowd.many(200), [
        _REQUEST[:10], _REQUEST[:-1], b"GET / HTTP/1.1\r\nX: " + b"x" * 9000,
        b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 1000, b"GET /" + b"x" * 8000,
        _REQUEST[:-2] + b"Content-Length: 1000000\r\n",
    ], _REQUEST)


def frames(crowd: Crowd) -> None:
    """Each way to break the rules of WebSockets, or to keep them to no purpose."""
    kinds = _kinds()

    def send(number: int) -> None:
        offender = crowd.connect()
        if offender is None or not offender.send(_REQUEST):
            return
        offender.hear(crowd.until)
        offender.flood(kinds[number % len(kinds)])
        offender.wait_cut(crowd.until)

    crowd.each(range(crowd.many(len(kinds))), send)


def _kinds() -> list[list[bytes]]:
    """What is sent over a WebSocket, each by a connection of its own."""
    piece, ping = frame(CONTINUATION, b"x", fin=False), frame(PING, b"p" * 125)
    never = frame(TEXT, b" " * 16384)[:-1]
    return [
        [frame(TEXT, b"", announced=1 << 40), *[b"x" * 65536] * 20], [frame(TEXT, b"", announced=(1 << 64) - 1)],
        [frame(BINARY, b"", announced=1 << 40)], [frame(TEXT, b"x" * 65535)], [never], [never[:1]], [never[:9]],
        [frame(TEXT, b"x", fin=False), *[piece] * 5000],
        [frame(TEXT, b"x" * 16000, fin=False), *[frame(CONTINUATION, b"x" * 16000, fin=False)] * 50],
        [piece], [frame(TEXT, b"x", fin=False), frame(TEXT, b"x")], [frame(CONTINUATION, b"x")],
        [b"\x81\x02{}"], [b"\x81\0"] * 1000, [ping] * 5000, [frame(PING, b"")] * 5000, [frame(PONG, b"")] * 5000,
        [frame(PING, b"p" * 126)], [frame(PING, b"", fin=False)], [frame(TEXT, b"")] * 5000,
        [frame(TEXT, b"\n" * 16000)] * 100, [frame(TEXT, b"", fin=False), frame(CONTINUATION, b"")] * 5000,
        [b"".join(_in_pieces(63))] * 2000, [frame(TEXT, b" ")] * 5000,
        [frame(BINARY, _MESSAGE)], [frame(TEXT, _MESSAGE, flags=0x40)], [frame(TEXT, _MESSAGE, flags=0x30)],
        [frame(PING, b"", flags=0x40)], [frame(3, b"")], [frame(15, b"")], [frame(TEXT, b"\xff\xfe")],
        [frame(TEXT, b"\xed\xa0\x80")], [frame(TEXT, b"\xe2\x82", fin=False), frame(CONTINUATION, b"x")],
        [frame(CLOSE, b"\x03")], [frame(CLOSE, b"\x03\xed")], [frame(CLOSE, b"\x03\xe8\xff")],
        [frame(CLOSE, b"\x03\xe8"), *[ping] * 1000], [frame(CLOSE, b"")], [_MESSAGE], [os.urandom(5000)],
        [frame(TEXT, b"[" * 16000)] * 30, [frame(TEXT, b"{}\n" * 5000)] * 20,
    ]


def _in_pieces(count: int) -> Iterator[bytes]:
    """An empty message in so many empty pieces."""
    return chain([frame(TEXT, b"", fin=False)], repeat(frame(CONTINUATION, b"", fin=False), count - 2),
                 [frame(CONTINUATION, b"")])


def frame(opcode: int, payload: bytes, fin: bool = True, flags: int = 0, announced: int | None = None) -> bytes:
    """A client's frame, with a mask that changes nothing. `announced` is the size that it tells, where that is not the
    payload's."""
    size = len(payload) if announced is None else announced
    head = bytes([0x80 * fin | flags | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    else:
        head += b"\xfe" + size.to_bytes(2, "big") if size < 65536 else b"\xff" + size.to_bytes(8, "big")
    return head + bytes(4) + payload


def misplaced(crowd: Crowd) -> None:
    """What belongs to another port, or to no port of a mining proxy."""
    hello = client_hello()
    kinds = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n{}\n{}\n{}\n",
        _REQUEST, hello, hello[:100], _HEADER, _HEADER_V2, b"PROXY TCP4 no addresses\r\n", SIGNATURE + bytes(100),
        b"SSH-2.0-OpenSSH_9.2\r\n", b"\0" * 5000, b"\xff" * 5000, os.urandom(5000), b"\n" * 5000, b"A" * 60_000,
        b"\x80\x2e\x01\x03\x01", b"\x16\x03\x01\xff\xff", frame(TEXT, _MESSAGE), b"CONNECT a:1 HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x05\x01\0", _MESSAGE, b"{\n" * 100,
    ]

    def send(number: int) -> None:
        offender = crowd.connect()
        if offender is not None:
            _say(offender, kinds[number % len(kinds)])
            offender.wait_cut(crowd.until)

    crowd.each(range(crowd.many(2 * len(kinds))), send, at_once=2 * len(kinds))


def _say(offender: Offender, data: bytes) -> None:
    """In two pieces, as the network may do it."""
    offender.send(data[:3])
    offender.send(data[3:])
