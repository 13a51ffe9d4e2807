"""A WebSocket that a greenlet has for itself, as open pages do: the frames of `wsframes` under deadlines, and closed in
order. Knows neither what asks for it over HTTP (`wshandshake` answers that) nor what it carries."""

from __future__ import annotations

import socket
from collections import deque
from time import monotonic
from typing import Any

import gevent
from geventwebsocket.exceptions import ProtocolError, WebSocketError

from karoo.net.wsframes import ABNORMAL, CLOSE, PING, PONG, Frames, Limits, close_code, close_payload, encode, fault_of
from karoo.net.wsframes import frame as _frame

READ_SIZE = 4096

_LINGER_BYTES = 1 << 20


class WebSocket:
    """The server's end over a connected gevent socket without TLS, after the handshake. `early` is what came behind it.

    One greenlet owns it: it calls `receive`, where pings are answered and the WebSocket's end is awaited. Everybody
    may `send`, `push` and `close`, which never wait. `closed` tells that nothing can be sent any more, and `close_code`
    then why: 1006 where the peer left without a word or had to be dropped.
    """

    def __init__(self, sock: Any, early: bytes = b"", limits: Limits | None = None) -> None:
        self.closed = False
        self._sock = sock
        self._limits = limits or Limits()
        self._frames = Frames(self._limits, early)
        self._heard_at, self._pinged = monotonic(), False
        self._backlog: deque[memoryview] = deque()
        self.backlog_bytes = 0
        self._writer: gevent.Greenlet | None = None
        self._closer: gevent.Greenlet | None = None
        self._ended = False
        self.close_code: int | None = None

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
        except (UnicodeError, ProtocolError) as failure:
            self.close(*fault_of(failure))
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
        while True:
            seen = self._frames.count
            event = self._frames.next()
            if self._frames.count != seen:
                self._heard_at, self._pinged = monotonic(), False
            if event is None:
                self._fill()
                continue
            opcode, payload = event
            if opcode == CLOSE:
                self._on_close(payload)
                return None
            if opcode == PING:
                if not self.closed:
                    self._write(_frame(PONG, payload))
            elif opcode != PONG:
                return payload  # type: ignore[no-any-return]

    def _on_close(self, payload: bytes) -> None:
        """The peer closes, or answers that this side does. Raises ProtocolError, UnicodeError."""
        code = close_code(payload)
        if not self.closed:
            self._begin_to_close(code, payload[:2])

    def _fill(self) -> None:
        """Wait for some bytes. Raises WebSocketError at the end of the stream, OSError when this side closed."""
        while True:
            patience = self._limits.idle_seconds * (2 if self._pinged else 1)
            try:
                data = self._receive_within(self._heard_at + patience - monotonic())
            except TimeoutError:
                if self._pinged:
                    self._write(_frame(CLOSE, close_payload(1001, "no answer to a ping")))
                    raise WebSocketError("no answer to a ping") from None
                self._pinged = True
                self._write(_frame(PING, b""))
                continue
            if not data:
                raise WebSocketError("the peer left")
            self._frames.feed(data)
            return

    def _receive_within(self, seconds: float) -> bytes:
        """Waits before it reads, even where there is something: a peer that never pauses would have all others wait."""
        self._sock.settimeout(max(seconds, 1e-3))
        self._sock._wait(self._sock._read_event)
        return self._sock.recv(READ_SIZE)  # type: ignore[no-any-return]

    # ------------------------------------------------------------------ writing

    def send(self, message: str | bytes) -> None:
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
            self._begin_to_close(code, close_payload(code, message))

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
            self.close_code = ABNORMAL
        for greenlet in (self._closer, self._writer):
            if greenlet is not None and greenlet is not gevent.getcurrent():
                greenlet.kill(block=False)
        self._closer = None
        self._backlog.clear()
        self.backlog_bytes = 0
        self._sock.close()

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
