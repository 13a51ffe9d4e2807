"""What operators see over HTTP: the page, the API, /status, /metrics, probes. Wired here, built in the other modules.

All of it sees the proxy through a `proxy.view.View` and changes it through a `proxy.control.Control`, which
`karoo.service` hands in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flask import Flask, Response, request, send_from_directory
from werkzeug.exceptions import HTTPException

from karoo import config, readers
from karoo.web import asked
from karoo.web.access import install
from karoo.web.api import create_api
from karoo.web.asked import BadRequest
from karoo.web.cached import Cached
from karoo.web.debug import add_debug_page
from karoo.web.live import Live
from karoo.web.prometheus import Exposition
from karoo.web.status import Status

STATIC = Path(__file__).parent / "static"
SUMMARY_FRESH = 0.9  # seconds; open pages are told every second


def create_app(view: Any, control: Any, status: Status, settings: config.Config,
               reload: Callable[[str], dict[str, Any]] | None = None,
               live: Live | None = None) -> tuple[Flask, Live]:
    """The Flask application, and what keeps its open pages up to date. Commands are there when `http.token` is set;
    `reload` is the one that reads the configuration again, told who asked; `live` another application's."""
    http = settings.http
    summary = Cached(view.summary, SUMMARY_FRESH)
    live = live or Live(summary.get, lambda after: view.events(after)[::-1])
    app = Flask("karoo.web", static_folder=None)
    app.url_map.strict_slashes = app.url_map.merge_slashes = False  # names of workers may hold any of them
    app.register_blueprint(create_api(view, summary.get, control if http.token else None, reload))
    _add_probes(app, view)
    _add_texts(app, status, Exposition(view.figures, view.workers.strongest, settings.metrics.max_workers))
    _add_page(app, live)
    if http.pprof:
        add_debug_page(app)
    app.wsgi_app = _InLine(app.wsgi_app)  # type: ignore[method-assign]
    install(app, http)
    app.register_error_handler(BadRequest, asked.failed)
    app.register_error_handler(HTTPException, _as_json)
    return app, live


class _InLine:
    """WSGI: has each request wait for its turn. A hundred at once, of 0.3 ms each, would else be answered in one go."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        readers.turn()
        return self._app(environ, start_response)


def _as_json(failure: HTTPException) -> Response:
    """What Flask itself refuses, in the shape of the API's errors."""
    code = (failure.name or "error").lower().replace(" ", "_")
    message = failure.description or failure.name
    answer = asked.answer({"error": {"code": code, "message": message}}, failure.code or 500)
    answer.headers.extend((name, value) for name, value in failure.get_headers() if name != "Content-Type")
    return answer


def _add_probes(app: Flask, view: Any) -> None:
    @app.get("/healthz")
    def healthz() -> Response:
        return Response("ok\n", mimetype="text/plain")

    @app.get("/readyz")
    def readyz() -> Response:
        why = view.not_ready()
        return Response(f"{why or 'ready'}\n", 503 if why else 200, mimetype="text/plain")


def _add_texts(app: Flask, status: Status, exposition: Exposition) -> None:
    @app.get("/status")
    def show_status() -> Response:
        asked.only("limit", "offset", "clients")
        clients = asked.choice("clients", "1", ("0", "1")) == "1"
        limit = asked.number("limit", asked.LARGEST, 1, asked.LARGEST)
        return Response(status.pieces(clients, asked.number("offset", 0, 0, asked.LARGEST), limit),
                        mimetype="application/json")

    @app.get("/metrics")
    def metrics() -> Response:
        text, kind = exposition.text(request.headers.get("Accept", ""))
        return Response(text, content_type=kind)


def _add_page(app: Flask, live: Live) -> None:
    @app.route("/live", websocket=True)
    def updates() -> Response:
        return live.answer()

    @app.get("/")
    def front() -> Response:
        return send_from_directory(STATIC, "index.html")

    @app.get("/static/<path:name>")
    def static_file(name: str) -> Response:
        return send_from_directory(STATIC, name)
