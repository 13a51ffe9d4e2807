"""Connect to a pool: its name, TCP, SOCKS5, TLS, under one deadline. Knows no Stratum."""

from __future__ import annotations

import hashlib
import hmac
import os
import ssl
from dataclasses import dataclass
from time import monotonic
from typing import Any, NamedTuple

import gevent
from gevent import socket

from karoo.net import dialwords, socks5
from karoo.net.addresses import Address, resolve
from karoo.net.tcp import tune
from karoo.net.tls import ClientFiles, Tls, TlsError, client_context
from karoo.units import place

TLS_HANDSHAKE = "TLS handshake"  # a step of the dial

_contexts: dict[ClientFiles, tuple[object, ssl.SSLContext]] = {}  # with what the files were like when it was made
_MOST_CONTEXTS = 64


class DialError(Exception):
    """The peer could not be reached; the text says at which step and why."""


@dataclass(slots=True, frozen=True)
class Destination:
    """Where to connect to, and how.

    ``server_name``: what the peer's certificate is to be for, empty for `host`. ``fingerprint``: 64 hex digits in lower
    case, the SHA-256 of the one certificate that is accepted, in place of every other check; empty for those.
    """

    host: str
    port: int
    tls: bool = False
    files: ClientFiles = ClientFiles()  # noqa: RUF009 - frozen
    server_name: str = ""
    fingerprint: str = ""
    socks_host: str = ""  # empty: straight
    socks_port: int = 1080
    socks_user: str = ""
    socks_password: str = ""

    def __str__(self) -> str:
        return place(self.host, self.port)


class Dialled(NamedTuple):
    """A connected gevent socket, the TLS on it, and what the peer has said already, which is decoded."""

    sock: Any
    layer: Tls | None
    early: bytes


class _Failed(Exception):
    """One address led nowhere."""

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(step, reason)
        self.step, self.reason = step, reason


def dial(to: Destination, timeout: float) -> Dialled:
    """Connect, handshakes included, within `timeout` seconds. Raises DialError.

    A name is resolved anew each time. Its addresses are tried in turn, and each has its part of the time that is left,
    so that one which swallows what it is sent does not take all. One whose certificate is refused does not end the
    dial either: a pool's name stands for many machines, and one of them may be badly kept. That weakens nothing, as
    the next one has to prove itself like the first.

    Through SOCKS5 it is the proxy's addresses that are tried. The pool's name is the proxy's to resolve.
    """
    until = monotonic() + timeout
    failures: list[tuple[Address, _Failed]] = []
    try:
        context = _context(to) if to.tls else None
        addresses = _addresses(to, timeout)
        for tried, address in enumerate(addresses):
            left = until - monotonic()
            if left <= 0 and failures:
                break
            try:
                return _attempt(to, context, address, max(left, 0.0) / (len(addresses) - tried))
            except _Failed as failure:
                failures.append((address, failure))
    except _Failed as failure:
        raise DialError(f"{failure.step} with {to}: {failure.reason}") from failure
    raise DialError(_all_failed(to, failures)) from failures[-1][1]


def _attempt(to: Destination, context: ssl.SSLContext | None, address: Address, seconds: float) -> Dialled:
    """Connect by one address. Raises _Failed."""
    sock, layer, early, step = None, None, b"", _first_step(to)
    deadline = gevent.Timeout.start_new(seconds)
    try:
        if to.socks_host:
            sock = socks5.connect(address, to.host, to.port, to.socks_user, to.socks_password)
        else:
            sock = socket.socket(*address[:3])
            sock.connect(address.place)
        tune(sock)
        if context is not None:
            step = TLS_HANDSHAKE
            layer = Tls(context, _server_name(to), server_side=False)
            early = layer.shake_hands(sock)
            _check(to, layer, early)
        connected, sock = sock, None
        return Dialled(connected, layer, early)
    except gevent.Timeout as expired:
        if expired is not deadline:
            raise
        raise _Failed(step, _silent(to, step, seconds)) from None
    except OSError as failure:
        raise _Failed(step, _reason(to, step, failure)) from failure
    finally:
        deadline.close()
        if sock is not None:
            sock.close()


def _server_name(to: Destination) -> str:
    """As certificates have it: without the dot at the end of a name and the zone of an IP address."""
    return (to.server_name or to.host).rstrip(".").partition("%")[0]


def _check(to: Destination, layer: Tls, early: bytes) -> None:
    """After the handshake: is this the certificate, and is the peer still there? Raises _Failed."""
    if to.fingerprint:
        shown = hashlib.sha256(layer.certificate or b"").hexdigest()
        if not hmac.compare_digest(shown, to.fingerprint):
            raise _Failed(TLS_HANDSHAKE, dialwords.other_fingerprint(shown, to.fingerprint))
    if layer.fault:
        raise _Failed(TLS_HANDSHAKE, dialwords.tls_fault(layer.fault, bool(to.files.cert_file)))
    if layer.ended and not early:
        raise _Failed(TLS_HANDSHAKE, dialwords.CLOSED)


# ------------------------------------------------------------------ before the first attempt

def _addresses(to: Destination, seconds: float) -> list[Address]:
    """Those of the SOCKS5 proxy, or of the pool where there is none. Raises _Failed."""
    _check_names(to)
    host, port = (to.socks_host, to.socks_port) if to.socks_host else (to.host, to.port)
    whose, option = ("the proxy's", "socks_proxy.host") if to.socks_host else ("the", "host")
    deadline = gevent.Timeout.start_new(seconds)
    try:
        return resolve(host, port)
    except gevent.Timeout as expired:
        if expired is not deadline:
            raise
        raise _Failed(_first_step(to), dialwords.no_address(
            whose, option, f"no answer within {_rounded(seconds)} s")) from None
    except OSError as failure:
        raise _Failed(_first_step(to), dialwords.no_address(whose, option, dialwords.plain(failure))) from failure
    finally:
        deadline.close()


def _check_names(to: Destination) -> None:
    """Without this some would fail in strange ways, in a thread or within OpenSSL. Raises _Failed."""
    for option, name in (("host", to.host), ("server_name", to.server_name), ("socks_proxy.host", to.socks_host)):
        try:
            possible = "\0" not in name and not name.startswith(".") and name.encode("idna") is not None
        except UnicodeError:
            possible = False
        if not possible:
            raise _Failed(_first_step(to), f"{option} cannot be the name of a host: check it")
    if to.socks_host and (wrong := socks5.too_long(to.host, to.socks_user, to.socks_password)):
        raise _Failed(_first_step(to), wrong)


def _context(to: Destination) -> ssl.SSLContext:
    """It is kept until the files change: reading the authorities of a system takes 20 ms, in which nothing else is
    done, and there may be a connection for each miner. Raises _Failed."""
    files = to.files
    if to.fingerprint:
        files = ClientFiles(verify=False, cert_file=files.cert_file, key_file=files.key_file)
    state = _state(files)
    before, context = _contexts.get(files, (None, None))
    if context is not None and before == state:
        return context
    try:
        context = client_context(files)
    except TlsError as failure:
        raise _Failed(TLS_HANDSHAKE, str(failure)) from failure
    if len(_contexts) >= _MOST_CONTEXTS:
        _contexts.clear()
    _contexts[files] = state, context
    return context


def _state(files: ClientFiles) -> object:
    """Something that differs once the files do."""
    paths = [files.cert_file, files.key_file]
    if files.verify and files.ca_file:
        paths.append(files.ca_file)
    elif files.verify:
        system = ssl.get_default_verify_paths()  # which the environment may tell
        paths += [system.cafile or "", system.capath or ""]
    return tuple((path, _stamp(path)) for path in paths if path)


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


# ------------------------------------------------------------------ in words

def _first_step(to: Destination) -> str:
    return f"connect through the SOCKS5 proxy {place(to.socks_host, to.socks_port)}" if to.socks_host else "connect"


def _silent(to: Destination, step: str, seconds: float) -> str:
    """An attempt's time is over. Where there are many addresses that is not the same from dial to dial, and each text
    is counted apart: so it is rounded."""
    text = f"no answer within {_rounded(seconds)} s"
    if step == TLS_HANDSHAKE:
        return f"{text}: {dialwords.IS_IT_TLS}"
    return f"{text} from the proxy, or from the pool behind it" if to.socks_host else text


def _reason(to: Destination, step: str, failure: Exception) -> str:
    if step == TLS_HANDSHAKE:
        return dialwords.tls(failure, bool(to.files.cert_file))
    if to.socks_host:
        return socks5.words(failure, to.socks_user, to.socks_password)
    return dialwords.plain(failure)


def _all_failed(to: Destination, failures: list[tuple[Address, _Failed]]) -> str:
    """What came of the address that led furthest, the last of those; each other reason stands behind a semicolon."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for address, failure in failures:
        by_reason.setdefault((failure.step, failure.reason), []).append(str(address))
    _, chief = max(reversed(failures), key=lambda failed: failed[1].step == TLS_HANDSHAKE)
    those = by_reason.pop((chief.step, chief.reason))
    text = f"{chief.step} with {to}: {chief.reason}"
    if len(failures) > 1:
        text += f"; that was {', '.join(those)}"
    for (step, reason), addresses in by_reason.items():
        text += f"; {', '.join(addresses)}: {'' if step == chief.step else step + ': '}{reason}"
    return text


def _rounded(seconds: float) -> str:
    return f"{max(round(seconds, 1), 0.1):g}"
