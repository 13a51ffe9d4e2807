"""One miner's life: take a line, answer it, until the end."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from time import monotonic
from typing import Any, TypeVar

from karoo import units
from karoo.log import wire
from karoo.net.connection import GOING_AWAY, POLICY, TRY_AGAIN, Connection, LineTooLong
from karoo.net.layers import Garbled
from karoo.pace import MustWait, in_loop
from karoo.policy.conduct import CONNECTED, HEARD, SUBSCRIBED, Conduct
from karoo.policy.tuner import Tuner
from karoo.proxy import lines, shares
from karoo.proxy.house import House, Route, SessionLog
from karoo.proxy.lines import Misbehaviour, Parting
from karoo.proxy.pending import PendingShare, Verdict, Worker
from karoo.stratum import messages
from karoo.stratum.errors import ProtocolError, StratumError
from karoo.stratum.job import Job
from karoo.stratum.messages import Id

log = logging.getLogger("karoo.session")

T = TypeVar("T")

# Why sessions end, for counters
MISBEHAVIOUR = "misbehaviour"

LOGGED_REJECTIONS = 50


class Session:
    """One miner over one connection.

    It has no greenlet: the loop calls `work` for what the miner sent, as a greenlet for each would cost 8 kB
    and two switches a share. Only while it has to wait for a pool, at its start, it lives in one.

    ``sent_seq`` is the number of the last job that it was sent, ``epoch`` tells which of the pool's
    extranonces it knows, ``mask`` which version bits it may roll. While it ``waits`` for a pool it reads nothing. It
    was ``dismissed`` when the proxy ended it through no fault of the miner's, which may come back at once.
    """

    __slots__ = ("_leaving", "_told_mask", "accepted", "agent", "asked_mask", "conduct", "conn", "dismissed",
                 "end_reason", "epoch", "house", "mask", "number", "prefix", "rejected", "route", "sent_seq",
                 "session_id", "subscribed", "takes_extranonce", "tried_to_authorize", "tuner", "waits",
                 "worker_name", "workers")

    def __init__(self, number: int, conn: Connection, house: House) -> None:
        self.number, self.conn, self.house = number, conn, house
        self.conduct = Conduct(house.rules, conn.opened_at)
        self.session_id = f"{random.getrandbits(32):08x}"  # whoever guesses one gets a prefix that nobody has
        self.route: Route | None = None
        self.prefix = b""
        self.epoch = 0
        self.agent = self.worker_name = ""
        self.subscribed = self.tried_to_authorize = self.waits = self.dismissed = False
        self.workers: dict[str, Worker] = {}
        self.takes_extranonce = False
        self.asked_mask = self._told_mask = self.mask = 0
        self.tuner = Tuner(house.difficulty, house.judge.algorithm.diff1)
        self.sent_seq = -1
        self.accepted = self.rejected = 0
        self.end_reason = ""
        self._leaving = False

    @property
    def log(self) -> SessionLog:
        return SessionLog(log, {"session": self})

    # ------------------------------------------------------------------ life

    def start_serving(self) -> None:
        """Serve the miner from now on, until it leaves or is cut."""
        self.log.debug("connected")
        self.conn.serve(self.work)

    def work(self) -> bool:
        """Answer what the miner sent just now; whether the session goes on. Nothing that it sends gets an exception out
        of here."""
        conn, line = self.conn, None
        try:
            if conn.has_lines or conn.receive():
                while (line := conn.next_line()) is not None:
                    lines.on_line(self, line)
                if not conn.closed:
                    return True
        except MustWait:
            conn.hold()
            conn.put_back(line or b"")
            self.house.spawn(self._wait_and_work, "a session that waits for a pool")
        except Exception as reason:
            self._leave(reason)
        else:
            self._leave(None)
        return False

    def _wait_and_work(self) -> None:
        """In a greenlet: the line that has to wait for a pool, and those behind it."""
        if self.work():
            self.conn.serve(self.work)

    def _leave(self, reason: Exception | None) -> None:
        """The end; without a reason it was the connection's. Else the miner is given time to read what it was told
        last."""
        self._leaving = True
        self.conn.hold()
        if reason is None:
            self.conn.close()
        try:
            if reason is not None:
                self._explain(reason)
            self._sign_off()
        except Exception as bug:
            self._own_up(bug)
        if self.conn.closed:
            self.house.left(self)
        else:
            code = TRY_AGAIN if self.dismissed else POLICY
            self.house.spawn(lambda: self._close_gently(code), "a farewell")

    def _explain(self, reason: Exception) -> None:
        """Tell the miner, the log and the counters why this is the end."""
        if isinstance(reason, ProtocolError | LineTooLong | Garbled):
            self.tell(messages.error(None, StratumError(str(reason))))
            self._cut(str(reason))
        elif isinstance(reason, Misbehaviour):
            self._cut(str(reason))
        elif isinstance(reason, Parting):
            self.dismissed, self.end_reason = True, str(reason)
        else:
            self._own_up(reason)

    def _own_up(self, bug: Exception) -> None:
        self.house.metrics.exceptions += 1
        self.log.error("a bug ended this session", exc_info=bug)
        self.dismissed, self.end_reason = True, "a bug in the proxy"

    def _sign_off(self) -> None:
        if self.route is not None:
            self.route.leave(self)
        learned = self.tuner.learned
        if learned is not None:
            self.house.remembered.keep(self._who, learned, monotonic())
        for worker in self.workers.values():
            self.house.accounts.leave(worker.account, monotonic())
        reason = self.end_reason or self.conn.cut_reason or "the miner closed the connection"
        self.house.metrics.ended.count(reason)
        # Balancers look every other second whether this port is open.
        level = logging.INFO if self.conn.heard or self.end_reason else logging.DEBUG
        self.log.log(level, "disconnected after %s, %d shares accepted, %d rejected: %s",
                     units.duration(monotonic() - self.conn.opened_at), self.accepted, self.rejected, reason)

    def _close_gently(self, code: int) -> None:
        try:
            self.conn.linger(code, self.end_reason)
        finally:
            self.conn.close()
            self.house.left(self)

    def end(self, reason: str) -> None:
        """Disconnect it; `work` notices."""
        if not (self.waits or self._leaving or self.conn.closed):
            self.conn.serve(self.work)  # it may have been paused
        self.end_reason = self.end_reason or reason
        self.conn.close(reason, TRY_AGAIN if self.dismissed else GOING_AWAY)

    def dismiss(self, reason: str) -> None:
        """Disconnect it through no fault of its own."""
        self.dismissed = True
        self.end(reason)

    def _cut(self, why: str, mild: bool = False) -> None:
        """It misbehaves (`why`, in words): it is told, where it can be, and its address is blamed."""
        self.log.info("cut: %s", why)
        if self.started:
            self.tell(messages.notification("client.show_message", [f"Disconnected: {why}"]))
        self.end_reason = self.end_reason or MISBEHAVIOUR
        self.house.blame(self, why, mild)

    def move(self, house: House, now: float) -> None:
        """Other settings count for it from now on."""
        self.house = house
        self.conduct.change(house.rules)
        self.tuner.change_policy(house.difficulty, now)
        if self.sent_seq >= 0 and self.route is not None:
            self._change_difficulty(self.tuner.under(self.route.ceiling), wished=True)

    def pause(self) -> None:
        """Read nothing more of it, until its end."""
        if not self.waits:
            self.conn.hold()

    def watch_handshake(self, now: float) -> None:
        """Now and then: disconnect it where it does not get on with its handshake in time."""
        if self.workers or self.waits or self.end_reason:
            return
        why = self.conduct.unfinished(SUBSCRIBED if self.subscribed else HEARD if self.conn.heard else CONNECTED, now)
        if why is not None:
            if self.conn.begins_tls:
                why += ": it speaks TLS, and this port does not"
            self._cut(why, mild=True)
            self.conn.close(why, POLICY)

    # ------------------------------------------------------------------ words

    def answer(self, request_id: Id, data: bytes) -> None:
        """Answer a request; a notification (no id) is never answered."""
        if request_id is not None:
            self.tell(data)

    def tell(self, data: bytes) -> None:
        """Send a line as it is."""
        if log.isEnabledFor(logging.DEBUG):
            self.log.debug("> %s", wire(data))
        self.conn.push_soon(data)

    def hear(self, data: bytes) -> None:
        """A message of the pool to all miners; not before its own handshake is over."""
        if self.started:
            self.tell(data)

    # ------------------------------------------------------------------ handshake

    def wait_for(self, get: Callable[[], T]) -> T:
        """What only a pool can give. The time that this takes is not the miner's. Raises MustWait, in the loop."""
        if in_loop():
            return get()
        self.waits, since = True, monotonic()
        self.conn.pause()
        try:
            return get()
        finally:
            self.waits = False
            self.conduct.waited(monotonic() - since)

    def start(self) -> None:
        """Once it is subscribed and authorized: difficulty and the current job follow at once."""
        if self.started and self.sent_seq < 0 and self.route is not None:
            job = self.route.jobs.current
            extranonce = self.route.extranonce
            if job is not None and extranonce is not None and job.extranonce1 == extranonce.extranonce1:
                now = monotonic()
                self.tuner.begin(self.agent, self.house.remembered.recall(self._who, now), now)
                self.deliver(job)  # else the pool just changed it: wait for the job that goes with the new one

    @property
    def gone(self) -> bool:
        """Its connection is closed, though `work` may not have noticed yet."""
        return self.conn.closed

    @property
    def started(self) -> bool:
        """It may be sent jobs."""
        return self.subscribed and bool(self.workers)

    @property
    def extranonce2_size(self) -> int:
        """Bytes of extranonce2 that are the miner's own."""
        assert self.route is not None and self.route.extranonce is not None
        return self.route.extranonce.extranonce2_size - len(self.prefix)

    def settle(self, pending: PendingShare, verdict: Verdict) -> None:
        """The pool's verdict on a share of this session; or why there is none."""
        shares.settle(self, pending, verdict)

    def log_rejected(self, text: str, *args: object) -> None:
        """A miner that does nothing but wrong must not fill the log: from the 50th on one in a hundred is shown."""
        if self.rejected <= LOGGED_REJECTIONS or self.rejected % 100 == 0:
            self.log.info(text, *args)
        else:
            self.log.debug(text, *args)

    # ------------------------------------------------------------------ difficulty

    @property
    def diff1(self) -> int:
        """The target of difficulty 1 of the algorithm that is mined."""
        return self.house.judge.algorithm.diff1

    @property
    def _who(self) -> tuple[str, str, str]:
        """By what it is known again."""
        return self.worker_name, self.conn.host, self.agent

    def suggest(self, difficulty: float) -> None:
        """The miner would like to start at this difficulty."""
        if self.tuner.suggest(difficulty) and self.sent_seq >= 0 and self.route is not None:
            self._change_difficulty(self.tuner.under(self.route.ceiling), wished=True)

    def set_floor(self, difficulty: float) -> None:
        """The miner wants no difficulty below this."""
        if self.tuner.set_floor(difficulty) and self.sent_seq >= 0 and self.route is not None:
            self._change_difficulty(self.tuner.under(self.route.ceiling), wished=True)

    def adjust(self, now: float) -> None:
        """Look whether another difficulty would fit the miner's speed better."""
        if self.route is not None and self.tuner.look(self.sent_seq, now):
            self._change_difficulty(self.tuner.under(self.route.ceiling))

    def stay_below(self, ceiling: float) -> None:
        """The pool's difficulty is now this: a session never holds a higher one."""
        if self.sent_seq >= 0 and self.tuner.difficulty > ceiling:
            self._change_difficulty(ceiling)

    def follow(self, ceiling: float) -> None:
        """The same, also for a rise that no job goes with."""
        if self.sent_seq >= 0:
            self._change_difficulty(self.tuner.under(ceiling))

    def repeat_difficulty(self) -> None:
        """A sign of life for a miner that hears nothing else: never a known job, which some would mine anew."""
        if self.sent_seq >= 0:
            self.tell(self._difficulty_line())

    def _change_difficulty(self, difficulty: float, wished: bool = False) -> None:
        if difficulty != self.tuner.difficulty:
            log.debug("session %d: difficulty %g after %g", self.number, difficulty, self.tuner.difficulty)
            self._hold(difficulty, monotonic(), wished)
            self.house.metrics.vardiff_changes += 1
            self.tell(self._difficulty_line())

    def _hold(self, difficulty: float, now: float, wished: bool = False) -> None:
        if difficulty > self.tuner.difficulty > 0 and not wished:
            self.conduct.raised(now)
        self.tuner.change(difficulty, self.sent_seq, now)

    def _difficulty_line(self) -> bytes:
        return messages.set_difficulty(self.tuner.difficulty)

    # ------------------------------------------------------------------ what the pool sends

    def deliver(self, job: Job) -> None:
        """Send a job, behind whatever must be known before it; in one write."""
        route = self.route
        if route is not None and (data := self.take_job(job, route.ceiling, route.jobs.oldest_seq, monotonic())):
            self.conn.push(data)

    def take_job(self, job: Job, ceiling: float, oldest_seq: int, now: float) -> bytes:
        """What is to be sent for a job, which counts as sent then: mostly the job's own line. Empty when it is to get
        none. `ceiling` and `oldest_seq` are those of its route: this runs for each of thousands of miners."""
        route, tuner = self.route, self.tuner
        if route is None or not (self.subscribed and self.workers) or self.conn.closed:
            return b""
        line = job.clean_line if self.sent_seq < job.clean_seq else job.line
        if (self.epoch != route.epoch or self._told_mask != self.mask
                or tuner.under(ceiling) != tuner.held.difficulty):
            line = self._behind_news(job, line, route, ceiling, now)
            if not line:
                return b""
        tuner.sent(job.seq, self.sent_seq, oldest_seq, now)
        self.sent_seq = job.seq
        if log.isEnabledFor(logging.DEBUG):
            self.log.debug("> %s", wire(line))
        return line

    def _behind_news(self, job: Job, line: bytes, route: Route, ceiling: float, now: float) -> bytes:
        """A job's line behind what the miner must know before it; empty when it has to reconnect instead."""
        if self.epoch != route.epoch and not self.takes_extranonce:
            self.dismiss("the pool gave another extranonce1, and this miner takes none without reconnecting")
            return b""
        lines = []
        if self._told_mask != self.mask:
            lines.append(self._mask_line())
        difficulty = self.tuner.under(ceiling)
        if difficulty != self.tuner.difficulty:
            self._hold(difficulty, now)
            lines.append(self._difficulty_line())
        if self.epoch != route.epoch:
            assert route.extranonce is not None
            line, self.epoch = job.clean_line, route.epoch
            lines.append(messages.notification("mining.set_extranonce", [
                (route.extranonce.extranonce1 + self.prefix).hex(), self.extranonce2_size]))
        return b"".join([*lines, line])

    def grant_mask(self) -> int:
        """The version bits that it may roll, as its configure is answered: what it asked for and the pool allows."""
        mask = self.route.mask if self.route is not None else self.wait_for(lambda: self.house.mask(self))
        self.mask = self._told_mask = self.asked_mask & mask
        return self.mask

    def change_mask(self, mask: int) -> None:
        """The pool's version mask is now this."""
        self.mask = self.asked_mask & mask
        if self.started and self.mask != self._told_mask:
            self.tell(self._mask_line())

    def _mask_line(self) -> bytes:
        self._told_mask = self.mask
        return messages.notification("mining.set_version_mask", [f"{self.mask:08x}"])

    # ------------------------------------------------------------------ state

    @property
    def upstream_user(self) -> str:
        """The name that the pool credits its shares to (empty before authorization)."""
        first = next(iter(self.workers.values()), None)
        names = self.route.names if self.route is not None else None
        return (names or self.house.names).upstream_user(first.user) if first is not None else ""

    def snapshot(self, now: float) -> dict[str, Any]:
        """Its state as plain data."""
        return {
            "id": self.number, "ip": self.conn.peer, "worker": self.worker_name, "upstream_user": self.upstream_user,
            "ok": self.accepted, "bad": self.rejected, "diff": self.tuner.difficulty, "agent": self.agent,
            "route": self.route.number if self.route is not None else None, "prefix": self.prefix.hex(),
            "version_mask": f"{self.mask:08x}", "takes_extranonce": self.takes_extranonce,
            "connected_seconds": round(now - self.conn.opened_at, 1), "backlog_bytes": self.conn.backlog_bytes,
            "silent_seconds": round(now - self.conn.last_heard, 1), "listener": self.house.entrance,
        }
