"""The handshake that makes a WebSocket of an HTTP request (RFC 6455, section 4.2), the server's side. No I/O."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable

from geventwebsocket.handler import WebSocketHandler


class HandshakeError(Exception):
    """A request that cannot become a WebSocket; `status` is HTTP's."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def handshake(method: str, header: Callable[[str], str | None]) -> list[tuple[str, str]]:
    """The headers that, under status 101, make a WebSocket of a request whose headers `header` looks up by name.
    Raises HandshakeError."""
    words = [word.strip().lower() for word in (header("Connection") or "").split(",")]
    if "upgrade" not in words or (header("Upgrade") or "").lower() != "websocket":
        raise HandshakeError(426, "This address is for WebSockets only.")
    if method != "GET":
        raise HandshakeError(400, "A WebSocket begins with a GET.")
    if header("Sec-WebSocket-Version") != "13":
        raise HandshakeError(426, "Only version 13 of WebSockets is known here.")
    key = (header("Sec-WebSocket-Key") or "").strip()
    try:
        size = len(base64.b64decode(key, validate=True))
    except (binascii.Error, ValueError):  # the latter: not ASCII
        size = 0
    if size != 16:
        raise HandshakeError(400, "The Sec-WebSocket-Key is not one of 16 bytes.")
    accept = base64.b64encode(hashlib.sha1((key + WebSocketHandler.GUID).encode()).digest()).decode()
    return [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept)]
