"""How a miner logs in: mining.subscribe and mining.authorize, and what its names say of its difficulty."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from karoo.policy import hints
from karoo.proxy.pending import Worker
from karoo.stratum import messages
from karoo.stratum.errors import StratumError
from karoo.stratum.messages import Id
from karoo.stratum.methods import Authorize, Subscribe

if TYPE_CHECKING:
    from karoo.proxy.house import Route
    from karoo.proxy.session import Session

MAX_NAMES = 100_000  # users on all connections together; beyond them one on each connection is let in
MAX_WORKERS = 1000  # users that one connection may be authorized as (a proxy behind this one has many)


def subscribe(session: Session, request_id: Id, params: Any) -> None:
    """Give the miner its piece of the search space; waits for a pool. Raises StratumError, NoSeat."""
    asked = Subscribe.parse(params)
    session.agent = asked.agent
    route = _take_seat(session, asked.session_id)
    assert route.extranonce is not None
    subscriptions = [["mining.set_difficulty", session.session_id], ["mining.notify", session.session_id]]
    session.answer(request_id, messages.result(request_id, [
        subscriptions, (route.extranonce.extranonce1 + session.prefix).hex(), session.extranonce2_size]))
    session.epoch = route.epoch
    session.subscribed = True
    session.start()


def _take_seat(session: Session, former_id: str | None) -> Route:
    """Its route; waits for one at the first call."""
    if session.route is None:
        session.route = session.wait_for(lambda: session.house.seat(session, former_id))
        session.mask = session.asked_mask & session.route.mask
    return session.route


def authorize(session: Session, request_id: Id, params: Any) -> None:
    """Every user is let in; whether the pool knows it shows with its first share. Raises StratumError."""
    session.tried_to_authorize = True
    try:
        asked = Authorize.parse(params)
    except StratumError as fault:
        session.log.info("authorization refused: %s", fault)
        raise
    if asked.user not in session.workers:
        if len(session.workers) >= MAX_WORKERS:
            raise StratumError(f"More than {MAX_WORKERS} workers on one connection")
        if session.workers and session.house.accounts.all.sessions >= MAX_NAMES:
            raise StratumError("Too many workers on all connections together")
        user = _read_hints(session, asked)
        name = session.house.names.account(user)
        account = session.house.accounts.join(name, monotonic())
        session.workers[asked.user] = Worker(user, asked.password, account)
        session.worker_name = session.worker_name or name
        session.log.info("authorized as %s (%s)", name, session.agent or "no agent")
    session.answer(request_id, messages.result_true(request_id))
    session.start()


def _read_hints(session: Session, asked: Authorize) -> str:
    """The user's name without what it says of the difficulty; the password may say something too."""
    user, start = hints.split_user(asked.user)
    by_password, floor = hints.read_password(asked.password)
    start = start or by_password
    if start is not None and session.tuner.suggested is None:
        session.tuner.suggested = start
    if floor is not None:
        session.set_floor(floor)
    return user
