"""One listener's way in, from an accepted socket to a session: what goes before the first line is done here.

A plain connection becomes a session at once, in the loop. One that has to show a PROXY header first, or to shake hands
for TLS or a WebSocket, gets a greenlet until that is done, under one deadline; that of its session begins anew.
"""

from __future__ import annotations

import logging
import ssl
from collections import Counter
from time import monotonic
from typing import Any, Protocol

import gevent

from karoo import config
from karoo.metrics import Metrics
from karoo.net import proxyheader, tlswords, wshandshake
from karoo.net.connection import MAPPED, Connection, LineTooLong, peer_name
from karoo.net.layers import Layer, Stacked
from karoo.net.outbox import Outbox
from karoo.net.proxyheader import HeaderFault
from karoo.net.tls import Tls
from karoo.net.wshandshake import HandshakeError
from karoo.net.wslayer import WebSocketLines
from karoo.proxy.door import FULL, Door, TurnedAway
from karoo.proxy.house import House
from karoo.proxy.session import Session
from karoo.proxy.waysin import Security
from karoo.stratum import messages
from karoo.stratum.errors import StratumError

log = logging.getLogger("karoo.entrance")

MAX_ENTERING = 1000  # of one listener at a time; then the one that has taken longest makes room, unless
PATIENCE = 2.0  # seconds are not over for it yet: a farm that comes back must not push itself out
READ_SIZE = 4096
MAX_HEAD = 8192  # bytes of the request for a WebSocket

# What a connection was at when it was turned away, for counters
HEADER, TLS, WEBSOCKET = "PROXY header", "TLS handshake", "WebSocket handshake"
LEFT, CROWDED, STOPS = "left before its first line", "too many on their way in", "the proxy stops"


class _Left(Exception):
    """The peer left by itself."""


class Site(Protocol):
    """What an entrance knows of the proxy around it."""

    settings: config.Config
    sessions: dict[int, Session]
    metrics: Metrics
    door: Door
    outbox: Outbox

    def number(self) -> int: ...
    @property
    def on_their_way(self) -> int: ...


class _Visit:
    """A connection on its way in. ``address`` is the miner's as far as it is known, ``step`` what it is at."""

    __slots__ = ("address", "admitted", "began", "conn", "ended_by", "host", "layer", "number", "sock", "step")

    def __init__(self, sock: Any, address: Any) -> None:
        self.sock, self.address = sock, address
        self.host: str = address[0]  # of whoever connected, which may be a balancer
        self.began = monotonic()
        self.layer: Layer | None = None
        self.admitted = False
        self.step = HEADER
        self.ended_by: TurnedAway | None = None
        self.conn: Connection | None = None
        self.number = 0  # of its session

    @property
    def peer(self) -> str:
        """The miner's `address:port`."""
        return peer_name(self.sock, self.address)

    def end(self, reason: TurnedAway) -> None:
        """Whatever it is at: the greenlet that does it meets a closed socket."""
        self.ended_by = reason
        self.sock.close()


class Entrance:
    """The way in by one listener. ``inside`` is how many sessions it has, ``house`` what these share; that and
    ``security`` may be changed, for those that come later."""

    house: House

    def __init__(self, settings: config.Listener, security: Security, site: Site) -> None:
        self.settings, self.security = settings, security
        self.inside = 0
        self._site = site
        self._is_balancer = config.in_networks(settings.proxy_protocol) if settings.proxy_protocol else None
        self._entering: dict[_Visit, None] = {}  # in the order of their coming
        self._hosts: Counter[str] = Counter()  # how many of those each address has

    def change(self, settings: config.Listener, security: Security) -> None:
        """Other settings for those that come from now on."""
        self.settings, self.security = settings, security
        self._is_balancer = config.in_networks(settings.proxy_protocol) if settings.proxy_protocol else None

    @property
    def on_their_way(self) -> int:
        """Connections that are no sessions yet."""
        return len(self._entering)

    @property
    def _is_secure(self) -> bool:
        return self.security.context is not None

    @property
    def _is_plain(self) -> bool:
        """Lines come as they are."""
        return not self._is_secure and self.settings.protocol == "stratum"

    @property
    def scheme(self) -> str:
        """What a miner writes before the address."""
        names = ("ws", "wss") if self.settings.protocol == "websocket" else ("stratum+tcp", "stratum+ssl")
        return names[self._is_secure]

    @property
    def manner(self) -> str:
        """What is special about it, in words that follow the address."""
        settings, words = self.settings, []
        if settings.name:
            words.append(settings.name)
        if self.scheme != "stratum+tcp":
            words.append(f"{self.scheme}://")
        if settings.proxy_protocol:
            words.append(f"behind {', '.join(settings.proxy_protocol)}")
        return f" ({'; '.join(words)})" if words else ""

    def close(self) -> None:
        """End those that are on their way in."""
        for visit in list(self._entering):
            visit.end(TurnedAway(STOPS, "the proxy stops"))

    # ------------------------------------------------------------------ in

    def on_connection(self, sock: Any, address: Any) -> None:
        """One connection more, told by the loop. A bug in here costs it, and nothing else."""
        visit = _Visit(sock, address)
        self._site.metrics.connections += 1
        try:
            behind_balancer = self._is_behind_balancer(visit)
            if not behind_balancer:
                self._admit(visit)
            if self._is_plain and not behind_balancer:
                self._begin(visit, b"")
            else:
                self._make_room(visit)
                self._entering[visit] = None
                self._hosts[visit.host] += 1
                gevent.spawn(self._enter, visit)
        except TurnedAway as reason:
            self._turn_away(visit, reason)
        except Exception:
            self._own_up(visit)

    def _is_behind_balancer(self, visit: _Visit) -> bool:
        return self._is_balancer is not None and self._is_balancer(visit.address[0])

    def _make_room(self, visit: _Visit) -> None:
        """Where too many are on their way in: end the oldest of the address that has most of them. Raises TurnedAway
        where that is the newcomer's own, or none has more than one, and all are new."""
        if len(self._entering) < MAX_ENTERING:
            return
        crowded = TurnedAway(CROWDED, f"{MAX_ENTERING} others are at their handshakes")
        host, most = self._hosts.most_common(1)[0]
        oldest = next(one for one in self._entering if one.host == host)
        if (host == visit.host or most == 1) and monotonic() - oldest.began < PATIENCE:
            raise crowded
        oldest.end(crowded)
        self._forget(oldest)

    def _forget(self, visit: _Visit) -> None:
        """It is no longer on its way."""
        if self._entering.pop(visit, self) is None:
            self._hosts[visit.host] -= 1
            if not self._hosts[visit.host]:
                del self._hosts[visit.host]

    def _enter(self, visit: _Visit) -> None:
        """In a greenlet: all that goes before the first line."""
        try:
            patience = self._site.settings.proxy.handshake_ms / 1e3
            with gevent.Timeout(patience, TimeoutError(f"not done within {patience:g} s")):
                early = self._take_steps(visit)
            if visit.ended_by is not None:  # while it waited for its turn, and not for its socket
                raise visit.ended_by
            self._begin(visit, early)
        except (TurnedAway, _Left, HeaderFault, HandshakeError, LineTooLong, OSError) as reason:
            self._turn_away(visit, visit.ended_by or reason)
        except Exception:
            self._own_up(visit)
        finally:
            self._forget(visit)

    def _take_steps(self, visit: _Visit) -> bytes:
        """What the miner has said behind the last step. Raises TurnedAway, and what each step raises."""
        early = b""
        if not visit.admitted:  # whose address a balancer tells
            early = self._read_proxy_header(visit)
            self._admit(visit)
        context = self.security.context
        if not self._is_plain:
            visit.step = TLS if context is not None else WEBSOCKET
            early = early or self._read(visit)
            if proxyheader.announces(early):
                visit.step = HEADER
                raise HeaderFault("its address is not in proxy_protocol of this listener")
        if context is not None:
            tls = visit.layer = Tls(context)
            early = tls.shake_hands(visit.sock, early)
        if self.settings.protocol == "websocket":
            visit.step = WEBSOCKET
            early = self._upgrade(visit, early)
        return early

    def _read(self, visit: _Visit) -> bytes:
        """Some bytes more. Raises _Left."""
        data: bytes = visit.sock.recv(READ_SIZE)
        if not data:
            raise _Left
        return data

    def _read_proxy_header(self, visit: _Visit) -> bytes:
        """Take the miner's address from what the balancer says; the bytes behind that. Raises HeaderFault, _Left."""
        data = self._read(visit)
        while (header := proxyheader.parse(data)) is None:
            data += self._read(visit)
        balancer = visit.address[0].removeprefix(MAPPED)
        if header.source is not None and header.source[0] != balancer:
            visit.address = header.source
        else:  # limits by address would ban the balancer, for its own probes or for miners that it does not tell apart
            visit.address = f"via {balancer}", *visit.address[1:]
        return data[header.size:]

    def _upgrade(self, visit: _Visit, early: bytes) -> bytes:
        """Make a WebSocket of the request that comes; the bytes behind that, decoded. Raises HandshakeError, _Left."""
        under = visit.layer
        while b"\r\n\r\n" not in early[:MAX_HEAD]:
            if early.lstrip()[:1] == b"{":
                raise HandshakeError(400, "This is a port for WebSockets: set the miner to ws:// or to another port.")
            if len(early) >= MAX_HEAD:
                raise HandshakeError(431, f"The head of the request has more than {MAX_HEAD} bytes.")
            data = self._read(visit)
            early += under.decode(data) if under is not None else data
            if under is not None and under.ended:
                raise HandshakeError(400, under.fault) if under.fault else _Left
        head, _, rest = early.partition(b"\r\n\r\n")
        answer = wshandshake.answer(head + b"\r\n\r\n", self.settings.origins)
        visit.sock.sendall(answer if under is None else under.encode(answer))
        lines = WebSocketLines(self._site.settings.proxy.max_line_bytes)
        visit.layer = lines if under is None else Stacked(under, lines)
        said = lines.decode(rest)
        if owed := visit.layer.replies():
            visit.sock.sendall(owed)
        return said

    # ------------------------------------------------------------------ from here on a session

    def _admit(self, visit: _Visit) -> None:
        """Raises TurnedAway."""
        site, most = self._site, self.settings.profile.max_clients
        itself = visit in self._entering
        if most is not None and self.inside + len(self._entering) - itself >= most:
            raise TurnedAway(FULL, f"{self.inside} miners are connected by this listener, whose max_clients is {most}",
                             "The proxy is full")
        site.door.admit(visit.peer, len(site.sessions) + site.on_their_way - itself)
        visit.admitted = True

    def _begin(self, visit: _Visit, early: bytes) -> None:
        """The miner is in. Raises LineTooLong."""
        site = self._site
        visit.conn = self._connection(visit, early)
        visit.number = site.number()
        session = Session(visit.number, visit.conn, self.house)
        site.sessions[visit.number] = session
        self.inside += 1
        session.start_serving()

    def _connection(self, visit: _Visit, early: bytes = b"") -> Connection:
        settings = self._site.settings.proxy
        return Connection(visit.sock, settings.max_line_bytes, settings.max_backlog_bytes, settings.read_buf,
                          self._site.outbox, visit.address, visit.layer, early)

    def left(self, session: Session) -> None:
        """One of its sessions has ended."""
        del self._site.sessions[session.number]
        self.inside -= 1
        self._site.door.leave(session.conn.peer, session.dismissed)

    # ------------------------------------------------------------------ out

    def _turn_away(self, visit: _Visit, reason: Exception) -> None:
        """It gets no session, for a reason of its own or of ours: a line in the log, and one more in a counter."""
        kind, why, level = _account(visit, reason)
        self._site.metrics.turned_away.count(kind)
        log.log(level, "%s turned away: %s", visit.peer, why)
        if visit.admitted:
            self._site.door.leave(visit.peer, dismissed=kind in (CROWDED, STOPS))
        if isinstance(reason, HandshakeError):
            self._site.door.tell(self._connection(visit), wshandshake.refusal(reason))
        elif isinstance(reason, TurnedAway) and reason.told and self._is_plain:
            self._site.door.tell(self._connection(visit), messages.error(None, StratumError(reason.told)))
        else:
            visit.sock.close()

    def _own_up(self, visit: _Visit) -> None:
        """A bug met it."""
        self._site.metrics.exceptions += 1
        log.exception("a bug ended a connection")
        if self._site.sessions.pop(visit.number, None) is not None:
            self.inside -= 1
        if visit.conn is not None:
            visit.conn.hold()
            visit.conn.close()
        else:
            visit.sock.close()
        if visit.admitted:
            self._site.door.leave(visit.peer, dismissed=True)


def _account(visit: _Visit, reason: Exception) -> tuple[str, str, int]:
    """For the counter, for the log, and its level."""
    if isinstance(reason, TurnedAway):
        return reason.kind, str(reason), logging.INFO
    if isinstance(reason, _Left | ConnectionError | ssl.SSLEOFError):
        return LEFT, f"it left before it was done with the {visit.step}", logging.DEBUG
    why = tlswords.words(reason) if isinstance(reason, ssl.SSLError) else str(reason)
    return visit.step, f"{visit.step}: {why}", logging.INFO
