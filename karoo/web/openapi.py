"""The API in OpenAPI 3.0: every path, parameter and shape. Written here once; the tests hold the API to it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from karoo import __version__
from karoo.web.asked import LARGEST, LONGEST_BAN, LONGEST_NAME, MAX_TEXT, MOST

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
YES_NO: Schema = {"type": "boolean"}


def maybe(schema: Schema) -> Schema:
    """The same, or null."""
    return {**schema, "nullable": True}


def choice(words: Collection[str]) -> Schema:
    return {"type": "string", "enum": list(words)}


def array(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def table(of: Schema) -> Schema:
    """An object whose keys are not known before."""
    return {"type": "object", "additionalProperties": of}


def record(optional: Collection[str] = (), **members: Schema) -> Schema:
    """An object with these members and no others."""
    return {"type": "object", "properties": members, "additionalProperties": False,
            "required": [name for name in members if name not in optional]}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def paged(of: str) -> Schema:
    return record(total=WHOLE, limit=WHOLE, offset=WHOLE, items=array(ref(of)))


SPANS = record(**{"1m": NUMBER, "15m": NUMBER, "1h": NUMBER, "24h": NUMBER})
LATENCY = maybe(record(p50=NUMBER, p95=NUMBER, p99=NUMBER))

_WORKER = {
    "name": TEXT, "state": choice(("online", "silent", "gone", "past")), "sessions": WHOLE, "device": TEXT,
    "hashrate": ref("Hashrate"), "hashrate_paid": ref("Hashrate"), "accepted": WHOLE, "rejected": WHOLE,
    "reject_ratio": NUMBER, "difficulty": maybe(NUMBER), "seconds_since_share": maybe(NUMBER),
    "first_seen_unix": WHOLE, "last_seen_unix": WHOLE, "cadence_seconds": maybe(NUMBER),
    "pool_latency_ms": LATENCY, "trend": array(NUMBER),
}

SCHEMAS: dict[str, Schema] = {
    "Error": record(error=record(code=TEXT, message=TEXT)),
    "Done": record(done=TEXT),
    "Hashrate": {**SPANS, "description": "Hashes a second over the last 1 min, 15 min, 1 h and 24 h."},
    "Summary": record(
        version=TEXT, uptime_seconds=NUMBER, started_unix=WHOLE, now_unix=WHOLE, algorithm=TEXT,
        stratum=record(addresses=array(TEXT), listeners=array(record(name=TEXT, addresses=array(TEXT))),
                       user_form=TEXT, password_form=TEXT, worker_hint=TEXT),
        pool=record(state=choice(("up", "connecting", "idle", "down")), name=TEXT, address=maybe(TEXT),
                    user=maybe(TEXT), since_unix=maybe(WHOLE), reason=TEXT, difficulty=NUMBER,
                    network_difficulty=maybe(NUMBER), seconds_since_job=maybe(NUMBER), is_backup=YES_NO,
                    connections=WHOLE),
        hashrate=ref("Hashrate"), hashrate_paid=ref("Hashrate"),
        workers=record(online=WHOLE, silent=WHOLE, gone=WHOLE, past=WHOLE), sessions=WHOLE, max_sessions=WHOLE,
        shares=record(accepted=WHOLE, rejected=WHOLE, rejected_by_reason=table(WHOLE), per_second=NUMBER,
                      below_pool=WHOLE, forwarded=WHOLE, pool_accepted=WHOLE, pool_rejected=WHOLE, blocks=WHOLE,
                      seconds_since_share=maybe(NUMBER)),
        difficulty=record(accepted=NUMBER, forwarded=NUMBER, pool_accepted=NUMBER, pool_rejected=NUMBER),
        pool_latency_ms=LATENCY, bans=WHOLE, failovers=WHOLE, exceptions=WHOLE, last_event_id=WHOLE,
        ledger=record(database=maybe(TEXT), fault=maybe(TEXT), restored=YES_NO, seconds_since_write=maybe(NUMBER))),
    "Worker": record(**_WORKER),
    "Share": record(
        unix=NUMBER, job=TEXT, verdict=choice(("accepted", "rejected")), by=choice(("proxy", "pool")), reason=TEXT,
        words=TEXT, difficulty=maybe(NUMBER), needed=maybe(NUMBER), latency_ms=maybe(NUMBER)),
    "WorkerPage": record(
        **_WORKER, rejected_by_reason=table(WHOLE), below_pool=WHOLE, forwarded=WHOLE, pool_accepted=WHOLE,
        pool_rejected=WHOLE, blocks=WHOLE, difficulty_accepted=NUMBER, pool_difficulty_accepted=NUMBER,
        session_items=array(ref("Session")), recent_shares=array(ref("Share"))),
    "Session": record(
        id=WHOLE, address=TEXT, worker=TEXT, upstream_user=TEXT, agent=TEXT, difficulty=NUMBER, accepted=WHOLE,
        rejected=WHOLE, connected_seconds=NUMBER, silent_seconds=NUMBER, backlog_bytes=WHOLE, route=maybe(WHOLE),
        prefix=TEXT, version_mask=TEXT, takes_extranonce=YES_NO, listener=TEXT),
    "Connection": record(
        number=WHOLE, address=maybe(TEXT), up=YES_NO, up_seconds=maybe(NUMBER), user=maybe(TEXT), difficulty=NUMBER,
        network_difficulty=maybe(NUMBER), extranonce1=TEXT, extranonce2_size=WHOLE, version_mask=TEXT, sessions=WHOLE,
        held_shares=WHOLE, owed_answers=WHOLE, prefixes=maybe(record(size=WHOLE, held=WHOLE, capacity=WHOLE))),
    "Pool": record(
        index=WHOLE, name=TEXT, host=TEXT, port=WHOLE, user=TEXT, tls=YES_NO, socks=YES_NO,
        state=choice(("active", "standby", "down", "unknown")), since_unix=maybe(WHOLE), reason=TEXT, sessions=WHOLE,
        connections=array(ref("Connection"))),
    "Ban": record(address=TEXT, why=TEXT, times=WHOLE, since_unix=WHOLE, until_unix=WHOLE, seconds_left=WHOLE),
    "Event": record(id=WHOLE, unix=NUMBER, kind=TEXT, severity=choice(("info", "warning", "critical")), text=TEXT,
                    details=table({})),
    "History": record(
        metric=TEXT, unit=choice(("H/s", "shares", "ms")), range=TEXT, worker=maybe(TEXT), step_seconds=WHOLE,
        points=array({"type": "array", "items": maybe(NUMBER), "minItems": 2, "maxItems": 2,
                      "description": "Start of the bucket in Unix seconds, value or null."})),
}


def query(name: str, schema: Schema, text: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": text}


LIMIT = query("limit", {**WHOLE, "minimum": 1, "maximum": MOST, "default": MOST}, "How many things.")
OFFSET = query("offset", {**WHOLE, "minimum": 0, "maximum": LARGEST, "default": 0}, "After how many others.")
WORKER_NAME = {**TEXT, "minLength": 1, "maxLength": LONGEST_NAME}
WORKER = query("worker", {**TEXT, "maxLength": LONGEST_NAME}, "Of this worker only.")
SEARCH = query("q", {**TEXT, "maxLength": MAX_TEXT}, "A text in names, addresses or devices.")
ORDER = query("order", choice(("asc", "desc")), "In which direction.")
NAME = {**TEXT, "minLength": 1, "maxLength": MAX_TEXT}


def _answers(schema: Schema, *failures: int) -> Schema:
    texts = {400: "The request makes no sense.", 401: "A token is wanted.", 403: "The token is wrong.",
             404: "What it names is not there.", 409: "It cannot be done as things are.", 413: "The body is too long.",
             429: "Too many wrong tokens.", 503: "It cannot be told now."}
    found = {"200": {"description": "As asked.", "content": {"application/json": {"schema": schema}}}}
    for status in failures:
        found[str(status)] = {"description": texts[status],
                              "content": {"application/json": {"schema": ref("Error")}}}
    return found


def _get(text: str, schema: Schema, *parameters: Schema, failures: tuple[int, ...] = ()) -> Schema:
    return {"get": {"summary": text, "parameters": list(parameters), "security": [{}, {"token": []}],
                    "responses": _answers(schema, 400, 401, 429, *failures)}}


def _path(name: str, schema: Schema) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _command(text: str, body: Schema, answer: Schema) -> Schema:
    return {"post": {"summary": text, "security": [{"token": []}],
                     "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
                     "responses": _answers(answer, 400, 401, 404, 409, 413, 429)}}


def document(view: Any, commands: bool) -> dict[str, Any]:
    """The whole document. `view` tells what can be sorted by and asked for; without `commands` there are none."""
    paths = {
        "/summary": _get("Everything at one look", ref("Summary")),
        "/workers": _get("The workers", paged("Worker"), LIMIT, OFFSET,
                         query("sort", choice(view.worker_sorts), "By what; hashrate_1h where it is not said."), ORDER,
                         SEARCH, query("state", choice(view.worker_states), "In this state only.")),
        "/workers/{name}": _get("A worker", ref("WorkerPage"), _path("name", NAME), failures=(404,)),
        "/sessions": _get("The connected miners", paged("Session"), LIMIT, OFFSET,
                          query("sort", choice(view.session_sorts), "By what; id where it is not said."), ORDER, SEARCH,
                          WORKER),
        "/sessions/{id}": _get("A connected miner", ref("Session"),
                               _path("id", {**WHOLE, "minimum": 0, "maximum": LARGEST}), failures=(404,)),
        "/pools": _get("The pools in their order", paged("Pool"), LIMIT, OFFSET),
        "/worker": _get("A worker, also one whose name cannot stand in a path", ref("WorkerPage"),
                        {**query("name", WORKER_NAME, "Its name."), "required": True}, failures=(404,)),
        "/bans": _get("The bans in force", paged("Ban"), LIMIT, OFFSET,
                      query("sort", choice(view.ban_sorts), "By what; since where it is not said."), ORDER, SEARCH),
        "/events": _get("What happened, the latest first", paged("Event"), LIMIT, OFFSET,
                        query("after", {**WHOLE, "minimum": 0, "maximum": LARGEST}, "After the event with this id."),
                        {**query("kind", {**array(choice(view.kinds)), "minItems": 1}, "Of these kinds only."),
                         "style": "form", "explode": False}, SEARCH),
        "/history": _get("A curve from the accounts", ref("History"),
                         query("metric", choice(view.metrics), "What; hashrate where it is not said."),
                         query("range", choice(view.ranges), "How far back; 24h where it is not said."), WORKER,
                         failures=(503,)),
    }
    if commands:
        paths |= _commands()
    return {
        "openapi": "3.0.3",
        "info": {"title": "Karoo", "version": __version__,
                 "description": "What a Karoo proxy tells, and what an operator may do to it. Hashrates are hashes a "
                                "second, times Unix seconds, difficulties the algorithm's own."},
        "servers": [{"url": "."}], "paths": paths,
        "components": {"schemas": SCHEMAS, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _commands() -> dict[str, Any]:
    number = {**WHOLE, "minimum": 0, "maximum": LARGEST}
    address = {"oneOf": [{**TEXT, "format": "ipv4"}, {**TEXT, "format": "ipv6"}]}
    return {
        "/commands/kick": _command("Disconnect a session, or all of a worker or from an address", {"oneOf": [
            record(session=number), record(worker=WORKER_NAME), record(address=address)]}, ref("Done")),
        "/commands/ban": _command("Ban an address", record(
            ("seconds", "reason"), address=address, reason=NAME,
            seconds={**NUMBER, "minimum": 1, "maximum": LONGEST_BAN}), ref("Done")),
        "/commands/unban": _command("Lift a ban", record(address=NAME), ref("Done")),
        "/commands/switch-pool": _command("Take the miners to a pool, by its number or name", record(
            pool={"oneOf": [number, NAME]}), ref("Done")),
        "/commands/reload": _command("Read the configuration again", record(), record(
            changed=array(TEXT), needs_restart=array(TEXT))),
    }
