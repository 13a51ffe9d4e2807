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
from flask import Flask, Response, abort, request
from gevent.pywsgi import WSGIServer
from greenlet import greenlet

from karoo import config
from karoo.net.listener import listening_socket

log = logging.getLogger("karoo.web")

CACHE_SECONDS = 1.0
SLICE = 250  # sessions between two pauses while a long answer is built
MAX_STACKS = 200

Snapshot = Callable[[], dict[str, Any]]
Sessions = Callable[[], Iterator[dict[str, Any]]]


class Status:
    """The answer of /status: the original Karoo's fields, and what this one knows besides. Built once a second."""

    def __init__(self, snapshot: Snapshot, sessions: Sessions, settings: config.Config) -> None:
        self._snapshot, self._sessions, self._settings = snapshot, sessions, settings
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
        try:
            self._text = ujson.dumps(self.data(), escape_forward_slashes=False)
            self._built_at = monotonic()
        finally:
            self._building = None

    def data(self) -> dict[str, Any]:
        clients: list[dict[str, Any]] = []
        for client in self._sessions():
            clients.append(client)
            if len(clients) % SLICE == 0:
                gevent.sleep(0.0001)  # never delay a share for a page
        state = self._snapshot()
        route = next((one for one in state["routes"] if one["up"]), state["routes"][0] if state["routes"] else {})
        totals = state["accounts"]
        return {
            "upstream": bool(route.get("up")), "extranonce1": route.get("extranonce1", ""),
            "extranonce2_size": route.get("extranonce2_size", 0), "last_notify_unix": state["last_notify_unix"],
            "last_diff": route.get("difficulty", 0), "shares_ok": totals["accepted"], "shares_bad": totals["rejected"],
            "clients": clients, "vardiff": self._vardiff(clients, totals), "ratelimit": self._ratelimit(clients),
            **{key: value for key, value in state.items() if key != "last_notify_unix"},
        }

    def _vardiff(self, clients: list[dict[str, Any]], totals: dict[str, Any]) -> dict[str, Any]:
        settings = self._settings.vardiff
        working = [client for client in clients if client["diff"]]
        count = max(len(working), 1)
        return {"total_clients": len(clients), "active_clients": len(working),
                "avg_difficulty": sum(client["diff"] for client in working) / count,
                "avg_shares_per_sec": totals["shares_per_second"] / count, "target_seconds": settings.target_seconds,
                "min_difficulty": settings.min_diff, "max_difficulty": settings.max_diff}

    def _ratelimit(self, clients: list[dict[str, Any]]) -> dict[str, Any]:
        settings = self._settings.ratelimit
        addresses = Counter(client["ip"].rpartition(":")[0] for client in clients)
        return {"total_ips": len(addresses), "total_active": len(clients), "banned_ips": 0,
                "max_per_ip": settings.max_connections_per_ip, "max_per_minute": settings.max_connections_per_minute,
                "ban_duration_sec": settings.ban_duration_seconds}


def create_app(status: Status, *, debug_page: bool) -> Flask:
    """The Flask application; `debug_page` adds /debug/greenlets, for requests from this machine only."""
    app = Flask("karoo.web", static_folder=None)

    @app.get("/healthz")
    def healthz() -> Response:
        return Response("ok\n", mimetype="text/plain")

    @app.get("/status")
    def show_status() -> Response:
        return Response(status.text() + "\n", mimetype="application/json")

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
    objects = gc.get_objects()
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


class WebServer:
    """The HTTP server in the proxy's process. Raises ListenError when the address cannot be had."""

    def __init__(self, host: str, port: int, app: Flask) -> None:
        sock = listening_socket(host, port)
        self.host, self.port = sock.getsockname()[:2]
        self._server = WSGIServer(sock, app, log=_Log(logging.DEBUG), error_log=_Log(logging.ERROR))

    def start(self) -> None:
        self._server.start()
        log.info("status page on http://%s:%d/status", self.host, self.port)

    def stop(self) -> None:
        self._server.stop(timeout=1)
