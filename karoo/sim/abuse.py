"""Attacks on a Stratum proxy as a table. Only ever on this machine, bounded in number and time, nothing left open.

An attack takes a `Crowd` and does its worst until it is through, cut, or out of time. To be cut or refused is what it
expects: whether the proxy and its honest miners came out of it well is for others to see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

import gevent

from karoo.sim import abuseminers, abusetls, abuseways, abusewire
from karoo.sim.offender import Crowd, Record, Target

OVERTIME = 5.0  # seconds, after which an attack that does not end by itself is stopped


@dataclass(frozen=True, slots=True)
class Attack:
    """`text` is what it does, in a line; ``addresses`` the number of addresses that it comes from at its full size."""

    do: Callable[[Crowd], None]
    addresses: int
    text: str


ATTACKS: dict[str, Attack] = {
    "slowloris": Attack(abusewire.slowloris, 3, "300 connections send a subscribe byte by byte and never finish it"),
    "idle": Attack(abusewire.idle, 50, "5,000 connections that never say a byte"),
    "storm": Attack(abusewire.storm, 10, "3,000 connections, each closed or reset at once"),
    "byte a second": Attack(abusewire.byte_a_second, 2, "100 connections send an empty line a second, nothing else"),
    "long line": Attack(abusewire.long_line, 1, "4 lines of 10 MB"),
    "junk": Attack(abusewire.junk, 2, "100 connections send what is no JSON"),
    "malformed": Attack(abusewire.malformed, 2, "100 connections send JSON that is no proper message"),
    "deep": Attack(abusewire.deep, 1, "50 connections send JSON of great depth"),
    "long id": Attack(abusewire.long_id, 1, "20 connections send ids of up to 1 MB"),
    "deaf": Attack(abusewire.deaf, 1, "5 connections ask 20,000 things each and read no answer"),
    "stopped reader": Attack(abuseminers.stopped_reader, 1, "20 miners read nothing more, while jobs and answers "
                                                            "pile up"),
    "invalid shares": Attack(abuseminers.invalid_shares, 1, "10 miners send 2,000 shares each with everything wrong"),
    "duplicates": Attack(abuseminers.duplicates, 1, "10 miners send their one real share 2,000 times each"),
    "stale shares": Attack(abuseminers.stale_shares, 1, "10 miners send 2,000 shares each for jobs that are gone"),
    "extranonce": Attack(abuseminers.extranonce, 20, "2,500 logins one after the other, to use up the extranonces"),
    "worker names": Attack(abuseminers.worker_names, 5, "100,000 worker names, 1,000 on each connection"),
    "bad names": Attack(abuseminers.bad_names, 1, "names with line feeds, escapes, HTML and formats, that also mine"),
}

# For a proxy with listeners that want more before the first line than a plain one: see `Stage.attack`
WAYS: dict[str, Attack] = {
    "stuck handshakes": Attack(abusetls.stuck_handshakes, 2, "200 connections do not get through the TLS handshake"),
    "dropped handshakes": Attack(abusetls.dropped_handshakes, 5, "1,500 TLS handshakes, begun and dropped"),
    "done handshakes": Attack(abusetls.done_handshakes, 2, "400 TLS handshakes, and nothing behind them"),
    "key updates": Attack(abusetls.key_updates, 1, "4 connections change their keys 20,000 times each"),
    "empty records": Attack(abusetls.empty_records, 1, "8 connections send 2,000 TLS records with nothing in them"),
    "partial records": Attack(abusetls.partial_records, 1, "100 connections send TLS records without their end"),
    "garbage": Attack(abusetls.garbage, 1, "50 connections send what is no TLS, behind a handshake"),
    "stuck headers": Attack(abuseways.stuck_headers, 2, "200 connections do not get through their PROXY header"),
    "stuck requests": Attack(abuseways.stuck_requests, 2, "200 connections do not get through their HTTP request"),
    "frames": Attack(abuseways.frames, 50, "42 connections, each of which breaks WebSockets in its own way"),
    "misplaced": Attack(abuseways.misplaced, 1, "46 connections send what belongs to another port"),
}


def find(name: str) -> Attack:
    """One of both tables."""
    return ATTACKS.get(name) or WAYS[name]


def run(name: str, target: Target, scale: float = 1.0, seconds: float = 20.0) -> Record:
    """Run one attack of the tables: `scale` of its full size, for `seconds` at most (and OVERTIME). What happened."""
    began = monotonic()
    crowd = Crowd(target, scale, seconds)
    limit = gevent.Timeout(seconds + OVERTIME)
    try:
        with limit:
            find(name).do(crowd)
    except gevent.Timeout as expired:
        if expired is not limit:
            raise
        crowd.record.over_time = True
    finally:
        crowd.close()
    crowd.record.seconds = monotonic() - began
    return crowd.record
