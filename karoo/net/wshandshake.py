"""The handshake that makes a WebSocket of an HTTP request (RFC 6455, section 4.2), the server's side. No I/O."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Collection
from http import HTTPStatus

from geventwebsocket.handler import WebSocketHandler

from karoo.net.httphead import Refusal, parse_head

SUBPROTOCOL = "stratum"  # of those that a client may offer


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


def answer(head: bytes, origins: Collection[str]) -> bytes:
    """The 101 with which the connection of a request, whose whole head this is, becomes a WebSocket. Pages that come
    from none of the `origins` (in lower case; "*": all) are refused, programs that name none are not. Raises
    HandshakeError."""
    try:
        request = parse_head(head)
    except Refusal as fault:
        raise HandshakeError(int(fault.status[:3]), f"{str(fault)[:1].upper()}{str(fault)[1:]}.") from None

    def field(name: str) -> str | None:
        """All lines of a header, some of which may come more than once."""
        lines = request.headers.get_all(name)
        return None if lines is None else ", ".join(lines)

    origin = field("Origin")
    if origin is not None and "*" not in origins and origin.strip().lower() not in origins:
        raise HandshakeError(403, f"Pages of {origin.strip()[:200]} are not let in: it is not among the origins.")
    headers = handshake(request.method, field)
    if SUBPROTOCOL in [name.strip() for name in (field("Sec-WebSocket-Protocol") or "").split(",")]:
        headers.append(("Sec-WebSocket-Protocol", SUBPROTOCOL))
    return _response(101, headers)


def refusal(error: HandshakeError) -> bytes:
    """The answer to a request that cannot become a WebSocket."""
    text = f"{error}\n".encode("ascii", "replace")
    return _response(error.status, [
        ("Content-Type", "text/plain"), ("Content-Length", str(len(text))), ("Sec-WebSocket-Version", "13"),
        ("Connection", "close")]) + text


def _response(status: int, headers: list[tuple[str, str]]) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")
