"""What miners ask besides subscribe, authorize and submit. Each request is answered, no notification is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from karoo.proxy.house import Route
from karoo.stratum import difficulty as dif
from karoo.stratum import messages, methods
from karoo.stratum.errors import StratumError
from karoo.stratum.messages import Id, Response
from karoo.stratum.methods import Configure

MAX_PASSED_ON = 1024  # bytes of a line: a pool that cuts us for a longer one would cut everybody


class Asking(Protocol):
    """What these functions know of a session."""

    asked_mask: int
    takes_extranonce: bool
    route: Route | None

    def answer(self, request_id: Id, data: bytes) -> None: ...
    def grant_mask(self) -> int: ...
    def suggest(self, difficulty: float) -> None: ...
    def set_floor(self, difficulty: float) -> None: ...
    @property
    def diff1(self) -> int: ...
    @property
    def started(self) -> bool: ...


def handle(session: Asking, request_id: Id, method: str, params: Any) -> None:
    """Do what a method asks for. Raises StratumError, which is the answer then."""
    known = _KNOWN.get(method)
    if known is not None:
        session.answer(request_id, messages.result(request_id, known(session, params)))
    elif request_id is not None:
        _pass_on(session, request_id, method, params)


def _configure(session: Asking, params: Any) -> dict[str, Any]:
    """BIP 310: each extension is answered by itself; version rolling waits until the pool's mask is known."""
    asked = Configure.parse(params)
    answer: dict[str, Any] = dict.fromkeys(asked.unknown, False)
    if asked.version_mask is not None:
        session.asked_mask = asked.version_mask
        mask = session.grant_mask()
        answer[methods.VERSION_ROLLING] = bool(mask)
        if mask:
            answer["version-rolling.mask"] = f"{mask:08x}"
    if asked.minimum_difficulty is not None:
        answer[methods.MINIMUM_DIFFICULTY] = True
        session.set_floor(asked.minimum_difficulty)
    if asked.subscribe_extranonce:
        answer[methods.EXTRANONCE_SUBSCRIBE] = session.takes_extranonce = True
    return answer


def _extranonce_subscribe(session: Asking, params: Any) -> bool:
    session.takes_extranonce = True
    return True


def _suggest_difficulty(session: Asking, params: Any) -> bool:
    session.suggest(methods.positive(methods.members(params, 1, "mining.suggest_difficulty")[0], "the difficulty"))
    return True


def _suggest_target(session: Asking, params: Any) -> bool:
    digits = methods.hex_bytes(methods.members(params, 1, "mining.suggest_target")[0], "the target", 32)
    session.suggest(dif.difficulty_of(max(int.from_bytes(digits, "big"), 1), session.diff1))
    return True


def _get_transactions(session: Asking, params: Any) -> None:
    """bfgminer asks for them to check the pool's work: megabytes that the connection is not for."""
    raise StratumError("The transactions of a job are not told")


def _ping(session: Asking, params: Any) -> str:
    return "pong"


_KNOWN: dict[str, Callable[[Asking, Any], Any]] = {
    "mining.configure": _configure,
    "mining.extranonce.subscribe": _extranonce_subscribe,
    "mining.suggest_difficulty": _suggest_difficulty,
    "mining.suggest_target": _suggest_target,
    "mining.get_transactions": _get_transactions,
    "mining.ping": _ping,
}


def _pass_on(session: Asking, request_id: Id, method: str, params: Any) -> None:
    """To the pool, whose answer comes back under the miner's own id; or an error, but never silence."""
    if session.route is None or not (session.started and method.startswith("mining.") and session.route.passes_on):
        raise StratumError(f"Unknown method {method[:64]}")
    if len(messages.notification(method, params)) > MAX_PASSED_ON:
        raise StratumError("Too long to be passed on")

    def pass_back(answer: Response | None) -> None:
        if answer is None:
            fault = StratumError(f"The pool does not answer {method[:64]}")
            session.answer(request_id, messages.error(request_id, fault))
        elif answer.error is not None:
            session.answer(request_id, messages.error_verbatim(request_id, answer.error))
        else:
            session.answer(request_id, messages.result(request_id, answer.result))

    session.route.ask(method, params, pass_back)
