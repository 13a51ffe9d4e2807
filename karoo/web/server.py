"""The HTTP server in the proxy's process: pywsgi, with bounds on whatever a client sends or leaves unread.

A request is read whole, its body included, before the application sees it: what a client does wrong is answered
here and is no exception of the application's.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from http.client import HTTPException
from io import BytesIO
from time import monotonic
from typing import Any

import gevent
from flask import Flask
from gevent.pool import Group, Pool
from gevent.pywsgi import Input, WSGIHandler, WSGIServer

from karoo.net.httphead import MAX_BODY, Refusal, check_headers, check_request_line
from karoo.net.listener import Frugal
from karoo.pace import pause
from karoo.units import place
from karoo.web.incoming import READ_SIZE, Incoming

log = logging.getLogger("karoo.web")

MAX_CONNECTIONS = 128  # at a time, but for WebSockets; the one that has kept us waiting longest goes for a new one
MAX_HEAD = 16384  # bytes of a request line (8191 at most) and its headers
REQUEST_SECONDS = 10.0  # for a head to arrive as a whole, and then its body
KEEP_ALIVE_SECONDS = 15.0  # without a further request
ANSWER_SECONDS = 30.0  # for a client to read its answer
STOP_SECONDS = 1.0

# Where the environment of a request holds `take_over`.
TAKE_OVER = "karoo.take_over"
TakeOver = Callable[[], "tuple[Any, bytes]"]

_LINGER_SECONDS, _LINGER_BYTES = 1.0, 1 << 20
_TOO_LARGE = "431 Request Header Fields Too Large"


class _Log:
    """pywsgi writes its lines here."""

    def __init__(self, level: int) -> None:
        self._level = level

    def write(self, text: str) -> None:
        if text.strip():
            log.log(self._level, "%s", text.strip())


class _Handler(WSGIHandler):
    """One connection and its requests, one after the other."""

    _refusal: Refusal | None = None  # of the request line, which pywsgi has no way to refuse
    _body = b""
    _answer_until = 0.0
    _idle_seconds = REQUEST_SECONDS

    def __init__(self, sock: Any, address: Any, server: _Server) -> None:
        self._idle_seconds = REQUEST_SECONDS
        super().__init__(sock, address, server, rfile=Incoming(sock))

    # ------------------------------------------------------------------ reading

    def handle(self) -> None:
        try:
            super().handle()
        finally:
            self.server.waiting.pop(self, None)

    def handle_one_request(self) -> Any:
        """As pywsgi's; whoever was refused may read why before the end of the connection."""
        result = super().handle_one_request()
        if not isinstance(result, tuple):
            return result
        try:
            self._refuse(result[1])
        except OSError:
            pass  # it does not want to know
        return None

    def read_requestline(self) -> str:
        """Wait for a request, and read its first line; "" where there is no further one. Raises TimeoutError."""
        pause()  # a client with a thousand requests in one packet would be served before anybody else
        self.rfile.allow(MAX_HEAD, self._idle_seconds, _TOO_LARGE)
        self._idle_seconds = KEEP_ALIVE_SECONDS
        if not self.server.waits(self) or not self.rfile.wait():
            return ""
        self.rfile.allow(MAX_HEAD, REQUEST_SECONDS, _TOO_LARGE)
        try:
            return super().read_requestline()  # type: ignore[no-any-return]
        except TimeoutError:
            self._refusal = Refusal("408 Request Timeout", f"no request line within {REQUEST_SECONDS:g} s")
            return "\r\n"

    def read_request(self, raw_requestline: str) -> bool:
        """Read all else of a request. Raises Refusal, or another error of the client's."""
        if self._refusal is not None:
            raise self._refusal
        check_request_line(raw_requestline)
        super().read_request(raw_requestline)
        self.rfile.allow(MAX_BODY + MAX_HEAD, REQUEST_SECONDS, "413 Content Too Large")
        expects = self.headers.get("Expect", "").lower() == "100-continue"
        body = Input(self.rfile, self.content_length, socket=self.socket if expects else None,
                     chunked_input="Transfer-Encoding" in self.headers).read()
        if len(body) > MAX_BODY:
            raise Refusal("413 Content Too Large", f"a body of {len(body)} bytes")
        self._body = body
        self.server.waiting.pop(self, None)
        return True

    def MessageClass(self, *args: Any) -> Any:
        """The headers, as pywsgi asks for them. Raises Refusal."""
        try:
            headers = super().MessageClass(*args)
        except HTTPException as failure:
            raise Refusal(_TOO_LARGE, str(failure)) from None
        check_headers(headers, self.request_version)
        return headers

    def get_environ(self) -> dict[str, Any]:
        """As pywsgi's, with the body that was read."""
        environ: dict[str, Any] = super().get_environ()
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        if self._body:
            environ["CONTENT_LENGTH"] = str(len(self._body))
        self.wsgi_input = environ["wsgi.input"] = Input(BytesIO(self._body), len(self._body))
        environ[TAKE_OVER] = self.take_over
        return environ

    def take_over(self) -> tuple[Any, bytes]:
        """The connection, and what came of it behind the request: for an application that has answered with 101.

        It ends with the application's answer, and until then takes up no place of a request.
        """
        self.close_connection = True
        self.server.release(gevent.getcurrent())
        return self.socket, self.rfile.take()

    def let_go(self) -> None:
        """End a connection that waits for a request, as if the client had. May be called by the loop."""
        try:
            self.socket._sock.shutdown(socket.SHUT_RD)
        except OSError:
            pass  # it is gone already

    # ------------------------------------------------------------------ writing

    def _write_with_headers(self, data: bytes) -> None:
        self._answer_until = monotonic() + ANSWER_SECONDS
        super()._write_with_headers(data)

    def _sendall(self, data: bytes) -> None:
        """Raises ConnectionResetError, which pywsgi takes for no fault of ours, where the client does not read."""
        self.socket.settimeout(max(self._answer_until - monotonic(), 1e-3))
        try:
            super()._sendall(data)
        except OSError as failure:
            raise ConnectionResetError(errno.ECONNRESET, f"the client left its answer: {failure}") from None

    def _refuse(self, answer: bytes) -> None:
        """Send the answer and wait a little for the client to close: to do it first, over bytes that were not read,
        would take the answer from it."""
        self.socket.settimeout(_LINGER_SECONDS)
        self.socket.sendall(answer)
        left = _LINGER_BYTES
        with gevent.Timeout(_LINGER_SECONDS, False):
            self.socket.shutdown(socket.SHUT_WR)
            while left > 0 and (data := self.socket.recv(READ_SIZE)):
                left -= len(data)

    # ------------------------------------------------------------------ errors

    def _handle_client_error(self, ex: Exception) -> tuple[str, bytes]:
        """The answer to a faulty request; the log shows it only to whoever wants to know all."""
        status = "400 Bad Request"
        if isinstance(ex, Refusal):
            status = ex.status
        elif isinstance(ex, TimeoutError):
            status = "408 Request Timeout"
        elif not isinstance(ex, (ValueError, OSError)):
            log.error("a bug met a request", exc_info=ex)
        log.debug("%s is answered %s: %s", self.client_address, status, ex)
        answer = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        return status, answer.encode()

    def _log_error(self, t: Any, v: Any, tb: Any) -> None:
        if not issubclass(t, gevent.GreenletExit):
            log.error("a bug ended an answer to %s", self.client_address, exc_info=(t, v, tb))


class _Server(Frugal, WSGIServer):
    """pywsgi's server, which also stands a lack of descriptors.

    `waiting` holds the connections that owe the rest of a request, or have none, in the order in which they began to.
    """

    def __init__(self, sock: Any, app: Flask, host: str) -> None:
        self.waiting: dict[_Handler, None] = {}
        self.taken = Group()
        super().__init__(sock, app, spawn=Pool(MAX_CONNECTIONS), handler_class=_Handler, log=_Log(logging.DEBUG),
                         error_log=_Log(logging.ERROR), environ={"SERVER_NAME": host})
        self.full = self._make_room  # asked before each accept; gevent's had only looked into the pool

    def _make_room(self) -> bool:
        """Whether nobody can be accepted now; if so, room is made."""
        full = bool(self.pool.full())
        if full and self.waiting:
            next(iter(self.waiting)).let_go()
        return full

    def waits(self, handler: _Handler) -> bool:
        """Note that this one waits for a request; False when the server stops, so that none will come. If nobody can
        be accepted another one that waits has to go."""
        self.waiting.pop(handler, None)
        self._make_room()
        self.waiting[handler] = None
        return bool(self.started)

    def release(self, greenlet: gevent.Greenlet) -> None:
        """This greenlet no longer takes up the place of a request."""
        self.pool.discard(greenlet)
        self.taken.add(greenlet)

    def stop(self, timeout: float | None = None) -> None:
        """Stop accepting; what is under way may come to its end for so many seconds."""
        self.close()
        for handler in tuple(self.waiting):
            handler.let_go()
        super().stop(timeout)
        self.taken.join(timeout)
        self.taken.kill(timeout=STOP_SECONDS)


class WebServer:
    """The HTTP server in the proxy's process, over a gevent socket that listens."""

    def __init__(self, sock: Any, app: Flask) -> None:
        self.host, self.port = sock.getsockname()[:2]
        self._server = _Server(sock, app, self.host)

    def start(self) -> None:
        self._server.start()
        log.info("status page on http://%s/", place(self.host, self.port))

    def use(self, app: Flask) -> None:
        """Another application answers, from the next request on."""
        self._server.application = app

    def stop(self) -> None:
        """Stop accepting and end what is open; waits a second or two at most."""
        self._server.stop(STOP_SECONDS)
