"""Who may ask the HTTP server for what: tokens, reverse proxies, origins, and the headers that browsers obey."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import re
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, request

from karoo import config
from karoo.web import asked

log = logging.getLogger("karoo.web")

OPEN = frozenset(("/healthz", "/readyz"))  # for whatever watches the process, which knows no token
COMMANDS = "/api/v1/commands/"
FILES = "/static/"  # of the page itself: they tell nothing
FAILURES = 10  # wrong tokens from one address, before it has to wait
FORGIVEN_SECONDS = 6.0  # for each of them
MAX_ADDRESSES = 1000  # that are remembered for wrong tokens

_READING = frozenset(("GET", "HEAD", "OPTIONS"))
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*){1,20}/?")
_WITH_PORT = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")

_MAPPED = "::ffff:"

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
           "connect-src 'self'{sockets}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


def install(app: Flask, http: config.Http) -> None:
    """Have every request to the application checked, and every answer hardened. Called before anything else may hook
    into requests."""
    app.wsgi_app = _BehindProxies(app.wsgi_app, http.trusted_proxies)  # type: ignore[method-assign]
    app.before_request(_Guard(http).check)
    app.after_request(harden)


def exposure(http: config.Http, host: str) -> str | None:
    """The sentence to warn an operator with whose status page, which listens on this host, everybody in the network may
    read; None if not so."""
    if http.read_token:
        return None
    try:
        private = ipaddress.ip_address(host).is_loopback
    except ValueError:
        private = host == "localhost"
    if private:
        return None
    return (f"http.listen: {http.listen} shows the status page to everybody who reaches this address: set "
            "http.read_token, or listen on 127.0.0.1")


def harden(response: Response) -> Response:
    """Headers that keep a browser from running, framing, keeping or sharing what it was not meant to."""
    host = request.environ.get("HTTP_HOST", "")
    # Browsers of before 2022 do not take 'self' for WebSockets as well.
    sockets = f" ws://{host} wss://{host}" if _HOST.fullmatch(host) else ""
    response.headers["Content-Security-Policy"] = _POLICY.format(sockets=sockets)
    response.headers.update(_HEADERS)
    if request.path.startswith(FILES) and response.status_code in (200, 304):
        response.headers["Cache-Control"] = "no-cache"  # kept, and asked for each time whether it has changed
    return response


class _Guard:
    """The check before each request."""

    def __init__(self, http: config.Http) -> None:
        self._token, self._read_token = http.token, http.read_token
        self._failures = _Failures()

    def check(self) -> Response | None:
        """None where the request may be answered, else its answer."""
        if request.headers.get("Upgrade", "").lower() == "websocket" and not _same_origin():
            return _refused(403, "forbidden", "A page from elsewhere may not open a WebSocket here.")
        if request.path in OPEN:
            return None
        # What is no page or has no such method is said to readers.
        commands = request.method not in _READING and request.routing_exception is None
        if not self._token and (commands or request.path.startswith(COMMANDS)):
            return _refused(404, "not_found", "There are no commands without http.token.")
        if commands:
            return self._ask_for(self._token, "Bearer")
        return self._ask_for(self._read_token, "Basic") if self._read_token else None

    def _ask_for(self, token: str, scheme: str) -> Response | None:
        given = request.authorization
        secret = given.token if given and given.type == "bearer" else None
        # Browsers send a password unasked, also for a page from elsewhere: no command counts on it.
        if given and given.type == "basic" and scheme == "Basic":
            secret = given.password
        address = request.remote_addr or "?"
        if secret is not None:
            if self._failures.too_many(address):
                answer = _refused(429, "too_many_requests", "Too many wrong tokens came from this address: wait.")
                answer.headers["Retry-After"] = str(round(FORGIVEN_SECONDS))
                return answer
            if _equal(secret, token):
                return None
            self._failures.add(address)
            log.warning("%s came with a wrong token to %s", address, "read" if scheme == "Basic" else "command")
        answer = _refused(401, "unauthorized", "This needs the right token.")
        # A browser would keep the page's own requests waiting for somebody to fill in its dialog; they can tell why.
        by_page = request.headers.get("Accept") == "application/json" or "Upgrade" in request.headers
        answer.headers["WWW-Authenticate"] = f'{"Bearer" if by_page else scheme} realm="Karoo"'
        return answer


class _Failures:
    """Wrong tokens by address: each is forgiven after a while, one after the other."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._forgiven_at: dict[str, float] = {}  # when the last of an address will be

    def too_many(self, address: str) -> bool:
        """Whether the address has to wait, whatever it comes with: else it could go on guessing."""
        return self._forgiven_at.get(_counted(address), 0.0) - self._clock() > (FAILURES - 1) * FORGIVEN_SECONDS

    def add(self, address: str) -> None:
        now, key = self._clock(), _counted(address)
        until = max(self._forgiven_at.pop(key, now), now) + FORGIVEN_SECONDS
        if len(self._forgiven_at) >= MAX_ADDRESSES:
            del self._forgiven_at[next(iter(self._forgiven_at))]
        self._forgiven_at[key] = until


def _counted(address: str) -> str:
    """What an address is counted under: itself, or its /64."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.IPv6Network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address


def _equal(given: str, token: str) -> bool:
    """In a time that tells nothing of either, not even the length."""
    digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in (given, token)]
    return hmac.compare_digest(*digests)


def _same_origin() -> bool:
    """Whether a WebSocket is asked for by one of our own pages, or by no page at all."""
    origin = request.headers.get("Origin")
    if origin is None:
        return True
    try:
        host: str = request.environ.get("HTTP_HOST", "")
        return urlsplit(origin).netloc.lower() == host.lower() != ""
    except ValueError:
        return False


def _refused(status: int, code: str, message: str) -> Response:
    return asked.answer({"error": {"code": code, "message": message}}, status)


class _BehindProxies:
    """WSGI: takes what proxies say of a client where they are trusted, and forgets what others do."""

    def __init__(self, app: Callable[..., Iterable[bytes]], trusted: Iterable[str]) -> None:
        self._app = app
        self._trusted = config.in_networks(trusted)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        peer = environ.get("REMOTE_ADDR", "")
        if peer.lower().startswith(_MAPPED):  # IPv4 through a socket of both kinds
            environ["REMOTE_ADDR"] = peer[len(_MAPPED):]
        said = {name: environ.pop(f"HTTP_X_FORWARDED_{name}", "") for name in ("FOR", "PROTO", "HOST", "PREFIX")}
        if any(said.values()) and self._trusted(environ.get("REMOTE_ADDR", "")):
            self._believe(environ, said)
        return self._app(environ, start_response)

    def _believe(self, environ: dict[str, Any], said: dict[str, str]) -> None:
        for part in reversed(said["FOR"].split(",")):
            address = _forwarded_address(part.strip())
            if address is None:
                break
            environ["REMOTE_ADDR"] = address
            if not self._trusted(address):
                break
        # Of several proxies' words the nearest one's count: it is the one that we know.
        proto, host, prefix = (said[name].rpartition(",")[2].strip() for name in ("PROTO", "HOST", "PREFIX"))
        if proto.lower() in ("http", "https"):
            environ["wsgi.url_scheme"] = proto.lower()
        if _HOST.fullmatch(host):
            environ["HTTP_HOST"] = host
        if _PREFIX.fullmatch(prefix):
            environ["SCRIPT_NAME"] = prefix.rstrip("/")


def _forwarded_address(text: str) -> str | None:
    """The address of `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1` or `[2001:db8::1]:4711`; None for anything else."""
    match = _WITH_PORT.fullmatch(text)
    bare = (match[1] or match[2]) if match else text
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return None
