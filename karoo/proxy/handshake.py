"""How a pool connection begins: configure, subscribe, authorize, extranonce.subscribe, the first job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from karoo import __version__
from karoo.proxy.lost import SessionRefused, UpstreamError
from karoo.stratum import methods
from karoo.stratum.errors import Malformed
from karoo.stratum.messages import Response

if TYPE_CHECKING:
    from karoo.proxy.upstream import Upstream

AGENT = f"karoo/{__version__}"
ANSWER_DEADLINE = 60.0  # seconds that a pool may take over a share before its miner is told so
CONFIGURE_DEADLINE = 5.0  # some pools do not answer what they do not know


def shake_hands(upstream: Upstream) -> None:
    """Every step has a deadline. Raises UpstreamError, TimeoutError, Malformed."""
    deadline = upstream.pool.handshake_ms / 1e3
    _configure(upstream, min(deadline, CONFIGURE_DEADLINE))
    _subscribe(upstream, deadline)
    _authorize(upstream, deadline)
    _ask_for_extranonces(upstream)
    upstream.wait_for_job(deadline)


def _configure(upstream: Upstream, deadline: float) -> None:
    """A pool that does not know the method, or does not answer it, has no version rolling."""
    asked = int(upstream.pool.version_mask, 16)
    if not asked:
        return
    options = {"version-rolling.mask": f"{asked:08x}", "version-rolling.min-bit-count": 2}
    try:
        answer = upstream.call("mining.configure", [[methods.VERSION_ROLLING], options], deadline)
        upstream.mask = asked & methods.configure_mask(answer.result)
        if not upstream.mask:
            upstream.refused.append(f"version rolling: {words(answer)}")
    except (TimeoutError, Malformed) as failure:
        upstream.refused.append(f"version rolling: {failure}")


def _subscribe(upstream: Upstream, deadline: float) -> None:
    resume = upstream.session_id
    upstream.resuming = bool(resume)
    answer = upstream.call("mining.subscribe", [AGENT, resume] if resume else [AGENT], deadline)
    try:
        if answer.error or not answer.result:
            raise Malformed(words(answer))
        upstream.session_id, upstream.extranonce = methods.subscribe_result(answer.result)
    except Malformed as failure:
        refused = f"mining.subscribe refused: {failure}"
        if resume:
            raise SessionRefused(f"{refused} (with the id of a former session)") from None
        raise UpstreamError(refused) from None


def _authorize(upstream: Upstream, deadline: float) -> None:
    user = upstream.names.policy.default_user
    answer = upstream.call("mining.authorize", [user, upstream.pool.password], deadline)
    if answer.result is not True:
        raise UpstreamError(f"mining.authorize refused for {user}: {words(answer)}")


def _ask_for_extranonces(upstream: Upstream) -> None:
    """The answer is not waited for: many pools give none."""
    def answered(answer: Response | None) -> None:
        if answer is None or answer.result is not True:
            why = "no answer" if answer is None else words(answer)
            upstream.refused.append(f"a new extranonce1 without reconnecting: {why}")

    upstream.request("mining.extranonce.subscribe", [], answered, ANSWER_DEADLINE)


def words(answer: Response) -> str:
    """Why a pool does not do what it was asked."""
    return methods.error_words(answer.error, answer.reject_reason)[1]
