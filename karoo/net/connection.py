"""A line connection: capped line reader, non-blocking write, bounded backlog. Knows no Stratum.

A connection is read in one of two ways: by a greenlet that waits in `read_line`, or by the loop, which
calls whoever `serve`s it for each packet. The latter costs neither a greenlet (8 kB) nor two switches a packet.
TLS and WebSocket are a layer (see `layers`) between the socket and all of that.

What is pushed goes straight to the socket; only what the socket does not take is queued, for a writer
greenlet that lives while the backlog does.
"""

from __future__ import annotations

import errno
import socket as stdlib_socket
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
from gevent import get_hub, getcurrent

from karoo.net.layers import Garbled, Layer
from karoo.net.outbox import Outbox
from karoo.units import place

_LINGER_SECONDS, _LINGER_BYTES = 1.0, 1 << 20
_EMPTY_LINES, _WORTH = 64, 4  # empty lines that are borne; for how many another line makes up
PROBE_AFTER = 30.0  # seconds of silence after which a WebSocket is pinged, and for its answer
_LAYERED = 16384  # bytes that are read at once through a layer: to decode them takes time
NORMAL, GOING_AWAY, POLICY, TRY_AGAIN = 1000, 1001, 1008, 1013  # codes with which a WebSocket is closed
MAPPED = "::ffff:"  # before an IPv4 address, as a socket for IPv6 has it
_OPEN_STATES = (1, 2, 3)  # ESTABLISHED, SYN_SENT, SYN_RECV of <netinet/tcp.h>


class LineTooLong(Exception):
    """The peer sent more bytes without a line ending than are allowed."""


class Connection:
    """One peer over a connected gevent socket, whose bytes go through `layer` where there is one.

    ``opened_at``, ``last_heard`` and ``last_sent`` are monotonic seconds. ``cut_reason`` says why this side
    closed it (None while open, or when the peer did). A connection has one reader; anybody may push. `address` is the
    peer's, as accept() gave it; `early` is what it has said already, decoded. Raises LineTooLong.
    """

    __slots__ = ("_alive_at", "_backlog", "_backlog_bytes", "_empty", "_gathered", "_in_turn", "_layer", "_lines",
                 "_max_backlog", "_max_line", "_on_packet", "_outbox", "_partial", "_probed_at", "_raw", "_read_size",
                 "_readable", "_reader", "_sock", "_writer", "closed", "cut_reason", "descriptor", "last_heard",
                 "last_sent", "opened_at", "peer")

    def __init__(self, sock: Any, max_line: int = 16384, max_backlog: int = 262144, read_size: int = 4096,
                 outbox: Outbox | None = None, address: Any = None, layer: Layer | None = None,
                 early: bytes = b"") -> None:
        self._sock = sock
        self.descriptor: int = sock.fileno()
        self._raw: Any = sock._sock  # below gevent, which would only add system calls
        self._layer = layer
        self._alive_at, self._probed_at = monotonic(), 0.0  # for a layer that probes
        self._outbox = outbox or Outbox()
        self._readable = sock._read_event  # the socket's own watcher, which stays started from read to read
        self._reader: Any = None  # the greenlet that waits for it
        self._on_packet: Callable[[], object] | None = None  # who is called by the loop where no greenlet waits
        self._in_turn = False  # the reader works on lines, and will come back to write what was gathered meanwhile
        self._max_line, self._max_backlog = max_line, max_backlog
        self._read_size = read_size if layer is None else min(read_size, _LAYERED)
        self._partial = b""
        self._lines: list[bytes] = []  # read and not yet handed out, the next one last
        self._empty = 0  # empty lines since the last other one
        self._gathered: list[bytes] = []
        self._backlog: deque[bytes] | None = None
        self._backlog_bytes = 0
        self._writer: gevent.Greenlet | None = None
        self.closed = False
        self.cut_reason: str | None = None
        self.opened_at = self.last_heard = self.last_sent = monotonic()
        self.peer = peer_name(sock, address)
        if early:
            self._split(early)

    @property
    def host(self) -> str:
        """The peer's address without its port; empty where it has none."""
        return host_of(self.peer)

    @property
    def has_layer(self) -> bool:
        """It is not plain."""
        return self._layer is not None

    @property
    def heard(self) -> bool:
        """Whether the peer ever said anything."""
        return self.last_heard > self.opened_at

    @property
    def begins_tls(self) -> bool:
        """What it said last looks like the first message of a TLS handshake, of which no layer knows here."""
        return self._partial[:2] == b"\x16\x03"

    @property
    def backlog_bytes(self) -> int:
        """Bytes that wait for the peer to read."""
        return self._backlog_bytes

    # ------------------------------------------------------------------ reading

    def read_line(self) -> bytes | None:
        """The next line, for which the running greenlet waits; None at the end of the stream. Raises LineTooLong,
        Garbled."""
        while not self.closed:
            line = self.next_line()
            if line is not None:
                self._in_turn = True
                return line
            self.pause()
            if not (self._has_ended or self._wait()) or not self.receive():
                break
        return None

    def serve(self, on_packet: Callable[[], object]) -> None:
        """From now on `on_packet` is called whenever there is something to read, or the connection is closed. It is to
        call `receive` and then `next_line` until that has none, and `hold` at the end. It must not wait for anything:
        the loop itself calls it. Where lines are there already it calls `next_line` first."""
        self._on_packet = on_packet
        if self.closed:
            get_hub().loop.run_callback(self._on_readable)
        elif not self._readable.active:
            self._readable.start(self._on_readable)
        if self._lines or self._has_ended:
            get_hub().loop.run_callback(self._on_readable)

    def hold(self) -> None:
        """Nobody is called for further packets, until somebody serves again."""
        self._on_packet = None

    def receive(self) -> bool:
        """Read what is there, once and without waiting; False at the end of the stream. Raises LineTooLong, Garbled."""
        if self.closed or self._has_ended:
            return self._end()
        try:
            data = self._raw.recv(self._read_size)
        except BlockingIOError:
            return True
        except OSError:  # reset by the peer, timed out, or closed on this side
            return False
        if not data:
            return False
        if self._layer is not None:
            self._alive_at = monotonic()
            data = self._layer.decode(data)
            if not data.strip(b"\n"):  # pings and pongs, which any idle program answers
                self._split(data)
                return not self._has_ended or self._end()
        self.last_heard = monotonic()
        self._split(data)
        return True

    @property
    def _has_ended(self) -> bool:
        """The layer has come to its end, whatever the socket still brings."""
        return self._layer is not None and self._layer.ended

    def _end(self) -> bool:
        """Nothing more comes: False, where the peer took its leave. Raises Garbled where it cannot be understood."""
        if self._layer is not None and self._layer.fault and not self.closed:
            raise Garbled(self._layer.fault)
        return False

    def _split(self, data: bytes) -> None:
        """Lines of what was read. Raises LineTooLong."""
        if self._partial:
            data = self._partial + data
        lines = data.split(b"\n")
        self._partial = lines.pop()
        if len(data) > self._max_line and max(map(len, (*lines, self._partial))) > self._max_line:
            self._partial = b""
            raise LineTooLong(f"a line of more than {self._max_line} bytes")
        lines.reverse()
        self._lines = lines if not self._lines else lines + self._lines

    def next_line(self) -> bytes | None:
        """The next line of those received, without its line feed; None when there is none. Empty lines are passed over,
        but where there are many more of them than others one is handed out."""
        while self._lines and not self.closed:
            line = self._lines.pop()
            if line and line != b"\r":
                if self._empty:
                    self._empty = max(0, self._empty - _WORTH)
                return line
            self._empty += 1
            if self._empty >= _EMPTY_LINES:
                self._empty = 0
                return b""
        return None

    @property
    def has_lines(self) -> bool:
        """Lines were received that are not handed out yet."""
        return bool(self._lines)

    def put_back(self, line: bytes) -> None:
        """Let this line be the next one again."""
        self._lines.append(line)

    def pause(self) -> None:
        """The reader is about to wait for something: write what it has gathered, and behind that what the layer owes:
        who asks for an end, or has left already, is answered first."""
        self._in_turn = False
        if self._gathered:
            self.flush()
        if self._layer is not None and not self.closed and (owed := self._layer.replies()):
            self._write(owed, encoded=True)

    def peer_left(self) -> bool:
        """Whether the peer has closed its side, also behind lines that were not read yet (only Linux tells)."""
        if self.closed:
            return True
        try:
            return self._sock.getsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_INFO, 1)[0] not in _OPEN_STATES
        except (OSError, AttributeError):
            return False

    def _wait(self) -> bool:
        """Wait until there is something to read; False when this side closed meanwhile.

        gevent's own recv begins with a system call that mostly fails; waiting first saves 3 us. As `hub.wait` would,
        which starts and stops the watcher each time: that costs 2 us more.
        """
        if self.closed:  # perhaps by the very flush before: nobody would wake us
            return False
        if not self._readable.active:
            self._readable.start(self._on_readable)
        self._reader = getcurrent()
        try:
            get_hub().switch()
        finally:
            self._reader = None
        return not self.closed

    def _on_readable(self) -> None:
        """Called by the loop: something came, or this side closed. Where nobody reads now the watcher is stopped, and
        whoever reads next starts it again."""
        if self._reader is not None:
            self._reader.switch()
        elif self._on_packet is not None:
            self._in_turn = True
            try:
                self._on_packet()
            finally:
                self.pause()
                if self._has_ended and self._on_packet is not None and not self.closed:
                    get_hub().loop.run_callback(self._on_readable)  # the socket may not tell of it
        elif not self.closed:
            self._readable.stop()

    # ------------------------------------------------------------------ writing

    def push(self, data: bytes) -> None:
        """Write now, behind all that was pushed before, without ever waiting."""
        if self._gathered:
            self._gathered.append(data)
            self.flush()
        elif not self.closed:
            self._write(data)

    def push_soon(self, data: bytes) -> None:
        """Write when whoever runs now pauses, in one piece with all that it pushes until then."""
        if not self._gathered and not self._in_turn:
            self._outbox.add(self)
        self._gathered.append(data)

    def flush(self) -> None:
        """Write what was gathered."""
        if self._gathered:
            data = b"".join(self._gathered) if len(self._gathered) > 1 else self._gathered[0]
            self._gathered = []
            if not self.closed:
                self._write(data)

    def _write(self, data: bytes, encoded: bool = False) -> None:
        """Write behind all that waits. `encoded`: past the layer."""
        self.last_sent = monotonic()
        if self._layer is not None and not encoded:
            data = self._layer.encode(data)
            if not data:  # it has ended
                get_hub().loop.run_callback(self._on_readable)
                return
        if self._writer is not None:
            self._queue(data)
            return
        try:
            sent = self._raw.send(data)
        except OSError as failure:
            sent = -(failure.errno or errno.EIO)
        if sent != len(data):
            self.was_sent(data, sent)

    @property
    def is_idle(self) -> bool:
        """Nothing waits to be written, so that somebody else may write to `descriptor` in its place."""
        return not (self.closed or self._gathered) and self._writer is None and self._layer is None

    def was_sent(self, data: bytes, sent: int) -> None:
        """Of `data` only so many bytes were written to the socket, or none because of an error (minus its errno)."""
        if sent >= 0:
            self._queue(data[sent:])
        elif sent in (-errno.EAGAIN, -errno.EWOULDBLOCK):
            self._queue(data)
        else:
            self.close()

    def _queue(self, data: bytes) -> None:
        if self._backlog is None:
            self._backlog = deque()
        self._backlog.append(data)
        self._backlog_bytes += len(data)
        if self._backlog_bytes > self._max_backlog:
            self.close("it does not read what it is sent")
        elif self._writer is None:
            self._writer = gevent.spawn(self._write_backlog)

    def _write_backlog(self) -> None:
        try:
            while self._backlog and not self.closed:
                data = self._backlog[0]
                self._sock.sendall(data)
                if self._backlog:  # close() may have emptied it meanwhile
                    self._backlog.popleft()
                    self._backlog_bytes -= len(data)
        except OSError:
            self.close()
        finally:
            self._writer = None
            self._backlog = None
            self._backlog_bytes = 0

    def watch(self, now: float) -> None:
        """Now and then: ask a peer that is silent whether it is still there, where the layer has a word for that, and
        close where it does not answer."""
        if self.closed or self._layer is None or not self._layer.probes or now - self._alive_at < PROBE_AFTER:
            return
        if self._probed_at <= self._alive_at:
            self._probed_at = now
            self._write(self._layer.probe(), encoded=True)
        elif now - self._probed_at > PROBE_AFTER:
            self.close("it does not answer a ping", GOING_AWAY)

    # ------------------------------------------------------------------ closing

    def linger(self, code: int = NORMAL, reason: str = "") -> None:
        """Before a close: let the peer read what it was told last. Waits for it a second at most. `code` is for
        WebSockets.

        Closing over bytes that were not read resets the connection, and the system forgets what is on its way.
        """
        self.flush()
        if self.closed:
            return
        self._take_leave(code, reason)
        if self.closed or self._writer is not None:
            return
        left = _LINGER_BYTES
        with gevent.Timeout(_LINGER_SECONDS, False):
            try:
                self._raw.shutdown(stdlib_socket.SHUT_WR)
                while left > 0 and self._wait():
                    try:
                        data = self._raw.recv(self._read_size)
                    except BlockingIOError:
                        continue
                    if not data:
                        return
                    left -= len(data)
            except OSError:
                return  # it is gone

    def close(self, reason: str | None = None, code: int = NORMAL) -> None:
        """Close at once; what was written already still goes out. The reader gets None."""
        if self.closed:
            return
        self.flush()
        if not self.closed and self._backlog is None:
            self._take_leave(code, reason or "")
        if self.closed:  # the flush itself met a dead socket
            return
        self.closed = True
        self.cut_reason = reason
        if self._backlog is not None:
            self._backlog.clear()
            self._backlog_bytes = 0
        self._readable.stop()
        if self._reader is not None or self._on_packet is not None:
            get_hub().loop.run_callback(self._on_readable)
        self._sock.close()

    def _take_leave(self, code: int, reason: str) -> None:
        """The layer's last words, if it has any."""
        if self._layer is not None and (words := self._layer.farewell(code, reason)):
            self._write(words, encoded=True)


def peer_name(sock: Any, name: Any) -> str:
    """`address:port` of the other side, from its socket address; `?` when it is gone already. IPv6 stands in brackets;
    an IPv4 peer of a socket for both is named as any."""
    if not name:
        try:
            name = sock.getpeername()
        except OSError:
            return "?"
    if sock.family == stdlib_socket.AF_UNIX:
        return "unix"
    return place(name[0].removeprefix(MAPPED), name[1])


def host_of(peer: str) -> str:
    """The address in `address:port`; empty where there is none."""
    return peer.rpartition(":")[0]
