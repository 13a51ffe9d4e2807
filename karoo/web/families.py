"""Every metric of /metrics: name, type, labels, what an operator reads from it, and which figures it shows. No I/O.

`docs/metrics.md` is made from this table (`markdown`), and a test holds the two equal.
"""

from __future__ import annotations

import operator
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import gevent

Labels = tuple[str, ...]
Samples = Iterable[tuple[Labels, Any]]
Figures = dict[str, Any]

COUNTER, GAUGE, HISTOGRAM, INFO, UNTYPED = "counter", "gauge", "histogram", "info", "untyped"
OTHER = "other"  # the value of a label that stands for all that have none of their own
SPANS = ("1m", "15m", "1h", "24h")
POOL_STATES = ("active", "standby", "down", "unknown")
WORKER_STATES = ("online", "silent", "gone", "past")


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. `read` takes the figures and yields (label values, value); a value of None is left out. The value of
    a histogram is its dictionary (`bounds` in seconds, `counts`, `sum`). Where label values become alike, the values
    are put together by `merge`. Counts that are ``kept`` go on over restarts, once the ledger is read."""

    name: str
    kind: str
    help: str
    read: Callable[[Figures], Samples]
    labels: Labels = ()
    merge: Callable[[Any, Any], Any] = operator.add
    kept: bool = False


def _one(*keys: str) -> Callable[[Figures], Samples]:
    """The figure that is found under these keys, one inside the other."""
    def read(figures: Figures) -> Samples:
        value: Any = figures
        for key in keys:
            value = value[key]
        return [((), value)]
    return read


def _each(*keys: str, of: Labels | None = None) -> Callable[[Figures], Samples]:
    """Each figure of a dictionary, by its key; or those `of` certain keys, as far as they are there."""
    def read(figures: Figures) -> Samples:
        value: Any = figures
        for key in keys:
            value = value[key]
        return [((name,), value[name]) for name in (value if of is None else of) if name in value]
    return read


def _pools(figure: Callable[[dict[str, Any]], Any]) -> Callable[[Figures], Samples]:
    return lambda figures: [((str(pool["index"]), pool["name"]), figure(pool)) for pool in figures["pools"]]


def _routes(figure: Callable[[dict[str, Any]], Any]) -> Callable[[Figures], Samples]:
    return lambda figures: [((str(route["number"]),), figure(route)) for route in figures["routes"]]


def _prefixes(key: str) -> Callable[[Figures], Samples]:
    return _routes(lambda route: route["prefixes"] and route["prefixes"][key])


def _listeners(key: str) -> Callable[[Figures], Samples]:
    return lambda figures: [((one["name"],), one[key]) for one in figures["listeners"] if one[key] is not None]


def _serving(figures: Figures) -> dict[str, Any]:
    """The first pool connection that is up, else the first; the original program knew one only."""
    routes: list[dict[str, Any]] = figures["routes"]
    return next((route for route in routes if route["up"]), routes[0] if routes else {})


def _pool_states(figures: Figures) -> Iterator[tuple[Labels, int]]:
    for pool in figures["pools"]:
        for state in POOL_STATES:
            yield (str(pool["index"]), pool["name"], state), int(pool["state"] == state)


def _outcomes(figures: Figures) -> Iterator[tuple[Labels, int]]:
    yield ("session",), sum(figures["ended"].values()) + figures["sessions"]
    for reason, count in figures["turned_away"].items():
        yield (reason,), count


def _shares(figures: Figures) -> Iterator[tuple[Labels, int]]:
    accounts = figures["accounts"]
    yield ("accepted", "proxy", "none"), accounts["below_pool"]
    yield ("accepted", "pool", "none"), accounts["pool_accepted"]
    for reason, count in accounts["rejected_by_reason"].items():
        of_pool = reason.startswith("pool: ")
        yield ("rejected", "pool" if of_pool else "proxy", reason.removeprefix("pool: ")), count


def _latency(figures: Figures) -> Iterator[tuple[Labels, float]]:
    for name, milliseconds in (figures["accounts"]["pool_latency_ms"] or {}).items():
        yield (name.removeprefix("p"),), milliseconds / 1e3


def _answers(figures: Figures) -> Samples:
    return [(("proxy",), figures["histograms"]["answer_here"]), (("pool",), figures["histograms"]["answer_pool"])]


def _fanout(figures: Figures) -> Samples:
    return [((), figures["histograms"]["job_fanout"])]


def _build(figures: Figures) -> Samples:
    return [((figures["version"], platform.python_version(), gevent.__version__, figures["algorithm"],
              figures.get("hash_engine", "")), 1)]


def _worker(key: str) -> Callable[[Figures], Samples]:
    return lambda figures: [((one["worker"],), one[key]) for one in figures["workers"]]


def _descriptor_limit(figures: Figures) -> Samples:
    limit = figures["descriptors"]["limit"]
    return [((), float("inf") if limit is None else limit)]


_counter, _gauge = partial(Family, kind=COUNTER), partial(Family, kind=GAUGE)
_kept = partial(Family, kind=COUNTER, kept=True)
_POOL, _CONNECTION = ("index", "pool"), ("connection",)

# Names that the original Karoo had. They carry no labels, so that its dashboards and alerts go on as they are.
ORIGINAL = (
    _kept("karoo_shares_accepted_total", read=_one("accounts", "accepted"), help=(
        "Shares told true, by the proxy or by the pool, of all workers, those of the accounts' past included.")),
    _kept("karoo_shares_rejected_total", read=_one("accounts", "rejected"), help=(
        "Shares refused, by the proxy or by the pool. karoo_shares_total says why.")),
    Family("karoo_clients_active_count", UNTYPED, (
        "Miners that are connected, as karoo_sessions. A gauge, but the end of its name is reserved for other types."),
        _one("sessions")),
    _gauge("karoo_upstream_connected", read=lambda figures: [((), int(any(one["up"] for one in figures["routes"])))],
           help="1 while a pool is connected and has sent a job; 0 otherwise, also when no miner needs one."),
    _gauge("karoo_upstream_difficulty", read=lambda figures: [((), _serving(figures).get("difficulty", 0.0))], help=(
        "The difficulty that the pool pays for, of its first connection. Miners never hold a higher one.")),
    _gauge("karoo_last_notify_timestamp_seconds", read=_one("last_notify_unix"), help=(
        "Unix time of the pool's last job; 0 before the first. Minutes without one mean a pool that hangs.")),
)

MINERS = (
    _gauge("karoo_sessions", read=_one("sessions"), help="Miners that are connected."),
    _gauge("karoo_sessions_limit", read=_one("max_sessions"), help=(
        "Miners that fit; further ones are turned away. proxy.max_clients, or what the limit of open files allows.")),
    _counter("karoo_connections_total", read=_outcomes, labels=("outcome",), help=(
        "Connections that miners opened: session, or why they were turned away. One that found no pool or no "
        "extranonce was a session first, and counts as both.")),
    _counter("karoo_sessions_ended_total", read=_each("ended"), labels=("reason",), help=(
        "Sessions that ended, and why.")),
    _gauge("karoo_listener_sessions", read=_listeners("sessions"), labels=("listener",), help=(
        "Miners that are connected by a listener.")),
    _gauge("karoo_listener_certificate_expiry_timestamp_seconds", read=_listeners("certificate_expires_unix"),
           labels=("listener",), help="When the certificate of a listener with TLS runs out, in Unix seconds."),
    _gauge("karoo_banned_addresses", read=_one("banned_ips"), help="Addresses that are banned now."),
    _counter("karoo_bans_total", read=_one("bans_total"), help=(
        "Bans that were imposed. Many in a short time mean an attack.")),
    _counter("karoo_vardiff_changes_total", read=_one("vardiff_changes"), help=(
        "Difficulties told to miners after their first one.")),
    _gauge("karoo_backlog_bytes", read=_one("backlog_bytes"), help=(
        "Bytes that wait for miners to read them. A rise means a slow network, or miners that hang.")),
    _gauge("karoo_workers", read=_each("states", of=WORKER_STATES), labels=("state",), help=(
        "Workers that are online, silent (connected, no share for 5 minutes), gone (seen in the last 24 h) or past.")),
)

SHARES = (
    _kept("karoo_shares_total", read=_shares, labels=("verdict", "by", "reason"), help=(
        "Shares by verdict (accepted, rejected), by who gave it (proxy, pool), and why they were rejected. Accepted by "
        "the proxy are those below the pool's difficulty.")),
    _kept("karoo_shares_forwarded_total", read=_one("accounts", "forwarded"), help=(
        "Good shares sent to the pool, or kept for it. Those without a verdict were lost with a connection.")),
    _kept("karoo_difficulty_accepted_total", read=_one("accounts", "difficulty_accepted"), help=(
        "Difficulty of the accepted shares as the proxy checked them: the work that was done.")),
    _kept("karoo_difficulty_forwarded_total", read=_one("accounts", "difficulty_forwarded"), help=(
        "Difficulty of the shares sent to the pool, as the proxy checked them.")),
    _kept("karoo_difficulty_paid_total", read=_one("accounts", "pool_difficulty_accepted"), help=(
        "Difficulty of the shares that the pool accepted, as it pays them: the work that is paid.")),
    _kept("karoo_difficulty_refused_total", read=_one("accounts", "pool_difficulty_rejected"), help=(
        "Difficulty of the shares that the pool refused, as it would have paid them: work lost.")),
    _gauge("karoo_hashrate_hashes_per_second", read=_each("accounts", "hashrate", of=SPANS), labels=("span",), help=(
        "Hashrate of all workers over the last 1m, 15m, 1h, 24h, from the shares checked here.")),
    _gauge("karoo_hashrate_paid_hashes_per_second", read=_each("accounts", "hashrate_paid", of=SPANS), labels=("span",),
           help="The same from what the pool paid. Below the other for long: the pool rejects work."),
    _gauge("karoo_last_share_age_seconds", read=_one("accounts", "seconds_since_share"), help=(
        "Time since the last good share of any worker.")),
    _counter("karoo_blocks_total", read=_one("blocks"), help=(
        "Shares since the start that met the network's target: candidates for a block.")),
)

POOLS = (
    _gauge("karoo_pool_active", read=_pools(lambda pool: int(pool["state"] == "active")), labels=_POOL, help=(
        "1 for the pool that is mined for. Index 0 is the upstream, higher ones are backups.")),
    _gauge("karoo_pool_state", read=_pool_states, labels=(*_POOL, "state"), help=(
        "1 for the state that a pool is in (active, standby, down, unknown), 0 for the others.")),
    _gauge("karoo_pool_sessions", read=_pools(lambda pool: pool["sessions"]), labels=_POOL, help=(
        "Miners that work for a pool.")),
    _counter("karoo_failovers_total", read=_one("failovers"), help="Times that the miners went over to a backup pool."),
    _counter("karoo_jobs_total", read=_one("jobs"), help="Jobs that pools sent."),
    _counter("karoo_upstream_dials_total", read=_one("upstream_dials"), help="Connections to pools that were tried."),
    _counter("karoo_upstream_losses_total", read=_each("upstream_losses"), labels=("reason",), help=(
        "Connections to pools that failed or ended, and why.")),
    _counter("karoo_upstream_unexpected_answers_total", read=_one("unexpected_answers"), help=(
        "Answers of pools to what they were never asked. A pool with a fault.")),
    _gauge("karoo_pool_connection_up", read=_routes(lambda route: int(route["up"])), labels=_CONNECTION, help=(
        "1 while a connection to the pool is up and has a job. There are several where one has no room for all.")),
    _gauge("karoo_pool_connection_sessions", read=_routes(lambda route: route["sessions"]), labels=_CONNECTION, help=(
        "Miners on a connection to the pool.")),
    _gauge("karoo_pool_connection_held_shares", read=_routes(lambda route: route["held_shares"]), labels=_CONNECTION,
           help="Shares that are kept until the pool is back."),
    _gauge("karoo_pool_connection_owed_answers", read=_routes(lambda route: route["owed_answers"]), labels=_CONNECTION,
           help="Requests, most of them shares, that the pool has not answered yet."),
    _gauge("karoo_network_difficulty", read=_routes(lambda route: route["network_difficulty"]), labels=_CONNECTION,
           help="The network's difficulty, by the pool's last job."),
    _gauge("karoo_extranonce_prefixes_held", read=_prefixes("held"), labels=_CONNECTION, help=(
        "Pieces of a connection's search space that miners have. At the capacity no further miner fits on it.")),
    _gauge("karoo_extranonce_prefixes_capacity", read=_prefixes("capacity"), labels=_CONNECTION, help=(
        "Pieces that a connection's search space has: the miners that fit on it.")),
)

LATENCY = (
    Family("karoo_job_fanout_seconds", HISTOGRAM, (
        "Time from a pool's line with a job to the last miner's socket. Shares found in it may be stale."), _fanout),
    Family("karoo_share_answer_seconds", HISTOGRAM, (
        "Time from a share's line to its answer: by the proxy alone, or with the pool's verdict."), _answers, ("by",)),
    _gauge("karoo_pool_latency_seconds", read=_latency, labels=("percentile",), help=(
        "The pool's answer time to shares that so many percent of the recent ones did not exceed.")),
    _gauge("karoo_hub_lag_seconds", read=_one("hub_lag_seconds"), help=(
        "How late the last timer of the event loop came. While it is late nobody is answered.")),
    _gauge("karoo_hub_lag_max_seconds", read=_one("hub_lag_max_seconds"), help=(
        "The longest such delay of the last minute.")),
)

WORKERS = (
    _gauge("karoo_worker_hashrate_hashes_per_second", read=_worker("hashrate"), labels=("worker",), help=(
        "Hashrate of a worker over the last 15 minutes, from its shares; of the strongest only, the rest is other.")),
    _gauge("karoo_worker_hashrate_paid_hashes_per_second", read=_worker("hashrate_paid"), labels=("worker",), help=(
        "The same from what the pool paid.")),
    _kept("karoo_worker_shares_accepted_total", read=_worker("accepted"), labels=("worker",), help=(
        "Shares of a worker told true.")),
    _kept("karoo_worker_shares_rejected_total", read=_worker("rejected"), labels=("worker",), help=(
        "Shares of a worker refused. Many of one worker only: look at its firmware and its network.")),
    _kept("karoo_worker_difficulty_accepted_total", read=_worker("difficulty_accepted"), labels=("worker",), help=(
        "Difficulty of a worker's accepted shares.")),
    _gauge("karoo_worker_last_share_age_seconds", read=_worker("seconds_since_share"), labels=("worker",), merge=min,
           help="Time since a worker's last good share; of other the shortest."),
)

PROCESS = (
    Family("karoo_build_info", INFO, "1, with what runs: versions, the hash algorithm and how it is computed.", _build,
           ("version", "python", "gevent", "algorithm", "hash_engine")),
    _gauge("karoo_uptime_seconds", read=_one("uptime_seconds"), help="Time since the proxy started."),
    _counter("karoo_exceptions_total", read=_one("exceptions"), help=(
        "Bugs met, each in the log with its traceback. Should be 0: please report it.")),
    _gauge("karoo_descriptors_open", read=_one("descriptors", "open"), help=(
        "Open files and sockets: one for each miner, and some more.")),
    _gauge("karoo_descriptors_limit", read=_descriptor_limit, help=(
        "Open files and sockets that the system allows (ulimit -n). At the limit no miner can connect.")),
    _gauge("karoo_table_entries", read=_each("tables"), labels=("table",), help=(
        "How much of everything is kept in memory. None of these grows without bound.")),
    _gauge("karoo_ledger_enabled", read=lambda figures: [((), int(figures["ledger"]["database"] is not None))], help=(
        "1 where the accounts are to be kept in a file (accounting.database).")),
    _gauge("karoo_ledger_fault", read=lambda figures: [((), int(bool(figures["ledger"]["fault"])))], help=(
        "1 while the accounts cannot be written; the log and /status say why. Mining goes on.")),
    _gauge("karoo_ledger_write_age_seconds", read=_one("ledger", "seconds_since_write"), help=(
        "Time since the accounts were last written. A crash loses what came since.")),
)

GROUPS = {"The original Karoo's": ORIGINAL, "Miners": MINERS, "Shares": SHARES, "Pools": POOLS, "Latency": LATENCY,
          "Workers": WORKERS, "Process": PROCESS}
FAMILIES: tuple[Family, ...] = tuple(family for families in GROUPS.values() for family in families)


def markdown() -> str:
    """Tables of all metrics, for the documentation."""
    lines: list[str] = []
    for group, families in GROUPS.items():
        lines += [f"### {group}", "", "| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
        lines += [f"| `{one.name}` | {one.kind} | {', '.join(f'`{label}`' for label in one.labels)} | {one.help} |"
                  for one in families]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"
