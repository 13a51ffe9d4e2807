"""The control socket in the proxy's process: who may open it may command. Bounded, whatever a client does."""

from __future__ import annotations

import logging
import pwd
from collections.abc import Iterator
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
import ujson
from gevent import get_hub
from gevent.pool import Pool
from gevent.socket import cancel_wait

from karoo import readers
from karoo.ctl.commands import Commands, Listing, Reload, SetLevel
from karoo.ctl.socketfile import ControlError, SocketFile, peer_of, shown
from karoo.log import clean
from karoo.net.listener import Frugal
from karoo.web.asked import BadRequest

if TYPE_CHECKING:
    from karoo.proxy.proxy import Proxy

log = logging.getLogger("karoo.ctl")

MAX_CLIENTS = 32  # at a time; the one that has kept us waiting longest goes for a new one
MAX_REQUEST = 8192  # bytes
REQUEST_SECONDS = 5.0  # for a request to arrive
STALL_SECONDS = 10.0  # for a client to take a piece of its answer
ANSWER_SECONDS = 120.0  # for all of them
ITEMS_AT_ONCE = 20  # in a line of a list
LOOK_AGAIN = 0.05  # seconds until it is tried again to accept somebody, where all places are taken
STOP_SECONDS = 1.0
KEEP_SECONDS = 10.0  # between two looks at whether the file is still there
NAME_SECONDS = 2.0  # for the name of a user, which may be asked of a directory over the network
MOST_NAMES = 100


class ControlServer:
    """Listens at `path`, a Unix socket with the rights `mode` ("600"), from `start` to `stop`. `reload` reads the
    configuration again, told who asked; `set_level` changes the level of a logger. Raises ControlError."""

    def __init__(self, path: str, mode: str, proxy: Proxy, reload: Reload, set_level: SetLevel | None = None) -> None:
        self.path = path
        self._commands, self._metrics = Commands(proxy, reload, set_level), proxy.metrics
        self._names: dict[int, str] = {}
        self._mode = mode
        self._file = SocketFile(path, mode)
        self._server = _Server(self._file.sock, self._serve)
        self._keeper: gevent.Greenlet | None = None

    def start(self) -> None:
        self._server.start()
        self._keeper = gevent.spawn(self._keep_for_ever)
        log.info("commands of karoo ctl come by %s", shown(self.path))

    def stop(self) -> None:
        """Stop accepting, remove the file, and end what is open; waits a second at most. May be called twice."""
        if self._keeper is not None:
            self._keeper.kill()
        if not self._server.closed:
            self._file.remove()
        self._server.stop(STOP_SECONDS)

    # ------------------------------------------------------------------ the file

    def _keep_for_ever(self) -> None:
        """Whoever tidies up a folder may remove the file: the proxy could not be commanded any more."""
        told = ""
        while True:
            gevent.sleep(KEEP_SECONDS)
            try:
                if self._file.is_gone:
                    self._make_anew()
                told = ""
            except ControlError as failure:
                if str(failure) != told:
                    log.warning("the control socket was removed, and cannot be made anew: %s", failure)
                told = str(failure)
            except Exception:
                self._metrics.exceptions += 1
                log.exception("a bug kept the control socket from being looked after")

    def _make_anew(self) -> None:
        """Raises ControlError."""
        file = SocketFile(self.path, self._mode)
        former, self._file, self._server = self._server, file, _Server(file.sock, self._serve)
        self._server.start()
        log.warning("somebody removed %s: it was made anew", shown(self.path))
        former.stop(STOP_SECONDS)

    # ------------------------------------------------------------------ one client

    def _serve(self, sock: Any, address: object) -> None:
        client = Client(sock, self._server.waiting)
        try:
            line = client.read()
            if line is not None:
                self._answer(client, line)
        except OSError as failure:  # it left, does not read, or had to go
            log.debug("a client of the control socket: %s", failure)
        except Exception:
            self._metrics.exceptions += 1
            log.exception("a bug ended a request over the control socket")

    def _answer(self, client: Client, line: bytes) -> None:
        """Raises OSError."""
        name = "?"
        try:
            readers.turn()
            name, members = _request(line)
            command = self._commands.find(name, members)
            if command.changes:
                by = self._who(client)
                log.info("%s asks for %s %s", by, name, clean(ujson.dumps(members)))
                answer = command.call(by=by, **members)
            else:
                log.debug("somebody asks for %s", name)
                answer = command.call(**members)
            for piece in _pieces(answer):
                client.send(piece)
        except BadRequest as refusal:
            log.info("%s over the control socket is refused: %s", clean(name[:50]), refusal)
            client.send(_line({"error": {"code": refusal.code, "message": str(refusal)}}))
        except OSError:
            raise
        except Exception as bug:
            self._metrics.exceptions += 1
            log.exception("a bug met %s over the control socket", clean(name[:50]))
            client.send(_line({"error": {"code": "internal_error", "message": (
                f"a bug in the proxy ({type(bug).__name__}): its log has the traceback")}}))

    # ------------------------------------------------------------------ who it is

    def _who(self, client: Client) -> str:
        """As the log and the timeline name whoever asked."""
        peer = peer_of(client.sock)
        if peer is None:
            return "somebody on this machine"
        pid, uid = peer
        return f"{self._user(uid)} by karoo ctl" + (f" (process {pid})" if pid else "")

    def _user(self, uid: int) -> str:
        """The user's name. A thread looks it up: the system may ask a directory over the network."""
        if uid not in self._names:
            found = f"user {uid}"
            with gevent.Timeout(NAME_SECONDS, False):
                found = get_hub().threadpool.apply(_user_name, (uid,))
            if len(self._names) >= MOST_NAMES:
                self._names.clear()
            self._names[uid] = found
        return self._names[uid]


class Client:
    """One connection. While it keeps us waiting it stands in `waiting`."""

    def __init__(self, sock: Any, waiting: dict[Client, None]) -> None:
        self.sock, self._waiting = sock, waiting
        self._until = monotonic() + REQUEST_SECONDS

    def read(self) -> bytes | None:
        """The line that it says; None where it says none, or too much. Raises OSError."""
        data = b""
        while b"\n" not in data:
            more = self._wait(self._until, self.sock.recv, MAX_REQUEST + 1 - len(data))
            data += more
            if not more or len(data) > MAX_REQUEST:
                if data:
                    self.send(_line({"error": {"code": "bad_request", "message": (
                        f"a request is one line of JSON, of {MAX_REQUEST} bytes at most")}}))
                return None
        self._until = monotonic() + ANSWER_SECONDS
        return data.partition(b"\n")[0]

    def send(self, data: bytes) -> None:
        """Raises OSError where it does not take them in time."""
        self._wait(min(self._until, monotonic() + STALL_SECONDS), self.sock.sendall, data)

    def _wait(self, until: float, do: Any, *args: Any) -> Any:
        self._waiting[self] = None
        self.sock.settimeout(max(until - monotonic(), 1e-3))
        try:
            return do(*args)
        finally:
            self._waiting.pop(self, None)

    def let_go(self) -> None:
        """End a connection that keeps us waiting. May be called by the loop."""
        self._waiting.pop(self, None)
        for watcher in (self.sock._read_event, self.sock._write_event):
            cancel_wait(watcher)  # of one that is not waited for nothing happens; shutdown() would wake nobody here


class _Server(Frugal):
    """Hands each connection to a greenlet, and makes room for new ones."""

    def __init__(self, sock: Any, handle: Any) -> None:
        self.waiting: dict[Client, None] = {}
        self._looks_again = False
        super().__init__(sock, handle, spawn=Pool(MAX_CLIENTS))
        self.full = self._make_room  # asked before each accept

    def _make_room(self) -> bool:
        """Whether nobody can be accepted now; if so, room is made. It is looked again a little later: all of them may
        be at work now, and wait for their clients then."""
        full = bool(self.pool.full())
        if full:
            if self.waiting:
                next(iter(self.waiting)).let_go()
            if not self._looks_again:
                self._looks_again = True
                gevent.spawn_later(LOOK_AGAIN, self._look_again)
        return full

    def _look_again(self) -> None:
        self._looks_again = False
        self._start_accepting_if_started()

    def stop(self, timeout: float | None = None) -> None:
        """Stop accepting; what is under way may come to its end for so many seconds."""
        self.close()
        for client in tuple(self.waiting):
            client.let_go()
        super().stop(timeout)


def _request(line: bytes) -> tuple[str, Any]:
    """Name and members of what is asked for. Raises BadRequest."""
    try:
        value = ujson.loads(line)
    except (ValueError, RecursionError):
        raise BadRequest("the request is no JSON") from None
    if not isinstance(value, dict) or not isinstance(value.get("command"), str):
        raise BadRequest('a request is a JSON object with "command"')
    if not value.keys() <= {"command", "members"}:
        raise BadRequest('a request has "command" and "members", and nothing else')
    return value["command"], value.get("members", {})


def _pieces(answer: dict[str, Any] | Listing) -> Iterator[bytes]:
    """The lines of an answer, each made in a slice."""
    if not isinstance(answer, Listing):
        yield _line({"answer": answer})
        return
    yield _line({"list": {"total": answer.total, "limit": answer.limit, "offset": answer.offset}})
    while some := list(islice(answer.items, ITEMS_AT_ONCE)):
        yield _line({"items": some})
        readers.turn()
    yield _line({"end": True})


def _line(value: Any) -> bytes:
    return (ujson.dumps(value, escape_forward_slashes=False, allow_nan=False) + "\n").encode("utf-8", "replace")


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return f"user {uid}"
