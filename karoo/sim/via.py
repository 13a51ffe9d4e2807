"""The ways in which a simulated miner may come: plain, over TLS, over a WebSocket, behind a PROXY header."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from karoo.net.layers import Layer, Stacked
from karoo.net.tls import ClientFiles, Tls, client_context
from karoo.net.wsframes import CLOSE, CONTINUATION, PING, PONG, TEXT, close_payload, unmask

READ_SIZE = 4096
_SCHEMES = {"": (False, False), "tcp": (False, False), "stratum+tcp": (False, False), "stratum+ssl": (True, False),
            "stratum+tls": (True, False), "ssl": (True, False), "ws": (False, True), "wss": (True, True)}


@dataclass(frozen=True, slots=True)
class Via:
    """`header` goes before all else. With `tls` what `files` say is checked, against `server_name` (empty: the host).
    `origin` is what a browser would say."""

    tls: bool = False
    websocket: bool = False
    files: ClientFiles = ClientFiles()  # noqa: RUF009 - frozen
    server_name: str = ""
    header: bytes = b""
    origin: str = ""

    def enter(self, sock: Any, host: str) -> tuple[Layer | None, bytes]:
        """The layer of a connection that was just made, and what was heard already. Raises OSError."""
        if self.header:
            sock.sendall(self.header)
        layer: Layer | None = None
        early = b""
        if self.tls:
            layer = tls = Tls(client_context(self.files), self.server_name or host, server_side=False)
            early = tls.shake_hands(sock)
        if self.websocket:
            early = self._upgrade(sock, host, layer, early)
            lines = ClientLines()
            early = lines.decode(early)
            layer = lines if layer is None else Stacked(layer, lines)
        return layer, early

    def _upgrade(self, sock: Any, host: str, under: Layer | None, early: bytes) -> bytes:
        """Ask for a WebSocket; what came behind the answer. Raises ConnectionError."""
        origin = f"Origin: {self.origin}\r\n" if self.origin else ""
        request = (f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{origin}"
                   "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
                   f"{base64.b64encode(os.urandom(16)).decode()}\r\n\r\n").encode()
        sock.sendall(request if under is None else under.encode(request))
        while b"\r\n\r\n" not in early:
            data = sock.recv(READ_SIZE)
            if not data:
                raise ConnectionError("closed before the answer to the request for a WebSocket")
            early += data if under is None else under.decode(data)
        head, _, rest = early.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise ConnectionError(f"no WebSocket: {head.splitlines()[0]!r}")
        return rest


PLAIN = Via()


def parse_url(url: str, files: ClientFiles | None = None) -> tuple[str, int, Via]:
    """Host, port and way of `stratum+tcp://host:port`, `stratum+ssl://`, `ws://`, `wss://`, or `host:port`. Raises
    ValueError."""
    scheme, _, rest = url.rpartition("://")
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if scheme not in _SCHEMES or not host or not port or parts.path not in ("", "/"):
        raise ValueError(f"{url!r} is not stratum+tcp://host:port (or stratum+ssl://, ws://, wss://)")
    tls, websocket = _SCHEMES[scheme]
    return host, port, Via(tls, websocket, files or ClientFiles())


class ClientLines:
    """Lines over a WebSocket, on the client's side."""

    probes = False

    def __init__(self) -> None:
        self._buffer = b""
        self._owed: list[bytes] = []
        self._closed = False
        self.ended, self.fault = False, ""
        self.close_code = 0
        self.messages: list[bytes] = []

    def decode(self, data: bytes) -> bytes:
        self._buffer += data
        said = b""
        while (frame := self._next()) is not None:
            opcode, payload = frame
            if opcode in (TEXT, CONTINUATION):
                self.messages.append(payload)
                said += payload
            elif opcode == PING:
                self._owed.append(_masked(PONG, payload))
            elif opcode == CLOSE:
                self.close_code, self.ended = int.from_bytes(payload[:2], "big"), True
                self._owed.append(self.farewell(self.close_code or 1000, ""))
        return said

    def _next(self) -> tuple[int, bytes] | None:
        """A whole frame of the server's, which is not masked."""
        if len(self._buffer) < 2:
            return None
        size, start = self._buffer[1], 2
        if size > 125:
            start += 2 if size == 126 else 8
            size = int.from_bytes(self._buffer[2:start], "big")
        if len(self._buffer) < start + size:
            return None
        opcode, payload = self._buffer[0] & 15, self._buffer[start:start + size]
        self._buffer = self._buffer[start + size:]
        return opcode, payload

    def encode(self, data: bytes) -> bytes:
        return b"" if self._closed else _masked(TEXT, data)

    def replies(self) -> bytes:
        owed, self._owed = b"".join(self._owed), []
        return owed

    def probe(self) -> bytes:
        return b""

    def farewell(self, code: int, reason: str) -> bytes:
        if self._closed:
            return b""
        self._closed = True
        return _masked(CLOSE, close_payload(code, reason))


def _masked(opcode: int, payload: bytes) -> bytes:
    """A whole frame of a client's."""
    size, mask = len(payload), os.urandom(4)
    head = bytes([0x80 | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    else:
        head += b"\xfe" + size.to_bytes(2, "big") if size < 65536 else b"\xff" + size.to_bytes(8, "big")
    return head + mask + unmask(payload, mask)
