"""The command line's side of the control socket: find it, ask, read the answer."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from collections.abc import Iterator, Mapping
from time import monotonic
from typing import Any

from karoo import config
from karoo.configfile import ConfigError, parse, read_text
from karoo.configschema import Builder, based, walk
from karoo.ctl.socketfile import path_fault, shown
from karoo.doctor.running import socket_of

SECONDS = 60.0  # for an answer, or for the next piece of one
MAX_LINE = 64 << 20  # bytes; a proxy sends far less
READ_SIZE = 65536

# Where a proxy's socket is looked for when neither a configuration nor a socket is named.
USUAL = ("karoo.sock", "/run/karoo/karoo.sock")


class NoProxy(Exception):
    """No proxy is to be reached; the text says where it was looked for and why not."""


class Failed(Exception):
    """The proxy did not do what was asked, or not to the end; the text says why. ``code`` is the API's name for it."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


# ---------------------------------------------------------------- where it is

def socket_path(config_path: str | None, given: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """The path of the socket, from --config or --socket. Raises NoProxy."""
    if given is not None:
        return given
    if config_path is not None:
        return _from_config(config_path, environ)
    for path in USUAL:
        if os.path.exists(path):
            return path
    raise NoProxy(f"there is no {' and no '.join(USUAL)}: name the configuration with -c, or the socket with --socket")


def _from_config(path: str, environ: Mapping[str, str]) -> str:
    """`control.socket` of a file that may be faulty otherwise: the proxy is to say what is wrong with it. Where a fault
    leaves it open which socket is meant, that of a proxy which runs with this very file; a guess might command another
    one. Raises NoProxy."""
    try:
        text = read_text(path)
        builder = Builder(config.Config, environ)
        found = builder.build(config.Config, parse(text, path), "", 1)
        known = {option for option, _, _ in walk(found)}
        if faults := [fault for fault in builder.faults if fault.path in ("", "control", "control.socket") or (
                "control.socket" not in builder.given and fault.path not in known)]:
            raise ConfigError(path, faults)  # a name that is not known may be a misspelt one, or stand in a wrong place
    except ConfigError as fault:
        if running := socket_of(path):
            return running
        raise NoProxy(f"{fault}\nWhich proxy is meant cannot be told (--socket PATH needs no configuration)") from None
    found = based(found, os.path.dirname(os.path.abspath(path)))
    if not found.control.socket:
        raise NoProxy(f"control.socket is empty in {shown(path)}, so that the proxy has no control socket")
    return found.control.socket


def connect(path: str, seconds: float = SECONDS) -> socket.socket:
    """A connection to the proxy. Raises NoProxy."""
    fault = path_fault(path)
    if fault:
        raise NoProxy(fault)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(seconds)
    try:
        sock.connect(path)
    except OSError as failure:
        sock.close()
        raise NoProxy(f"{shown(path)}: {_why(path, failure)}") from None
    return sock


def _why(path: str, failure: OSError) -> str:
    match failure.errno:
        case errno.ENOENT:
            return "there is no such socket: no proxy runs with it, or control.socket names another"
        case errno.ECONNREFUSED:  # Linux says it of any other file too
            return ("no proxy listens there any more: the one that made it has ended" if _is_socket(path) else
                    "this is no socket: name the one that control.socket names")
        case errno.EACCES | errno.EPERM:
            return "you may not open it: control.mode decides who may, and so do the rights of its folder"
        case errno.ENOTSOCK | errno.EPROTOTYPE:
            return "this is no control socket"
    if isinstance(failure, TimeoutError) or failure.errno == errno.EAGAIN:
        return "the proxy is there and does not answer"
    return failure.strerror or str(failure)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return True  # gone since, or not to be seen


# ---------------------------------------------------------------- asking

def ask(path: str, command: str, members: Mapping[str, Any] | None = None, seconds: float = SECONDS) -> dict[str, Any]:
    """The answer to a command, in the shape that /api/v1 has for it; a list with all that was asked for in `items`.

    Raises NoProxy, Failed.
    """
    with connect(path, seconds) as sock:
        try:
            sock.sendall(json.dumps({"command": command, "members": dict(members or {})}).encode() + b"\n")
        except OSError:
            pass  # it may have said why before it closed
        lines = _lines(sock, seconds)
        first = _next(lines)
        if "answer" in first:
            return dict(first["answer"])
        whole, items = dict(first["list"]), list[Any]()
        while "items" in (line := _next(lines)):
            items += line["items"]
        return whole | {"items": items}


def _next(lines: Iterator[bytes]) -> dict[str, Any]:
    """The next line of an answer. Raises Failed where it is an error, or none comes."""
    text = next(lines, None)
    if text is None:
        raise Failed("lost", "the proxy closed the connection before it had answered: it stops, or is too busy")
    try:
        found = json.loads(text)
        if "error" in found:
            raise Failed(str(found["error"]["code"]), str(found["error"]["message"]))
        if not found.keys() & {"answer", "list", "items", "end"}:
            raise ValueError
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Failed("garbled", "what answers there does not speak as a proxy of this version does") from None
    return dict(found)


def _lines(sock: socket.socket, seconds: float) -> Iterator[bytes]:
    """Whole lines, until the end of the stream. Raises Failed where nothing comes for too long."""
    parts: list[bytes] = []
    held, until = 0, monotonic() + seconds
    while True:
        try:
            sock.settimeout(max(until - monotonic(), 1e-3))
            data = sock.recv(READ_SIZE)
        except TimeoutError:
            raise Failed("timeout", f"the proxy did not answer within {seconds:g} seconds") from None
        except OSError:
            return  # reset: it has ended
        if not data:
            return
        until = monotonic() + seconds
        *whole, rest = data.split(b"\n")
        for line in whole:
            yield b"".join([*parts, line])
            parts, held = [], 0
        parts.append(rest)
        held += len(rest)
        if held > MAX_LINE:
            raise Failed("garbled", "what answers there sends a line without end")
