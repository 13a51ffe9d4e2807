"""What a miner says, line by line: shares go to `shares`, logins to `login`, all else to `requests`."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

from karoo.log import wire
from karoo.proxy import login, requests, shares
from karoo.proxy.pending import NoSeat
from karoo.stratum import messages, submitline
from karoo.stratum.errors import Malformed, ProtocolError, StratumError
from karoo.stratum.messages import Id, Message, Request, Response

if TYPE_CHECKING:
    from karoo.proxy.session import Session

log = logging.getLogger("karoo.session")

_HTTP = re.compile(rb"[A-Z]{3,7} [!-~]+ HTTP/1")
_ODD = b" \t\r\0\xef\xbb\xbf"  # what some firmware puts around a line: blanks, NULs, the mark of UTF-8


class Parting(Exception):
    """The session ends here; the text says why. What was told last is to reach the miner."""


class Misbehaviour(Parting):
    """It ends because of what the miner does."""


def on_line(session: Session, line: bytes) -> None:
    """Do what a line asks. Raises Parting, ProtocolError; MustWait before anything was done."""
    now = session.conn.last_heard
    if log.isEnabledFor(logging.DEBUG):
        session.log.debug("< %s", wire(line))
    share = submitline.read(line)
    if share is not None:
        _do(session, share[0], "mining.submit", share[1], now)
        return
    try:
        message: Message | None = messages.parse(line)
    except (Malformed, ProtocolError) as fault:
        message = _read_again(session, line, fault, now)
    if message is None:
        return
    if isinstance(message, Response):  # to what a pool's message asked it, if anything
        _mind(session.conduct.request(now))
        return
    _do(session, message.id if isinstance(message, Request) else None, message.method, message.params, now)


def _read_again(session: Session, line: bytes, fault: Malformed | ProtocolError, now: float) -> Message | None:
    """The message on a line that has something odd around it; None where it is empty or makes no sense, which
    counts as junk. Raises ProtocolError."""
    clean = line.strip(_ODD)
    if misplaced := _misplaced(line):
        raise ProtocolError(misplaced) from None
    if isinstance(fault, Malformed):
        session.tell(messages.error(None, fault))
    elif clean == line and line:
        raise ProtocolError(str(fault)) from None  # `fault` itself would hold this frame, which holds it
    elif clean:
        try:
            return messages.parse(clean)
        except Malformed as other:
            session.tell(messages.error(None, other))
    _mind(session.conduct.junk(now))
    return None


def _misplaced(line: bytes) -> str:
    """What a line is that would make sense elsewhere; empty where it would not."""
    if line.startswith((b"PROXY ", b"QUIT")):  # the latter: behind the first bytes of the second version
        return ("a PROXY header that is not taken: the address is not in proxy_protocol of this listener, or it is the "
                "second one")
    if line.startswith((b"\x16\x03", b"\x80")):
        return "it speaks TLS, and this port does not"
    if _HTTP.match(line):
        return "it speaks HTTP, and this port does not: WebSockets need a listener with protocol: websocket"
    return ""


def _do(session: Session, request_id: Id, method: str, params: Any, now: float) -> None:
    """Do what a request asks; no id, no answer. Raises Parting, MustWait."""
    try:
        if method == "mining.submit":
            shares.submit(session, request_id, params)
            why = session.conduct.good(now)
        else:
            _on_request(session, request_id, method, params)
            why = session.conduct.request(now)
    except NoSeat as full:
        session.house.metrics.turned_away.count(full.kind)
        session.log.info("turned away: %s", full)
        session.answer(request_id, messages.error(request_id, full))
        raise Parting(full.kind) from None
    except StratumError as fault:
        session.answer(request_id, messages.error(request_id, fault))
        why = _count_fault(session, method, fault, now)
    _mind(why)


def _on_request(session: Session, request_id: Id, method: str, params: Any) -> None:
    if method == "mining.subscribe":
        login.subscribe(session, request_id, params)
    elif method == "mining.authorize":
        login.authorize(session, request_id, params)
    else:
        requests.handle(session, request_id, method, params)


def _count_fault(session: Session, method: str, fault: StratumError, now: float) -> str | None:
    """A request that was answered with an error; the reason to cut the session, if that is one."""
    if method == "mining.submit":
        return shares.count_fault(session, fault, now)
    return session.conduct.junk(now) if isinstance(fault, Malformed) else session.conduct.request(now)


def _mind(why: str | None) -> None:
    if why is not None:
        raise Misbehaviour(why)
