"""Attacks on TLS: handshakes that lead nowhere, and records that no library writes. See `abuse` for the table."""

from __future__ import annotations

import hmac
import os
import ssl
import tempfile
from itertools import cycle
from time import monotonic

import gevent
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from karoo.net.tls import ClientFiles, Tls, client_context
from karoo.pace import paced, pause
from karoo.sim.offender import BATCH, Crowd, Offender
from karoo.sim.via import Via
from karoo.stratum import messages

FULL_SPEED = 3.0  # seconds
UPDATES = 20_000  # of keys, on each connection
_TRUSTING = ClientFiles(verify=False)
_OVER_TLS = Via(tls=True, files=_TRUSTING)
_HANDSHAKE, _DATA = 22, 23  # types of content
_MOST = 16384  # bytes of content in a record
_SHA384 = 48  # bytes
_LOGIN = (messages.request(1, "mining.subscribe", ["abuse/1.0"])
          + messages.request(2, "mining.authorize", ["abuse.tls", "x"]))


def client_hello() -> bytes:
    """The first message of a handshake, as OpenSSL writes it."""
    outgoing = ssl.MemoryBIO()
    begun = client_context(_TRUSTING).wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    try:
        begun.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


# ---------------------------------------------------------------- handshakes

def get_stuck(crowd: Crowd, count: int, halves: list[bytes], whole: bytes) -> None:
    """So many connections: silent, with one of the halves, or with `whole` a byte at a time, by turns; each is held
    until it is cut."""
    kinds: list[bytes | None] = [b"", *halves, None]
    dribbling = []
    for offender, half in zip(crowd.connect_many(count), cycle(kinds), strict=False):
        if half is None:
            dribbling.append(offender)
        else:
            offender.send(half)
    for place in range(len(whole) - 1):
        dribbling = crowd.standing(dribbling)
        if crowd.over or not dribbling:
            break
        for offender in paced(dribbling, BATCH):
            offender.send(whole[place:place + 1])
        gevent.sleep(0.03)
    crowd.hold()


def stuck_handshakes(crowd: Crowd) -> None:
    """Nothing, half a ClientHello, one that is announced, one and then silence, one byte by byte."""
    hello = client_hello()
    get_stuck(crowd, crowd.many(200), [hello[:len(hello) // 2], hello[:5], hello], hello)


def dropped_handshakes(crowd: Crowd) -> None:
    """A ClientHello and a reset, as fast as it goes; by turns behind the answer, which costs a signature."""
    hello, until = client_hello(), min(crowd.until, monotonic() + FULL_SPEED)

    def begin(number: int) -> None:
        offender = crowd.connect()
        if offender is not None and monotonic() < until:
            offender.send(hello)
            if number % 2:
                offender.hear(monotonic() + 1.0)
            offender.reset()
            crowd.forget(offender)

    crowd.each(range(crowd.many(1500)), begin, at_once=8)


def done_handshakes(crowd: Crowd) -> None:
    """Whole handshakes, with nothing behind them."""
    until = min(crowd.until, monotonic() + FULL_SPEED)

    def shake(_number: int) -> None:
        if monotonic() < until and (offender := crowd.connect()) is not None:
            offender.enter(crowd.target.host, _OVER_TLS)
            crowd.forget(offender)

    crowd.each(range(crowd.many(400)), shake, at_once=8)


# ---------------------------------------------------------------- records

class Records:
    """A client's records of TLS 1.3, written by hand (RFC 8446, sections 5 and 7) with TLS_AES_256_GCM_SHA384."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != _SHA384:
            raise ValueError("another cipher was agreed on")
        self._take(secret)

    def _take(self, secret: bytes) -> None:
        self._secret, self._number = secret, 0
        self._key = AESGCM(_expand(secret, b"key", 32))
        self._start = int.from_bytes(_expand(secret, b"iv", 12), "big")

    def record(self, kind: int, content: bytes, padding: int = 0) -> bytes:
        """The next one; `padding` is a number of zeros, which count as nothing."""
        inner = content + bytes([kind]) + bytes(padding)
        head = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
        nonce = (self._start ^ self._number).to_bytes(12, "big")
        self._number += 1
        return head + self._key.encrypt(nonce, inner, head)

    def key_update(self, asks: bool) -> bytes:
        """From now on other keys; `asks`: the server is to change its own too, and say so."""
        data = self.record(_HANDSHAKE, b"\x18\0\0\x01" + bytes([asks]))
        self._take(_expand(self._secret, b"traffic upd", _SHA384))
        return data


def _expand(secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label with an empty context, of one block."""
    name = b"tls13 " + label
    return hmac.digest(secret, size.to_bytes(2, "big") + bytes([len(name)]) + name + b"\0\x01", "sha384")[:size]


def records_of(offender: Offender) -> Records:
    """Shake hands; what is sent from then on is written by hand, past the layer. Raises OSError, ValueError."""
    context = client_context(_TRUSTING)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with tempfile.NamedTemporaryFile("r") as secrets:
        context.keylog_filename = secrets.name
        offender.layer = tls = Tls(context, "localhost", server_side=False)
        offender.sock.settimeout(offender.step())
        tls.shake_hands(offender.sock)
        words = secrets.read().split()
    return Records(bytes.fromhex(words[words.index("CLIENT_TRAFFIC_SECRET_0") + 2]))


def key_updates(crowd: Crowd) -> None:
    """Before and after the login; with an answer asked for and not read, and with none."""
    def update(number: int) -> None:
        offender = crowd.connect()
        if offender is None:
            return
        records, asks = records_of(offender), number % 2 == 0
        if number % 4 >= 2:
            offender.send_raw(records.record(_DATA, _LOGIN))
        for _ in range(UPDATES // BATCH):
            if crowd.over or not offender.send_raw(b"".join([records.key_update(asks) for _ in range(BATCH)])):
                return
            pause()
        offender.wait_cut(min(crowd.until, monotonic() + 0.5))

    crowd.each(range(crowd.many(4)), update)


def empty_records(crowd: Crowd) -> None:
    """Records with nothing in them, short ones and with as much padding as they hold; before and after the login."""
    def send(number: int) -> None:
        offender = crowd.connect()
        if offender is None:
            return
        records, padding = records_of(offender), 0 if number % 2 else _MOST
        if number % 4 >= 2:
            offender.send_raw(records.record(_DATA, _LOGIN))
        for _ in range(100):
            if not offender.send_raw(b"".join([records.record(_DATA, b"", padding) for _ in range(20)])):
                return
            pause()
        offender.wait_cut(crowd.until)

    crowd.each(range(crowd.many(8)), send)


def partial_records(crowd: Crowd) -> None:
    """Records of the greatest size without their last byte; and announced ones that are too great."""
    def send(number: int) -> None:
        offender = crowd.connect()
        if offender is not None:
            whole = records_of(offender).record(_DATA, b" " * _MOST)
            offender.send_raw(whole[:-1] if number % 4 else b"\x17\x03\x03\xff\xff" + whole)
            offender.wait_cut(crowd.until)

    crowd.each(range(crowd.many(100)), send, at_once=100)


def garbage(crowd: Crowd) -> None:
    """After a handshake: what is no record, what is not encrypted, another handshake, a message out of place."""
    hello = client_hello()

    def send(number: int) -> None:
        offender = crowd.connect()
        if offender is None:
            return
        records = records_of(offender)
        kinds = [os.urandom(1000), b"GET / HTTP/1.1\r\n\r\n", hello, b"\x15\x03\x03\0\x02\x01\0",
                 b"\x14\x03\x03\0\x01\x01", records.record(_DATA, b"{}\n")[:-1] + b"x",
                 records.record(_HANDSHAKE, hello[5:]), records.record(_HANDSHAKE, b"\x01\xff\xff\xff"),
                 records.record(0, b"\0"), _LOGIN]
        offender.send_raw(kinds[number % len(kinds)])
        offender.wait_cut(crowd.until)

    crowd.each(range(crowd.many(50)), send)
