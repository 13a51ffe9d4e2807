"""What operators see over HTTP: /healthz, /status, and with `http.pprof` a debug page."""

from __future__ import annotations

import gc
import logging
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import gevent
import ujson
from flask import Flask, Response, abort, redirect, request
from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer
from greenlet import greenlet

from karoo import config
from karoo.net.listener import Frugal, listening_socket
from karoo.pace import paced

log = logging.getLogger("karoo.web")

CACHE_SECONDS = 1.0
WORKERS_CACHE_SECONDS = 10.0  # their hashrates change about as often
MAX_STACKS = 200
REQUEST_SECONDS = 10.0  # silence allowed to whoever asks for a page
MAX_CONNECTIONS = 64  # pages asked for at a time; further ones wait

Snapshot = Callable[[], dict[str, Any]]
Snapshots = Callable[[], Iterator[dict[str, Any]]]


class Status:
    """The answer of /status: the original Karoo's fields, and what this one knows besides. Built once a second, the
    workers' accounts every ten."""

    def __init__(self, snapshot: Snapshot, sessions: Snapshots, workers: Snapshots, settings: config.Config) -> None:
        self._snapshot, self._sessions, self._workers, self._settings = snapshot, sessions, workers, settings
        self._workers_text, self._workers_at = "", float("-inf")
        self._built_at = float("-inf")
        self._text = ""
        self._building: gevent.Greenlet | None = None

    def text(self) -> str:
        """JSON; at most a second old."""
        if monotonic() - self._built_at > CACHE_SECONDS:
            if self._building is None:  # everybody who asks meanwhile waits for the same one
                self._building = gevent.spawn(self._build)
            self._building.get()
        return self._text

    def _build(self) -> None:
        """In slices, so that no share is delayed for a page."""
        try:
            texts, active, difficulty = [], 0, 0.0
            addresses: Counter[str] = Counter()
            for client in paced(self._sessions()):
                texts.append(_dumps(client))
                active += client["diff"] > 0
                difficulty += client["diff"]
                addresses[client["ip"].rpartition(":")[0]] += 1
            state = self._snapshot()
            rest = self._original(state) | {
                "vardiff": self._vardiff(len(texts), active, difficulty, state["accounts"]["shares_per_second"]),
                "ratelimit": self._ratelimit(len(texts), len(addresses), state["banned_ips"]), **state}
            if monotonic() - self._workers_at > WORKERS_CACHE_SECONDS:
                self._workers_text = ",".join([_dumps(worker) for worker in paced(self._workers(), 50)])
                self._workers_at = monotonic()
            self._text = (f'{_dumps(rest)[:-1]},"workers":[{self._workers_text}],'
                          f'"clients":[{",".join(texts)}]}}\n')
            self._built_at = monotonic()
        finally:
            self._building = None

    def _original(self, state: dict[str, Any]) -> dict[str, Any]:
        """The fields that the original Karoo's page has, of the first pool connection that is up."""
        route = next((one for one in state["routes"] if one["up"]), state["routes"][0] if state["routes"] else {})
        return {"upstream": bool(route.get("up")), "extranonce1": route.get("extranonce1", ""),
                "extranonce2_size": route.get("extranonce2_size", 0), "last_diff": route.get("difficulty", 0),
                "shares_ok": state["accounts"]["accepted"], "shares_bad": state["accounts"]["rejected"]}

    def _vardiff(self, clients: int, active: int, difficulty: float, shares: float) -> dict[str, Any]:
        settings = self._settings.vardiff
        return {"total_clients": clients, "active_clients": active, "avg_difficulty": difficulty / max(active, 1),
                "avg_shares_per_sec": shares / max(active, 1), "target_seconds": settings.target_seconds,
                "min_difficulty": settings.min_diff, "max_difficulty": settings.max_diff}

    def _ratelimit(self, clients: int, addresses: int, banned: int) -> dict[str, Any]:
        settings = self._settings.ratelimit
        return {"total_ips": addresses, "total_active": clients, "banned_ips": banned,
                "max_per_ip": settings.max_connections_per_ip, "max_per_minute": settings.max_connections_per_minute,
                "ban_duration_sec": settings.ban_duration_seconds}


def _dumps(value: Any) -> str:
    return ujson.dumps(value, escape_forward_slashes=False)


def create_app(status: Status, *, debug_page: bool) -> Flask:
    """The Flask application; `debug_page` adds /debug/greenlets, for requests from this machine only."""
    app = Flask("karoo.web", static_folder=None)

    @app.get("/")
    def front() -> Any:
        return redirect("status")

    @app.get("/healthz")
    def healthz() -> Response:
        return Response("ok\n", mimetype="text/plain")

    @app.get("/status")
    def show_status() -> Response:
        return Response(status.text(), mimetype="application/json")

    if debug_page:
        @app.get("/debug/greenlets")
        def greenlets() -> Response:
            if request.remote_addr not in ("127.0.0.1", "::1"):
                abort(403)
            return Response(debug_text(), mimetype="text/plain; charset=utf-8")

    @app.after_request
    def harden(response: Response) -> Response:
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-store"
        return response

    return app


def debug_text() -> str:
    """What an operator sends along with a bug report: counts of objects, and where every greenlet stands."""
    frozen = gc.get_freeze_count()
    if frozen:  # else what the proxy keeps out of the collector's sight is not among them
        gc.unfreeze()
    objects = gc.get_objects()
    if frozen:
        gc.collect(0)  # what is garbage now would be so for ever
        gc.freeze()
    kinds = Counter(type(one).__name__ for one in objects)
    stacks: Counter[str] = Counter()
    for one in objects:
        if isinstance(one, greenlet) and one and one.gr_frame is not None:
            stacks["".join(traceback.format_stack(one.gr_frame))] += 1
    stacks["".join(traceback.format_stack(sys._getframe()))] += 1
    lines = [f"{sum(stacks.values())} greenlets at {len(stacks)} places, {len(objects)} objects, "
             f"collections {gc.get_count()}", ""]
    lines += [f"{count:>8} {name}" for name, count in kinds.most_common(30)]
    for stack, count in stacks.most_common(MAX_STACKS):
        lines += ["", f"--- {count} greenlets", stack.rstrip()]
    return "\n".join(lines) + "\n"


class _Log:
    """pywsgi writes its lines here."""

    def __init__(self, level: int) -> None:
        self._level = level

    def write(self, text: str) -> None:
        if text.strip():
            log.log(self._level, "%s", text.strip())


class _Handler(WSGIHandler):
    """pywsgi knows no timeout: a peer that says nothing, or a byte now and then, would hold its connection for ever."""

    _head: gevent.Timeout | None = None

    def handle(self) -> None:
        self.socket.settimeout(REQUEST_SECONDS)
        try:
            super().handle()
        except TimeoutError:
            log.debug("%s sent no request within %g s", self.client_address, REQUEST_SECONDS)
        finally:
            if self._head is not None:
                self._head.cancel()

    def read_requestline(self) -> str:
        """One deadline for the whole head of a request: the line, here, and what follows it."""
        self._head = gevent.Timeout.start_new(REQUEST_SECONDS, TimeoutError)
        return super().read_requestline()  # type: ignore[no-any-return]

    def read_request(self, raw_requestline: str) -> bool:
        """As pywsgi's, under that deadline; what is late is answered as what is faulty (raises ValueError)."""
        try:
            return super().read_request(raw_requestline)  # type: ignore[no-any-return]
        except TimeoutError:
            raise ValueError(f"no whole request within {REQUEST_SECONDS:g} s") from None
        finally:
            if self._head is not None:
                self._head.cancel()


class _Server(Frugal, WSGIServer):
    """pywsgi's server, which also stands a lack of descriptors."""


class WebServer:
    """The HTTP server in the proxy's process. Raises ListenError when the address cannot be had."""

    def __init__(self, host: str, port: int, app: Flask) -> None:
        sock = listening_socket(host, port)
        self.host, self.port = sock.getsockname()[:2]
        self._server = _Server(sock, app, spawn=Pool(MAX_CONNECTIONS), handler_class=_Handler,
                               log=_Log(logging.DEBUG), error_log=_Log(logging.ERROR))

    def start(self) -> None:
        self._server.start()
        log.info("status page on http://%s:%d/status", self.host, self.port)

    def stop(self) -> None:
        self._server.stop(timeout=1)
