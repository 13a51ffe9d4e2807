"""Attacks of miners that log in: shares, names, extranonces, answers that nobody reads. See `abuse` for the table."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any

import gevent

from karoo.sim import grind
from karoo.sim.offender import BATCH, Crowd, Login
from karoo.stratum import messages
from karoo.stratum.share import ALGORITHMS

SHARES = 2000  # from each miner of a flood
NAMES = 1000  # on each connection
MOST_HASHES = 200_000  # for the one real share of an attacker: a quarter of a second
_BAD_NAMES = [
    "line\nfeed", "x\n2030-01-01 00:00:00 ERROR   karoo.forged     the pool is gone", "cr\r\nlf", "\x1b[2J\x1b[31mred",
    "\x1b]0;title\x07", "nul\x00", "tab\t", "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "%s%s%n%x",
    "%(asctime)s", "{0}{worker}{__class__}", "${jndi:ldap://127.0.0.1/a}", "$(reboot)", "`id`",
    "'; drop table workers;--", "../../etc/passwd", "\u202etxet", "\u2028sep", "\ud800", "\x9b31m",
    "back\\slash\"quote", "\U0001f480", "x" * 400,
]


def stopped_reader(crowd: Crowd) -> None:
    """Logged in, and deaf from then on: jobs and long answers pile up until the proxy has enough of it."""
    question = messages.request("q" * 8000, "mining.extranonce.subscribe", []) * 4

    def stop(number: int) -> None:
        offender = crowd.connect(receive_buffer=4096)
        if offender is None or offender.log_in(f"abuse.deaf{number}") is None:
            return
        for _ in range(1000):  # 32 MB: more than any system keeps for a socket
            if crowd.over or not offender.send(question):
                return
            gevent.sleep(0.02)

    crowd.each(range(crowd.many(20)), stop)


def invalid_shares(crowd: Crowd) -> None:
    """Shares with everything wrong that can be, each in its turn; where difficulties are high also too low ones."""
    def lines(login: Login) -> Iterator[bytes]:
        job = login.job.notify
        wrong: list[dict[str, Any]] = [
            {"extranonce2": b""}, {"extranonce2": bytes(64)}, {"ntime": 0}, {"ntime": job.ntime + 100_000},
            {"version_bits": 0xFFFFFFFF}, {"user": "nobody.knows"}, {"user": ""}, {}]
        for nonce in range(SHARES // 10):
            for change in wrong:
                yield messages.request(nonce, "mining.submit", login.share(nonce, **change))
            yield messages.request(nonce, "mining.submit", [login.user, job.job_id, "zz", "ntime", None])
            yield messages.request(nonce, "mining.submit", {"nonce": nonce})

    _flood(crowd, "invalid", lines)


def duplicates(crowd: Crowd) -> None:
    """One real share, found by hashing, again and again."""
    def lines(login: Login) -> Iterator[bytes]:
        share = _real_share(login)
        if share is not None:
            yield from (messages.request(4, "mining.submit", share) for _ in range(SHARES))

    _flood(crowd, "duplicates", lines)


def stale_shares(crowd: Crowd) -> None:
    """Shares that would be good, for jobs that are gone or never were."""
    def lines(login: Login) -> Iterator[bytes]:
        for nonce in range(SHARES):
            gone = "0" if nonce % 2 else f"{login.job.notify.job_id}.{nonce:x}"
            yield messages.request(nonce, "mining.submit", login.share(nonce, job_id=gone))

    _flood(crowd, "stale", lines)


def extranonce(crowd: Crowd) -> None:
    """Log in, take a job so that the extranonce counts as used, leave, and come again."""
    def come_and_go(number: int) -> None:
        offender = crowd.connect()
        if offender is not None:
            offender.log_in(f"abuse.space{number % 100}")
            crowd.forget(offender)

    crowd.each(range(crowd.many(2500)), come_and_go)


def worker_names(crowd: Crowd) -> None:
    """As many names as one connection may have, on each of many that all stay until the end."""
    def name_all(number: int) -> None:
        offender = crowd.connect()
        if offender is None or offender.log_in(f"abuse.c{number}") is None:
            return
        names = [messages.request(name, "mining.authorize", [f"abuse.c{number}n{name}", "x"])
                 for name in range(NAMES - 1)]
        for start in range(0, len(names), BATCH):
            batch = names[start:start + BATCH]
            offender.send(b"".join(batch))
            offender.read_answers(len(batch), crowd.until)

    crowd.each(range(crowd.many(100)), name_all)


def bad_names(crowd: Crowd) -> None:
    """Every bad name as user, password, program, method, job and id; under each some good shares, so that it comes
    to the pool, to the books and to the pages as well."""
    def use(name: str) -> None:
        offender = crowd.connect()
        login = offender.log_in(f"abuse.{name}", name, name) if offender is not None else None
        if offender is None or login is None:
            return
        share = _real_share(login)
        lines = [messages.request(name, "mining.submit", share)] if share is not None else []
        for text in (name, f"abuse.{name}"):
            lines += [messages.request(text, "mining.authorize", [text, text]), messages.request(1, text, [text]),
                      messages.request(text, "mining.subscribe", [text, text]),
                      messages.request(3, "mining.submit", login.share(1, user=text)),
                      messages.request(3, "mining.submit", login.share(1, job_id=text)),
                      messages.request(4, "mining.suggest_difficulty", [text]),
                      messages.request(5, "mining.configure", [[text], {text: text}])]
        offender.flood(lines)
        offender.wait_cut(monotonic() + 0.5)  # read the answers, and give the log time for all of it

    crowd.each(random.sample(_BAD_NAMES, min(crowd.many(len(_BAD_NAMES)), len(_BAD_NAMES))), use)


def _flood(crowd: Crowd, name: str, lines: Callable[[Login], Iterable[bytes]]) -> None:
    """Ten miners at a time log in and send what `lines` makes of that."""
    def send(number: int) -> None:
        offender = crowd.connect()
        login = offender.log_in(f"abuse.{name}{number}") if offender is not None else None
        if offender is not None and login is not None:
            offender.flood(lines(login))
            offender.wait_cut(monotonic() + 0.5)

    crowd.each(range(crowd.many(10)), send)


def _real_share(login: Login) -> list[Any] | None:
    """The parameters of a share that is good for the job of a login; None where finding one takes too long."""
    job, zeros = login.job, bytes(login.extranonce2_size)
    start = grind.header_start(job, zeros, job.notify.ntime, job.notify.version)
    first = next(grind.hits(start, job.target, 0, MOST_HASHES, ALGORITHMS["sha256d"]), None)
    return None if first is None else login.share(first[0])
