"""The frames of WebSockets (RFC 6455), the server's side: bytes in, messages out, within bounds. No I/O.

gevent-websocket reads and writes the headers of frames; it knows no bounds, and waits for what it reads.
"""

from __future__ import annotations

import codecs
import struct
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from geventwebsocket.exceptions import ProtocolError
from geventwebsocket.websocket import Header

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
NO_CODE, ABNORMAL = 1005, 1006  # never sent: the peer gave none; it left without a word

_OPCODES = frozenset((CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG))
_LONGEST_REASON = 123  # bytes
_MASK = 4  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a peer may do. Sizes are in bytes; a fragment is a frame of a message."""

    max_frame: int = 16384
    max_message: int = 65536
    max_fragments: int = 64
    max_backlog: int = 1 << 20  # that waits for the peer to read
    binary: bool = True  # whether binary messages are taken
    idle_seconds: float = 30.0  # without a whole frame: then it is pinged, and after as long again dropped
    write_seconds: float = 10.0  # for the peer to read all that waits for it
    close_seconds: float = 2.0  # for its part in closing


class TooBig(ProtocolError):
    """A frame or message beyond the limits."""


class Unsupported(ProtocolError):
    """A binary message where only text is taken."""


def unmask(payload: bytes, mask: bytes) -> bytes:
    """The payload with the four bytes of the mask taken off again: one XOR of two big integers."""
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")


def encode(message: str | bytes) -> bytes:
    """A message as a frame: text, or bytes as a binary one."""
    if isinstance(message, str):
        return frame(TEXT, message.encode())
    return frame(BINARY, message)


def frame(opcode: int, payload: bytes) -> bytes:
    """A whole frame of this side's, which is not masked."""
    return bytes(Header.encode_header(True, opcode, b"", len(payload), 0)) + payload


def close_payload(code: int, reason: str) -> bytes:
    """A close frame's; a reason that is too long is cut between two characters."""
    short = reason.encode(errors="replace")[:_LONGEST_REASON].decode("utf-8", "ignore")
    return struct.pack("!H", code) + short.encode()


def close_code(payload: bytes) -> int:
    """What a peer's close frame says; NO_CODE where it says nothing. Raises ProtocolError, UnicodeError."""
    if not payload:
        return NO_CODE
    code = int.from_bytes(payload[:2], "big")
    if len(payload) < 2 or not _is_valid_close_code(code):
        raise ProtocolError("no valid close code")
    payload[2:].decode()
    return code


def _is_valid_close_code(code: int) -> bool:
    """Whether a peer may say it: the protocol's, registered ones, and those of applications."""
    return (1000 <= code <= 1014 and code not in (1004, NO_CODE, ABNORMAL)) or 3000 <= code <= 4999


def fault_of(failure: Exception) -> tuple[int, str]:
    """Code and reason of the close that follows from what `Frames.next` raises."""
    if isinstance(failure, UnicodeError):
        return 1007, "invalid UTF-8"
    if isinstance(failure, TooBig):
        return 1009, str(failure)
    return (1003 if isinstance(failure, Unsupported) else 1002), str(failure)


class Frames:
    """What one peer sends, put together. ``count`` is the number of whole frames so far."""

    __slots__ = ("_at", "_buffer", "_decoder", "_limits", "_opcode", "_parts", "_size", "count")

    def __init__(self, limits: Limits, early: bytes = b"") -> None:
        self._limits = limits
        self._buffer, self._at = early, 0  # from where on it is not read yet
        self.count = 0
        self._opcode: int | None = None  # of the message that has begun
        self._parts: list[Any] = []
        self._size = 0
        self._decoder: Any = None

    def feed(self, data: bytes) -> None:
        """More bytes have come."""
        self._buffer, self._at = self._buffer[self._at:] + data, 0

    def next(self) -> tuple[int, Any] | None:
        """The next message (TEXT and a str, BINARY and bytes) or control frame (CLOSE, PING, PONG and its payload);
        None until more bytes come. Raises ProtocolError or UnicodeError, before it reads what is too much."""
        while (read := self._read_frame()) is not None:
            self.count += 1
            header, payload = read
            if header.opcode >= CLOSE:
                return header.opcode, payload
            message = self._gather(header, payload)
            if message is not None:
                return message
        return None

    def _gather(self, header: Header, payload: bytes) -> tuple[int, Any] | None:
        """The message that is whole with this frame."""
        if (header.opcode == CONTINUATION) == (self._opcode is None):
            raise ProtocolError("a frame out of turn")
        if self._opcode is None:
            self._opcode = header.opcode
            self._decoder = codecs.getincrementaldecoder("utf-8")() if header.opcode == TEXT else None
        self._size += len(payload)
        if self._size > self._limits.max_message:
            raise TooBig(f"a message of more than {self._limits.max_message} bytes")
        self._parts.append(self._decoder.decode(payload, header.fin) if self._decoder else payload)
        if not header.fin:
            if len(self._parts) >= self._limits.max_fragments:
                raise TooBig(f"a message in more than {self._limits.max_fragments} pieces")
            return None
        message = self._opcode, ("" if self._decoder else b"").join(self._parts)
        self._opcode, self._parts, self._size, self._decoder = None, [], 0, None
        return message

    def _read_frame(self) -> tuple[Header, bytes] | None:
        """The next frame's header, and its payload unmasked; None until it is all there."""
        start = self._at + self._header_size()
        if len(self._buffer) < start:
            return None
        header = Header.decode_header(BytesIO(self._buffer[self._at:start]))
        self._check(header)
        end = start + header.length
        if len(self._buffer) < end:
            return None
        payload, self._at = self._buffer[start:end], end
        return header, unmask(payload, header.mask)

    def _header_size(self) -> int:
        """How many bytes the next header takes, as far as the first two tell."""
        if len(self._buffer) < self._at + 2:
            return 2
        second = self._buffer[self._at + 1]
        return 2 + {126: 2, 127: 8}.get(second & 0x7F, 0) + (_MASK if second & 0x80 else 0)

    def _check(self, header: Header) -> None:
        if header.flags:
            raise ProtocolError("a reserved bit is set")
        if header.opcode not in _OPCODES:
            raise ProtocolError(f"unknown opcode {header.opcode}")
        if not header.mask:
            raise ProtocolError("a frame that is not masked")
        if header.length > self._limits.max_frame:
            raise TooBig(f"a frame of more than {self._limits.max_frame} bytes")
        if header.opcode == BINARY and not self._limits.binary:
            raise Unsupported("only text is taken here")
