"""What can be wrong with a pool, as data: what it says, what that leads to, and why the log says so.

`python -m tests.poolfaults > docs/pool-faults.md` writes the table of the documentation.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field

CLOSE, SILENCE = "(closes)", "(silence)"
BACKUP, ON = "the backup pool takes over", "the miners go on"
TLS, SOCKS5 = "TLS", "SOCKS5"  # ways to a pool, other than the plain one
TRUSTED, PRIVATE, OTHER_NAME, EXPIRED = "trusted", "private", "other name", "expired"  # certificates

PREVHASH = "1027c4d1414c343c1e2feb897ed4d57bc2ce6f44000073110000000000000000"
COINB1 = "01000000010000000000000000000000000000000000000000000000000000000000000000ffffffff20"
COINB2 = "ffffffff0100f2052a010000001976a914000000000000000000000000000000000000000088ac00000000"
JOB = ["1", PREVHASH, COINB1, COINB2, [], "20000000", "17034219", "68000000", True]
DIFFICULTY = '{"id":null,"method":"mining.set_difficulty","params":[1e-05]}'


def notify(*params: object) -> str:
    return json.dumps({"id": None, "method": "mining.notify", "params": list(params)})


def job(**changed: object) -> str:
    """A job with some fields replaced: id, prevhash, coinb1, coinb2, branches, version, nbits, ntime, clean."""
    names = ("id", "prevhash", "coinb1", "coinb2", "branches", "version", "nbits", "ntime", "clean")
    return notify(*(changed.get(name, value) for name, value in zip(names, JOB, strict=True)))


REPLIES = {  # of a pool without fault; $ is the request's id
    "mining.configure": '{"id":$,"result":{"version-rolling":true,"version-rolling.mask":"1fffe000"},"error":null}',
    "mining.subscribe": '{"id":$,"result":[[["mining.notify","s1"]],"f0f0f0f0",8],"error":null}',
    "mining.authorize": '{"id":$,"result":true,"error":null}',
    "mining.submit": '{"id":$,"result":true,"error":null}',
}


@dataclass(frozen=True)
class Fault:
    """``replies`` stand in place of those of a good pool; ``first`` is what follows the authorization instead of a
    difficulty and a job, ``after`` what follows these; ``at_once`` is said before anything was asked. ``reason`` is
    part of what the log says.

    The dial: ``host`` is what the proxy is told to connect to. ``way`` is how; of TLS only a pool with a
    ``certificate`` is capable, and with SOCKS5 it is the proxy on the way that has the fault. Where it is ``absent``,
    nothing listens on the port."""

    name: str
    leads_to: str
    reason: str
    replies: dict[str, str] = field(default_factory=dict)
    first: tuple[str, ...] = (DIFFICULTY, job())
    after: tuple[str, ...] = ()
    at_once: str = ""
    host: str = "127.0.0.1"
    way: str = ""
    certificate: str = ""
    absent: bool = False


def _subscribed(result: str) -> dict[str, str]:
    return {"mining.subscribe": f'{{"id":$,"result":{result},"error":null}}'}


def _closing(step: str) -> Fault:
    return Fault(f"closes instead of an answer to {step}", BACKUP, "the pool closed the connection", {step: CLOSE})


def _silent(step: str) -> Fault:
    return Fault(f"does not answer {step}", BACKUP, f"s for an answer to {step}", {step: SILENCE})


def _faulty_job(name: str, value: object, reason: str) -> Fault:
    return Fault(f"a job whose {name} is {value!r}", BACKUP, reason, first=(DIFFICULTY, job(**{name: value})))


def _refused_certificate(name: str, certificate: str, reason: str) -> Fault:
    return Fault(f"TLS with a certificate {name}", BACKUP, f"certificate refused: {reason}", host="localhost", way=TLS,
                 certificate=certificate)


def _socks5_answer(code: int) -> str:
    """No password needed; then the answer to the request to connect."""
    return f"\x05\x00\x05{chr(code)}\x00\x01\x00\x00\x00\x00\x00\x00\\"


DIAL = (
    Fault("refuses the connection: nothing listens there", BACKUP, "Connection refused", absent=True),
    Fault("has a name that does not resolve", BACKUP, "the name does not resolve", host="pool.invalid"),
    Fault("says nothing to the TLS handshake", BACKUP, "no answer within", way=TLS, at_once=SILENCE),
    Fault("closes in the TLS handshake", BACKUP, "the pool closed the connection", way=TLS, at_once=CLOSE),
    Fault("speaks plain Stratum where TLS is asked for", BACKUP, "the pool's answer is not TLS", way=TLS,
          at_once=DIFFICULTY),
    Fault("answers the TLS handshake with garbage", BACKUP, "the pool's answer is not TLS", way=TLS,
          at_once="\x00\x01\x02\xff\n"),
    _refused_certificate("that nobody vouches for", PRIVATE, "of an unknown authority"),
    _refused_certificate("for another name", OTHER_NAME, "for another name"),
    _refused_certificate("that has expired", EXPIRED, "expired"),
    Fault("is behind a SOCKS5 proxy that is not there", BACKUP, "the proxy itself: Connection refused", way=SOCKS5,
          absent=True),
    Fault("is behind a SOCKS5 proxy that says nothing", BACKUP, "no answer within", way=SOCKS5, at_once=SILENCE),
    Fault("is behind a SOCKS5 proxy that speaks HTTP", BACKUP, "the proxy does not speak SOCKS5", way=SOCKS5,
          at_once="HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\n"),
    Fault("is behind a SOCKS5 proxy that wants a password", BACKUP, "the proxy wants a user name and a password",
          way=SOCKS5, at_once="\x05\x02\\"),
    Fault("is behind a SOCKS5 proxy whose rules forbid it", BACKUP, "the proxy's rules forbid it (0x02)",
          way=SOCKS5, at_once=_socks5_answer(2)),
    Fault("is behind a SOCKS5 proxy that cannot reach it", BACKUP, "the pool refuses the proxy's connection (0x05)",
          way=SOCKS5, at_once=_socks5_answer(5)),
)
FAULTS = (
    *DIAL,
    Fault("closes when it is dialled", BACKUP, "the pool closed the connection", at_once=CLOSE),
    _closing("mining.configure"),
    _closing("mining.subscribe"),
    _closing("mining.authorize"),
    Fault("closes before the first job", BACKUP, "the pool closed the connection", first=(CLOSE,)),
    Fault("half a line, then closes", BACKUP, "the pool closed the connection", first=('{"id":null,"met\\', CLOSE)),
    Fault("speaks another protocol (HTTP)", BACKUP, "the pool does not speak Stratum",
          at_once="HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\n"),
    Fault("garbage", BACKUP, "the pool does not speak Stratum", at_once="\x00\x01\x02\xff\n"),
    Fault("a line of more than 1 MB", BACKUP, "the pool sent a line of more than", first=("x" * 1_100_000,)),
    Fault("does not answer mining.configure", ON, "version rolling: waited", {"mining.configure": SILENCE}),
    Fault("answers mining.configure with an error", ON, "version rolling",
          {"mining.configure": '{"id":$,"result":null,"error":[20,"Unknown method",null]}'}),
    _silent("mining.subscribe"),
    _silent("mining.authorize"),
    Fault("never sends a job", BACKUP, "s for its first job", first=(DIFFICULTY,)),
    Fault("authorizes with false", BACKUP, "mining.authorize refused for wallet",
          {"mining.authorize": '{"id":$,"result":false,"error":null}'}),
    Fault("authorizes with an error", BACKUP, "mining.authorize refused for wallet: not here",
          {"mining.authorize": '{"id":$,"result":null,"error":[24,"not here",null]}'}),
    Fault("refuses to subscribe", BACKUP, "mining.subscribe refused: no more room",
          {"mining.subscribe": '{"id":$,"result":null,"error":[20,"no more room",null]}'}),
    *(Fault(f"a subscribe result of the wrong shape: {result}", BACKUP, "mining.subscribe refused",
            _subscribed(result)) for result in ("true", "{}", "[]", "[[]]", '[[],"f0f0f0f0"]', '["a","b","c"]')),
    *(Fault(f"extranonce2_size {size}", BACKUP, "mining.subscribe refused", _subscribed(f'[[],"f0f0f0f0",{size}]'))
      for size in ("0", "17", "-1", "1.5", "null", "true")),
    Fault("extranonce2_size 1: one miner a connection", ON, "extranonce2_size 1", _subscribed('[[],"f0f0f0f0",1]')),
    Fault('extranonce2_size "8", as a text', ON, "extranonce2_size 8", _subscribed('[[],"f0f0f0f0","8"]')),
    Fault("an empty extranonce1", ON, "extranonce1 ,", _subscribed('[[],"",8]')),
    Fault("an extranonce1 of 40 bytes", BACKUP, "mining.subscribe refused", _subscribed(f'[[],"{"f0" * 40}",8]')),
    Fault("an extranonce1 that is no hex", BACKUP, "mining.subscribe refused", _subscribed('[[],"pool",8]')),
    _faulty_job("id", ["1"], "s for its first job"),
    _faulty_job("prevhash", 7, "s for its first job"),
    _faulty_job("prevhash", "00", "s for its first job"),
    _faulty_job("coinb1", None, "s for its first job"),
    _faulty_job("coinb2", "xyz", "s for its first job"),
    _faulty_job("branches", "none", "s for its first job"),
    _faulty_job("branches", ["00"], "s for its first job"),
    _faulty_job("version", 536870912, "s for its first job"),
    _faulty_job("nbits", "", "s for its first job"),
    _faulty_job("ntime", "now", "s for its first job"),
    Fault("a job of three fields", BACKUP, "s for its first job", first=(DIFFICULTY, notify("1", PREVHASH, COINB1))),
    Fault("a faulty job after a good one", ON, "passed over a faulty mining.notify", after=(job(id="2", nbits=[]),)),
    Fault("a job id that it used before for other work", ON, "is up", after=(job(ntime="68000001", clean=False),)),
    *(Fault(f"mining.set_difficulty with {value}", ON, "passed over a faulty mining.set_difficulty",
            after=(f'{{"id":null,"method":"mining.set_difficulty","params":[{value}]}}',))
      for value in ("0", "-1", '"many"', "null")),
    Fault("mining.set_difficulty with NaN, which is no JSON", BACKUP, "the pool does not speak Stratum",
          after=('{"id":null,"method":"mining.set_difficulty","params":[NaN]}',)),
    Fault("mining.set_extranonce of the wrong shape", ON, "passed over a faulty mining.set_extranonce",
          after=('{"id":null,"method":"mining.set_extranonce","params":["zz",99]}',)),
    Fault("client.reconnect to another domain", ON, "refused: another site",
          after=('{"id":null,"method":"client.reconnect","params":["pool.evil.example",3333,0]}',)),
    *(Fault(f"client.reconnect to a host {name}", ON, "no host", host="localhost",
            after=(json.dumps({"id": None, "method": "client.reconnect", "params": [host, 3333, 0]}),))
      for name, host in (("with a NUL in its name", "127.0.0.1\0.localhost"), ("with an empty label", "a..localhost"),
                         ("without a first label", ".localhost"), ("with a long label", f"{'a' * 64}.localhost"))),
    Fault("answers to ids that were never asked", ON, "is up",
          after=('{"id":987654,"result":true,"error":null}', '{"id":"x","result":true,"error":null}')),
    Fault("answers everything twice", ON, "is up",
          {method: f"{reply}\n{reply}" for method, reply in REPLIES.items()}),
)


def table() -> str:
    """The faults and what each leads to, in Markdown."""
    rows = [f"| {_cell(fault.name)} | {fault.leads_to} | {_cell('…' + fault.reason + '…')} |" for fault in FAULTS]
    return INTRODUCTION + "\n".join(["| the pool | then | the log says |", "| --- | --- | --- |", *rows, ""])


INTRODUCTION = """\
# What a faulty pool leads to

Each row is tried in `tests/test_poolfaults.py`, with a faulty pool, a good one as its backup, and a miner that must go
on. This page is made from `tests/poolfaults.py`, which also has the very words of each pool. The faults stand in the
order in which a connection comes to them: the dial, with TLS and SOCKS5, the handshake, the first job, and what comes
after it.

A pool that was left is tried again, after a wait that doubles with each failure; once it has been well for
`failback_after_seconds`, the miners come back to it. Besides these faults, a pool is left when it says nothing for
`silence_ms`, sends no new job for `stale_job_ms`, or refuses more than `max_reject_ratio` of the shares
(`tests/test_failover.py`). A handshake says nothing of these last two: a pool that sent no new job is gone back to when
it shows new work, and one that is of no use again and again is left alone for twice as long each time, up to an hour,
as long as there is another one.

"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\x00", "\\0")


if __name__ == "__main__":
    sys.stdout.write(table())
