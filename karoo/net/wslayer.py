"""Lines over a WebSocket, as a layer of a connection: one line in each text message that is sent, one or several in
each that comes. Knows no Stratum. No I/O."""

from __future__ import annotations

from typing import Any

from geventwebsocket.exceptions import ProtocolError

from karoo.net.wsframes import (
    CLOSE,
    NO_CODE,
    PING,
    PONG,
    TEXT,
    Frames,
    Limits,
    close_code,
    close_payload,
    fault_of,
    frame,
)


class WebSocketLines:
    """The layer of a server, after the handshake. See `layers.Layer`.

    Pings and pongs count as empty lines, of which whoever reads lines bears only so many in a row.
    """

    __slots__ = ("_closed", "_frames", "_last_word", "_owed", "ended", "fault")

    probes = True

    def __init__(self, max_message: int) -> None:
        self._frames = Frames(Limits(max_frame=max_message, max_message=max_message, binary=False))
        self._owed: list[bytes] = []
        self._closed = False  # a close frame was sent
        self._last_word: bytes | None = None  # the close frame that answers the peer's, or its fault
        self.ended, self.fault = False, ""

    def decode(self, data: bytes) -> bytes:
        self._frames.feed(data)
        said: list[bytes] = []
        try:
            while not self.ended and (event := self._frames.next()) is not None:
                self._take(*event, said)
        except (ProtocolError, UnicodeError) as failure:
            code, why = fault_of(failure)
            self.ended, self.fault = True, f"WebSocket: {why}"
            self._last_word = close_payload(code, why)
        return b"".join(said)

    def _take(self, opcode: int, payload: Any, said: list[bytes]) -> None:
        """A message, or what the protocol itself says. Raises ProtocolError, UnicodeError."""
        if opcode == TEXT:
            said.append(payload.encode())
            if not payload.endswith("\n"):
                said.append(b"\n")
        elif opcode == CLOSE:
            code = close_code(payload)
            self._last_word = b"" if code == NO_CODE else payload[:2]
            self.ended = True
        else:
            said.append(b"\n")
            if opcode == PING and not self._closed:
                self._owed.append(frame(PONG, payload))

    def encode(self, data: bytes) -> bytes:
        if self._closed:
            return b""
        if not data.isascii():  # of a pool's message: a browser ends a WebSocket for a byte that is no UTF-8
            data = data.decode(errors="replace").encode()
        return b"".join([frame(TEXT, line + b"\n") for line in data.split(b"\n") if line])

    def replies(self) -> bytes:
        owed, self._owed = b"".join(self._owed), []
        return owed if self._last_word is None else owed + self._close(self._last_word)

    def probe(self) -> bytes:
        return b"" if self._closed else frame(PING, b"")

    def farewell(self, code: int, reason: str) -> bytes:
        return self._close(close_payload(code, reason) if self._last_word is None else self._last_word)

    def _close(self, payload: bytes) -> bytes:
        if self._closed:
            return b""
        self._closed = True
        return frame(CLOSE, payload)
