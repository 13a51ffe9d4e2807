"""What the facts of a pool mean for miners. No I/O."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from karoo import config, units
from karoo.doctor.findings import Section
from karoo.doctor.pools import Facts
from karoo.policy.nonce import prefix_size
from karoo.stratum import difficulty as dif
from karoo.stratum import messages
from karoo.stratum.methods import Extranonce, Notify
from karoo.stratum.share import ALGORITHMS

DAY = 86_400.0
# What programs of miners can take: a coinbase in bytes, branches, bytes of a job.
NERDMINER_COINBASE, ANTMINER_COINBASE, ESP_MINER_BRANCHES, NERDMINER_LINE = 255, 750, 32, 4096
NICEHASH_EXTRANONCE2 = 4
MOST_CONNECTIONS = 256  # that `max_connections` may be
OTHER_POOL = "another port of this pool that gives more bytes, or another pool"
SLOW, VERY_SLOW = 0.5, 2.0  # seconds that an answer takes
ENDS_SOON = 14 * DAY


def title(pool: config.Upstream, user: str) -> str:
    """Which pool, as whom."""
    address = units.place(pool.place.host, pool.place.port)
    return (f"{address if pool.name == address else f'{pool.name} ({address})'} as {user}"
            f"{' over TLS' if pool.place.tls else ''}")


def first_well(found: Iterable[Facts]) -> Facts | None:
    """The first pool, in the order of failover, at which miners can work."""
    return next((facts for facts in found if facts.notify is not None), None)


def tell(section: Section, facts: Facts, algorithm: str, max_clients: int, well: Facts | None = None) -> None:
    """Everything that was seen, and at last whether miners could work there; `well` is the pool that they work at
    where they cannot."""
    _steps(section, facts)
    if facts.shown is not None:
        _tls(section, facts)
    if facts.notify is None:
        for said in facts.said:
            section.note("pool.said", "said", said)
        _failed(section, facts, well)
        return
    assert facts.extranonce is not None
    _extranonce(section, facts.extranonce, facts.pool, max_clients)
    _job(section, facts, algorithm, facts.extranonce, facts.notify)
    for refused in facts.refused:
        section.note("pool.refused", "refused", refused)
    _second(section, facts)
    for said in facts.said:
        section.note("pool.said", "said", said)
    section.ok("pool.job", "result", "miners can work there")


def _failed(section: Section, facts: Facts, well: Facts | None) -> None:
    """Where another pool is well, nobody stops mining."""
    why, mend = facts.failure or "it gave none", _mend(facts.failure, facts.pool.place.tls)
    if well is None:
        section.fail("pool.job", "result", why, mend)
    elif section.subject.startswith("backups"):
        section.warn("pool.job", "result", f"{why}; it could not take over if another pool failed", mend)
    else:
        section.warn("pool.job", "result", f"{why}; meanwhile miners work at the backup {well.pool.name}", mend)


def _steps(section: Section, facts: Facts) -> None:
    for step, seconds in facts.seconds.items():
        text = f"{seconds * 1e3:8.1f} ms"
        data: dict[str, Any] = {"step": step, "ms": round(seconds * 1e3, 2)}
        if step == "dial" and facts.dials:
            tries = sorted([seconds, *facts.dials])
            text += f"  ({len(tries)} tries: {tries[0] * 1e3:.1f} to {tries[-1] * 1e3:.1f} ms)"
            data["tries_ms"] = [round(each * 1e3, 2) for each in [seconds, *facts.dials]]
        if step == "mining.subscribe" and seconds > VERY_SLOW:
            section.warn("pool.step", step, f"{text}: many shares will be stale", "a pool nearer by", **data)
        elif step == "mining.subscribe" and seconds > SLOW:
            section.note("pool.step", step, f"{text}: that is slow, and some shares will be stale", **data)
        else:
            section.ok("pool.step", step, text, **data)


def _tls(section: Section, facts: Facts) -> None:
    shown, pool = facts.shown, facts.pool
    assert shown is not None
    data: dict[str, Any] = {"version": shown.version, "issuer": shown.issuer, "subject": shown.subject,
            "fingerprint": shown.fingerprint, "ends": shown.ends}
    section.ok("pool.tls", "TLS", f"{shown.version}, a certificate of {shown.issuer or '?'} for {shown.subject or '?'}",
               **data)
    accepted = "" if facts.seconds.get("dial") is not None else "; it is not accepted: fingerprint accepts it alone"
    section.ok("pool.fingerprint", "fingerprint", shown.fingerprint + accepted, fingerprint=shown.fingerprint)
    if shown.ends is None or shown.begins is None:
        return
    left, until = shown.ends - time.time(), time.strftime("%Y-%m-%d", time.gmtime(shown.ends))
    unchecked = pool.insecure_skip_verify or bool(pool.fingerprint)
    days: dict[str, Any] = {"days_left": round(left / DAY, 1)}
    if left <= 0 and unchecked:
        section.note("pool.certificate", "certificate", f"has run out on {until}; that does not count here", **days)
    elif left <= 0:
        section.warn("pool.certificate", "certificate", f"has run out on {until}", "the pool has to renew it", **days)
    elif left < ENDS_SOON:
        mend = ("the fingerprint of the next one has to be set then" if pool.fingerprint else
                "" if unchecked else "the pool has to renew it; without a backup mining would stop")
        section.warn("pool.certificate", "certificate", f"runs out in {units.duration(left)}, on {until}", mend, **days)
    else:
        section.ok("pool.certificate", "certificate", f"holds until {until}, {left / DAY:.0f} days", **days)


def _extranonce(section: Section, extranonce: Extranonce, pool: config.Upstream, max_clients: int) -> None:
    first, size = extranonce.extranonce1, extranonce.extranonce2_size
    prefix = prefix_size(size, None if isinstance(pool.prefix_bytes, str) else pool.prefix_bytes)
    room, own = 1 << 8 * prefix, size - prefix
    whole = room * pool.max_connections
    section.ok("pool.extranonce1", "extranonce1", f"{first.hex()} ({len(first)} bytes)", extranonce1=first.hex())
    text = (f"{size} bytes: {prefix} to tell miners apart (room for {room} on a connection), {own} for each miner")
    data: dict[str, Any] = {"size": size, "prefix_bytes": prefix, "miner_bytes": own, "miners_a_connection": room,
                            "miners": whole,
            "max_connections": pool.max_connections, "max_clients": max_clients}
    if whole < max_clients:
        section.warn("pool.room", "extranonce2", f"{text}; with {pool.max_connections} connections that is {whole} "
                     "miners, "
                     f"and proxy.max_clients allows {max_clients}",
                     _more_room(pool, own), **data)
    else:
        section.ok("pool.room", "extranonce2", text, **data)
    if own not in (2, 4, 8):
        section.warn("pool.miner_bytes", "for each miner", f"{units.counted(own, 'byte')}: NerdMiner takes 2, 4 or "
                     "8, and "
                     "fast miners run out of work",
                     "a smaller prefix_bytes, or another pool" if prefix else OTHER_POOL, bytes=own)
    elif own < NICEHASH_EXTRANONCE2:
        section.note("pool.miner_bytes", "for each miner", f"{own} bytes: NiceHash as a miner wants "
                     f"{NICEHASH_EXTRANONCE2}", bytes=own)


def _more_room(pool: config.Upstream, own: int) -> str:
    """What makes room for more miners; `own` bytes are each one's, of which 2 are the least that is of use."""
    can_grow = pool.max_connections < MOST_CONNECTIONS
    ways = [f"raise max_connections of this pool (up to {MOST_CONNECTIONS})"] if can_grow else []
    ways += ["raise prefix_bytes"] if own > 2 else [f"take {OTHER_POOL}"]
    return ", or ".join([*ways, "lower proxy.max_clients"])


def _job(section: Section, facts: Facts, algorithm: str, extranonce: Extranonce, notify: Notify) -> None:
    if facts.mask:
        section.ok("pool.version_mask", "version rolling", f"mask {facts.mask:08x}", mask=f"{facts.mask:08x}")
    else:
        section.note("pool.version_mask", "version rolling", "none: ASICs that roll versions (ASICBoost) may refuse "
                     "to work"
                     if int(facts.pool.version_mask, 16) else "none was asked for (version_mask)", mask="00000000")
    network = dif.difficulty_of(notify.network_target, ALGORITHMS[algorithm].diff1)
    section.ok("pool.difficulty", "difficulty", f"{units.difficulty(facts.difficulty)} (network "
               f"{units.difficulty(network)})",
               difficulty=facts.difficulty, network=network)
    coinbase = len(notify.coinb1) + len(extranonce.extranonce1) + extranonce.extranonce2_size + len(notify.coinb2)
    size = len(messages.notification("mining.notify", notify.params(notify.job_id, True)))
    branches = len(notify.branches)
    text = f"{branches} merkle branches, a coinbase of {coinbase} bytes, {size} bytes in all"
    data: dict[str, Any] = {"branches": branches, "coinbase_bytes": coinbase, "line_bytes": size}
    cannot = [miner for miner, most, value in (
        ("NerdMiner (a coinbase of 255 bytes at most)", NERDMINER_COINBASE, coinbase),
        ("some Antminers (750 bytes)", ANTMINER_COINBASE, coinbase),
        ("NerdMiner (a job of some 4,000 bytes)", NERDMINER_LINE, size),
        ("Bitaxe and others with ESP-Miner (32 branches)", ESP_MINER_BRANCHES, branches)) if value > most]
    if cannot:
        section.warn("pool.job_size", "job", f"{text}: too much for {' and '.join(cannot)}, whose every share would "
                     "be bad",
                     "another pool for such miners", **data)
    else:
        section.ok("pool.job_size", "job", text, **data)


def _second(section: Section, facts: Facts) -> None:
    if not facts.second:
        return
    data: dict[str, Any] = {"user": facts.second_user, "answer": facts.second.partition(":")[0]}
    if facts.second == "taken":
        section.ok("pool.worker_names", "worker names", f"{facts.second_user} is taken beside {facts.user}", **data)
        return
    answer, _, said = facts.second.partition(": ")
    quoted = f' ("{said}")' if said else ""
    section.warn("pool.worker_names", "worker names", f"{facts.second_user} is {answer} beside {facts.user}{quoted}: "
                 f"all shares will be credited to {facts.user}",
                 "worker_names: single says so, or worker names have to be made known at the pool first", **data)


def _mend(failure: str, tls: bool) -> str:
    """What to do where the failure does not say it itself; `tls`: the pool was spoken to over TLS."""
    if any(said in failure for said in ("set tls: ", "does not resolve", "certificate refused", "wants a certificate")):
        return ""
    port = "is this its port for miners?"
    or_tls = port if tls else f"{port} If it wants TLS, set tls: true"
    for part, mend in (
            ("mining.authorize refused", "check user and pass: does the pool know them?"),
            ("refused: Connection refused", ""), ("Connection refused", "is this its port? Is the pool up?"),
            ("no answer within", "is there a firewall on the way?"), ("unreachable", "check the network and its "
                                                                      "routes"),
            ("first job", "the pool may have no work at the moment: try again"),
            ("for an answer to mining.authorize", "the pool may be overloaded: try again"),
            ("for an answer to", or_tls), ("it took more than", or_tls),
            ("does not speak Stratum", or_tls), ("closed the connection", or_tls),
            ("asks to reconnect", "name the address that it asks for")):
        if part in failure:
            return mend
    return ""
