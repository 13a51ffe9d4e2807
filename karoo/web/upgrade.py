"""The answer that turns a request into a WebSocket, for Flask's `@app.route(..., websocket=True)`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from flask import Response, request

from karoo.net.websocket import WebSocket
from karoo.net.wsframes import Limits
from karoo.net.wshandshake import HandshakeError, handshake
from karoo.web.server import TAKE_OVER

log = logging.getLogger("karoo.web")


class _Upgrade(Response):
    """101, and all that follows it. Flask may add headers to it as to any other."""

    def __init__(self, headers: list[tuple[str, str]], serve: Callable[[WebSocket], None], limits: Limits) -> None:
        super().__init__(status=101, headers=headers)
        del self.headers["Content-Type"]
        self._serve, self._limits = serve, limits

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        write = start_response("101 Switching Protocols", self.headers.to_wsgi_list())
        return self._run(write, environ)  # a generator, so that Flask has put the request away before it begins

    def _run(self, write: Callable[[bytes], object], environ: dict[str, Any]) -> Iterator[bytes]:
        write(b"")
        sock, early = environ[TAKE_OVER]()
        websocket = WebSocket(sock, early, self._limits)
        try:
            self._serve(websocket)
            websocket.finish()
        except Exception:
            log.exception("a bug ended a WebSocket")
            websocket.finish(1011, "internal error")
        finally:
            websocket.cut()
        yield b""


def upgrade(serve: Callable[[WebSocket], None], limits: Limits) -> Response:
    """The answer to the present request: 101 with which it becomes a WebSocket, or 400 or 426 where it cannot.

    `serve` has the WebSocket in the greenlet of the connection, and when it returns the WebSocket is closed.
    """
    try:
        headers = handshake(request.method, request.headers.get)
    except HandshakeError as error:
        return Response(f"{error}\n", error.status, {"Sec-WebSocket-Version": "13"}, mimetype="text/plain")
    return _Upgrade(headers, serve, limits)
