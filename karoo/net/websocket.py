"""WebSockets (RFC 6455), the server's side: gevent-websocket under bounds and deadlines, and with its close codes.
Knows neither what asks for them over HTTP (`wshandshake` answers that) nor what they carry."""

from __future__ import annotations

import codecs
import socket
import struct
from collections import deque
from dataclasses import dataclass
from time import monotonic
from types import SimpleNamespace
from typing import Any

import gevent
from geventwebsocket import websocket as library
from geventwebsocket.exceptions import ProtocolError, WebSocketError

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
READ_SIZE = 4096

_OPCODES = frozenset((CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG))
_NO_CODE, _ABNORMAL = 1005, 1006  # never sent: the peer gave none; it left without a word
_LONGEST_REASON = 123  # bytes
_LINGER_BYTES = 1 << 20


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
    """A message as a frame, which any number of WebSockets may `push`."""
    if isinstance(message, str):
        return _frame(TEXT, message.encode())
    return _frame(BINARY, message)


def _frame(opcode: int, payload: bytes) -> bytes:
    return bytes(library.Header.encode_header(True, opcode, b"", len(payload), 0)) + payload


class WebSocket(library.WebSocket):
    """The server's end over a connected gevent socket without TLS, after the handshake. `early` is what came behind it.

    One greenlet owns it: it calls `receive`, where pings are answered and the WebSocket's end is awaited. Everybody
    may `send`, `push` and `close`, which never wait. `closed` tells that nothing can be sent any more, and `close_code`
    then why: 1006 where the peer left without a word or had to be dropped.
    """

    def __init__(self, sock: Any, early: bytes = b"", limits: Limits | None = None) -> None:
        super().__init__(None, SimpleNamespace(read=self._read, write=self._write), None)
        self._sock = sock
        self._limits = limits or Limits()
        self._buffer = early
        self._heard_at, self._pinged = monotonic(), False
        self._backlog: deque[memoryview] = deque()
        self.backlog_bytes = 0
        self._writer: gevent.Greenlet | None = None
        self._closer: gevent.Greenlet | None = None
        self._ended = False
        self.close_code: int | None = None

    def __del__(self) -> None:
        """Where the library would begin to close, in the midst of whatever the collector interrupts."""

    # ------------------------------------------------------------------ reading

    def receive(self) -> str | bytes | None:
        """The next message, for which the running greenlet waits: text, or bytes of a binary one. None when the
        WebSocket has ended and its socket is closed."""
        try:
            while not self._ended:
                message = self.read_message()
                if message is None:
                    break
                if not self.closed:
                    return message
        except UnicodeError:
            self.close(1007, "invalid UTF-8")
        except TooBig as failure:
            self.close(1009, str(failure))
        except Unsupported as failure:
            self.close(1003, str(failure))
        except ProtocolError as failure:
            self.close(1002, str(failure))
        except OSError:
            if not self.closed:  # the peer left, or was dropped
                self.cut()
        if not self._ended:
            self._linger()
        return None

    def finish(self, code: int = 1000, reason: str = "") -> None:
        """Close, and wait until it is done; for the greenlet that receives."""
        self.close(code, reason)
        while self.receive() is not None:
            pass

    def read_message(self) -> str | bytes | None:
        """The next message; None when the peer closes. Raises UnicodeError, ProtocolError, OSError."""
        opcode, size = None, 0
        parts: list[Any] = []
        decoder = codecs.getincrementaldecoder("utf-8")()
        while True:
            frame, payload = self.read_frame()
            if frame.opcode >= CLOSE:
                if frame.opcode == CLOSE:
                    self.handle_close(frame, payload)
                    return None
                if frame.opcode == PING and not self.closed:
                    self._write(_frame(PONG, payload))
                continue
            if (frame.opcode == CONTINUATION) == (opcode is None):
                raise ProtocolError("a frame out of turn")
            if opcode is None:
                opcode = frame.opcode
            size += len(payload)
            if size > self._limits.max_message:
                raise TooBig(f"a message of more than {self._limits.max_message} bytes")
            parts.append(decoder.decode(payload, frame.fin) if opcode == TEXT else payload)
            if frame.fin:
                return "".join(parts) if opcode == TEXT else b"".join(parts)
            if len(parts) >= self._limits.max_fragments:
                raise TooBig(f"a message in more than {self._limits.max_fragments} pieces")

    def read_frame(self) -> tuple[library.Header, bytes]:
        """The next frame's header, and its payload unmasked. Raises ProtocolError before it reads what is too much."""
        frame = library.Header.decode_header(self.stream)
        if frame.flags:
            raise ProtocolError("a reserved bit is set")
        if frame.opcode not in _OPCODES:
            raise ProtocolError(f"unknown opcode {frame.opcode}")
        if not frame.mask:
            raise ProtocolError("a frame that is not masked")
        if frame.length > self._limits.max_frame:
            raise TooBig(f"a frame of more than {self._limits.max_frame} bytes")
        if frame.opcode == BINARY and not self._limits.binary:
            raise Unsupported("only text is taken here")
        payload = unmask(self._read(frame.length), frame.mask)
        self._heard_at, self._pinged = monotonic(), False
        return frame, payload

    def handle_close(self, header: library.Header, payload: bytes) -> None:
        """The peer closes, or answers that this side does. Raises ProtocolError, UnicodeError."""
        code = _NO_CODE
        if payload:
            code = int.from_bytes(payload[:2], "big")
            if len(payload) < 2 or not self._is_valid_close_code(code):
                raise ProtocolError("no valid close code")
            payload[2:].decode()
        if not self.closed:
            self._begin_to_close(code, payload[:2])

    def _is_valid_close_code(self, code: int) -> bool:
        """Whether a peer may say it: the protocol's, registered ones, and those of applications."""
        return (1000 <= code <= 1014 and code not in (1004, _NO_CODE, _ABNORMAL)) or 3000 <= code <= 4999

    def _read(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._fill()
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def _fill(self) -> None:
        """Wait for some bytes. Raises WebSocketError at the end of the stream, OSError when this side closed."""
        while True:
            patience = self._limits.idle_seconds * (2 if self._pinged else 1)
            try:
                data = self._receive_within(self._heard_at + patience - monotonic())
            except TimeoutError:
                if self._pinged:
                    self._write(_frame(CLOSE, _close_payload(1001, "no answer to a ping")))
                    raise WebSocketError("no answer to a ping") from None
                self._pinged = True
                self._write(_frame(PING, b""))
                continue
            if not data:
                raise WebSocketError("the peer left")
            self._buffer += data
            return

    def _receive_within(self, seconds: float) -> bytes:
        """Waits before it reads, even where there is something: a peer that never pauses would have all others wait."""
        self._sock.settimeout(max(seconds, 1e-3))
        self._sock._wait(self._sock._read_event)
        return self._sock.recv(READ_SIZE)  # type: ignore[no-any-return]

    # ------------------------------------------------------------------ writing

    def send(self, message: str | bytes, binary: bool | None = None) -> None:
        """Send a message, text or bytes, without ever waiting; nothing happens where the WebSocket is closed."""
        self.push(encode(message))

    def push(self, frame: bytes) -> None:
        """Send what `encode` made, likewise."""
        if not self.closed:
            self._write(frame)

    def _write(self, data: bytes) -> None:
        if self._ended:
            return
        sent = 0
        if self._writer is None:
            try:
                sent = self._sock.send(data, 0, 0.0)
            except BlockingIOError:
                pass
            except OSError:
                self.cut()
                return
            if sent == len(data):
                return
        self._backlog.append(memoryview(data)[sent:])
        self.backlog_bytes += len(data) - sent
        if self.backlog_bytes > self._limits.max_backlog:
            self.cut()
        elif self._writer is None:
            self._writer = gevent.spawn(self._write_backlog)

    def _write_backlog(self) -> None:
        """Lives while there is a backlog."""
        try:
            with gevent.Timeout(self._limits.write_seconds, TimeoutError):
                while self._backlog:
                    # gevent's send would wait as long as the socket's timeout says, which is the reader's.
                    gevent.get_hub().wait(self._sock._write_event)
                    self._write_some()
        except OSError:
            self._writer = None  # it need not be ended
            self.cut()
        finally:
            self._writer = None

    def _write_some(self) -> None:
        """As much of the first piece as the socket takes."""
        try:
            sent = self._sock.send(self._backlog[0], 0, 0.0)
        except BlockingIOError:
            return
        self.backlog_bytes -= sent
        rest = self._backlog.popleft()[sent:]
        if rest:
            self._backlog.appendleft(rest)

    # ------------------------------------------------------------------ closing

    def close(self, code: int = 1000, message: str = "") -> None:
        """Begin to close; never waits: `receive` sees to the rest, and a deadline to a peer that does not answer."""
        if not self.closed:
            self._begin_to_close(code, _close_payload(code, message))

    def _begin_to_close(self, code: int, payload: bytes) -> None:
        self.closed = True
        self.close_code = code
        self._write(_frame(CLOSE, payload))
        if not self._ended:
            self._closer = gevent.spawn_later(self._limits.close_seconds, self.cut)

    def cut(self) -> None:
        """Close the socket at once."""
        if self._ended:
            return
        self._ended = self.closed = True
        if self.close_code is None:
            self.close_code = _ABNORMAL
        for greenlet in (self._closer, self._writer):
            if greenlet is not None and greenlet is not gevent.getcurrent():
                greenlet.kill(block=False)
        self._closer = None
        self._backlog.clear()
        self.backlog_bytes = 0
        self._sock.close()
        self.stream = self.raw_read = self.raw_write = None  # they refer back to this

    def _linger(self) -> None:
        """Let the peer read what it was told last, and close first: to close over bytes that were not read would reset
        the connection. The deadline of closing counts."""
        left = _LINGER_BYTES
        try:
            if self._writer is not None:
                self._writer.join()
            self._sock.shutdown(socket.SHUT_WR)
            while left > 0 and (data := self._receive_within(self._limits.close_seconds)):
                left -= len(data)
        except OSError:
            pass
        self.cut()


def _close_payload(code: int, reason: str) -> bytes:
    """A close frame's; a reason that is too long is cut between two characters."""
    short = reason.encode()[:_LONGEST_REASON].decode("utf-8", "ignore")
    return struct.pack("!H", code) + short.encode()
