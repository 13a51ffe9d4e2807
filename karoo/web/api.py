"""/api/v1: what the proxy tells programs and the page, and the commands. The shapes stand in `openapi`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, request

from karoo.web import asked
from karoo.web.asked import BadRequest, NotThere, Unavailable
from karoo.web.openapi import document


def create_api(view: Any, summary: Callable[[], dict[str, Any]], control: Any | None,
               reload: Callable[[str], dict[str, Any]] | None = None) -> Blueprint:
    """The endpoints over a `proxy.view.View`, with its summary, which others show as well. `control` is a
    `proxy.control.Control`; with None there are no commands."""
    api = Blueprint("api", __name__, url_prefix="/api/v1")
    _add_state(api, view, summary)
    _add_lists(api, view)
    if control is not None:
        _add_commands(api, control, reload)
    described = asked.dumps(document(view, commands=control is not None))

    @api.get("/openapi.json")
    def openapi() -> Response:
        asked.only()
        return Response(described, mimetype="application/json")

    @api.errorhandler(BadRequest)
    def failed(failure: BadRequest) -> Response:
        return asked.failed(failure)

    return api


def _add_state(api: Blueprint, view: Any, summary: Callable[[], dict[str, Any]]) -> None:
    @api.get("/summary")
    def show_summary() -> Response:
        asked.only()
        return asked.answer(summary())

    @api.get("/pools")
    def pools() -> Response:
        asked.only("limit", "offset")
        return asked.cut(asked.page(), view.pools())

    @api.get("/bans")
    def bans() -> Response:
        asked.only("limit", "offset", "sort", "order", "q")
        part = asked.page(view.ban_sorts, "since", descending=True)
        return asked.listed(part, *view.bans(part.sort, part.descending, asked.text("q"), part.offset, part.limit))

    @api.get("/events")
    def events() -> Response:
        asked.only("limit", "offset", "after", "kind", "q")
        part, after = asked.page(), asked.number("after", 0, 0, asked.LARGEST)
        return asked.cut(part, view.events(after, asked.choices("kind", view.kinds), asked.text("q")))

    @api.get("/history")
    def history() -> Response:
        asked.only("metric", "range", "worker")
        metric = asked.choice("metric", "hashrate", view.metrics)
        extent = asked.choice("range", "24h", view.ranges)
        worker = asked.text("worker", asked.LONGEST_NAME) or None
        try:
            step, points = view.history(metric, extent, worker)
        except LookupError as failure:
            raise Unavailable(str(failure)) from None
        return asked.answer({"metric": metric, "unit": view.metrics[metric], "range": extent, "worker": worker,
                             "step_seconds": step, "points": points})


def _add_lists(api: Blueprint, view: Any) -> None:
    @api.get("/workers")
    def workers() -> Response:
        asked.only("limit", "offset", "sort", "order", "q", "state")
        part = asked.page(view.worker_sorts, "hashrate_1h", descending=True)
        state = asked.choice("state", "", view.worker_states)
        return asked.listed(part, *view.workers.page(part.sort, part.descending, asked.text("q"), state, part.offset,
                                                     part.limit))

    @api.get("/workers/<path:name>")
    def worker(name: str) -> Response:
        asked.only()
        return one_worker(name)

    @api.get("/worker")
    def any_worker() -> Response:
        asked.only("name")
        return one_worker(asked.text("name", asked.LONGEST_NAME))

    def one_worker(name: str) -> Response:
        found = view.workers.one(name)
        if found is None:
            raise NotThere("There is no worker of this name.")
        return asked.answer(found)

    @api.get("/sessions")
    def sessions() -> Response:
        asked.only("limit", "offset", "sort", "order", "q", "worker")
        part = asked.page(view.session_sorts, "id")
        return asked.listed(part, *view.sessions(part.sort, part.descending, asked.text("q"),
                                                 asked.text("worker", asked.LONGEST_NAME),
                                                 part.offset, part.limit))

    @api.get("/sessions/<int:number>")
    def session(number: int) -> Response:
        asked.only()
        found = view.session(number)
        if found is None:
            raise NotThere("There is no session with this id.")
        return asked.answer(found)


def _add_commands(api: Blueprint, control: Any, reload: Callable[[str], dict[str, Any]] | None) -> None:
    def attempt(do: Callable[..., Any], **members: Any) -> Any:
        return asked.attempt(do, **members, by=request.remote_addr or "")

    def done(do: Callable[..., str], **members: Any) -> Response:
        return asked.answer({"done": attempt(do, **members)})

    @api.post("/commands/kick")
    def kick() -> Response:
        asked.only()
        return done(control.kick, **asked.body(session=asked.is_count, worker=asked.is_name,
                                               address=asked.is_text))

    @api.post("/commands/ban")
    def ban() -> Response:
        asked.only()
        return done(control.ban, **asked.body("address", address=asked.is_text, seconds=asked.is_ban,
                                              reason=asked.is_text))

    @api.post("/commands/unban")
    def unban() -> Response:
        asked.only()
        return done(control.unban, **asked.body("address", address=asked.is_text))

    @api.post("/commands/switch-pool")
    def switch_pool() -> Response:
        asked.only()
        members = asked.body(pool=lambda value: asked.is_text(value) or asked.is_count(value))
        if "pool" not in members:
            raise BadRequest("pool is missing: its number or its name")
        return done(control.switch_pool, **members)

    if reload is not None:
        @api.post("/commands/reload")
        def reload_settings() -> Response:
            asked.only()
            asked.body()
            return asked.answer(attempt(reload))
