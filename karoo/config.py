"""The configuration: every option once, with its type, default, range and prose.

The example file is generated from these declarations. `load` reads a file; `from_dict` takes the same options from
code. Both give a `Config`, or a `ConfigError` that lists every fault.
"""

# ruff: noqa: RUF009 - `option` and `section` wrap `dataclasses.field`, which is meant to be called here.
from __future__ import annotations

import dataclasses
import os
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from karoo.configfile import ConfigError, Fault, Node, from_plain, parse, read_text
from karoo.configkinds import (
    Address,
    Auto,
    AutoOr,
    Choice,
    Flag,
    Hex,
    Host,
    Listed,
    Listen,
    Network,
    Number,
    Table,
    Text,
    Token,
    Whole,
    in_networks,
    parse_address,
)
from karoo.configschema import Builder, Contradiction, Options, option, required, section, sections, walk

__all__ = ["Accounting", "Address", "Compat", "Config", "ConfigError", "Fault", "Http", "Log", "Metrics", "Proxy",
           "Ratelimit", "Shares", "Socks", "Tls", "Upstream", "Vardiff", "from_dict", "in_networks", "load", "loads",
           "parse_address", "without_effect"]

DAY_MS = 86_400_000
GIB = 1_073_741_824

# Parts of the names of well-known mining programs, and the difficulty that the machines under them can start at.
START_BY_AGENT: dict[str, float] = {
    "nerdminer": 0.0001, "nminer": 0.0001, "cpuminer": 0.001, "bitaxe": 500.0, "esp-miner": 500.0, "nerdqaxe": 2000.0,
    "nerdaxe": 500.0, "antminer": 65536.0, "bmminer": 65536.0, "whatsminer": 65536.0, "btminer": 65536.0,
    "cgminer": 8192.0, "bfgminer": 8192.0, "nicehash": 500_000.0, "karoo-miner": 0.00005,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls(Options):
    enabled: bool = option(False, "Whether miners connect over TLS.", Flag(), later=True)
    cert_file: str = option("", "The file with the certificate chain, in PEM.", Text(empty=True), later=True)
    key_file: str = option("", "The file with the private key, in PEM.", Text(empty=True), later=True)

    def contradictions(self, given: Container[str]) -> Iterator[Contradiction]:
        for name, value in (("cert_file", self.cert_file), ("key_file", self.key_file)):
            if self.enabled and not value:
                yield (name, "enabled"), f"TLS is enabled without a {name}: name the file, or set enabled: false"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy(Options):
    listen: str = option(
        "0.0.0.0:3333", "The address on which miners connect. Without a host, as in :3333, it is every IPv4 address; "
        "port 0 takes any free one.", Listen(), zero_is_default=True)
    first_byte_ms: int = option(
        30_000, "The time in which a miner that has connected must say something, in milliseconds. 0 sets no limit.",
        Whole(0, DAY_MS))
    subscribe_ms: int = option(
        60_000, "The time in which it must have subscribed, in milliseconds. The time that it waits for the pool does "
        "not count. 0 sets no limit.", Whole(0, DAY_MS))
    authorize_ms: int = option(
        120_000, "The time in which it must have asked for authorization, likewise. 0 sets no limit.",
        Whole(0, DAY_MS))
    client_idle_ms: int = option(
        180_000, "The silence allowed to a miner before it is authorized, in milliseconds. 0 allows any.",
        Whole(0, DAY_MS))
    authorized_idle_ms: int = option(
        1_800_000, "The silence allowed to an authorized miner, in milliseconds. 0 allows any.", Whole(0, DAY_MS))
    max_clients: int = option(
        10_000, "How many miners may be connected at a time; further ones are refused.", Whole(1, 1_000_000),
        zero_is_default=True)
    max_misbehaviour: int = option(
        200, "How many points of misbehaviour end a miner's session: 10 for a malformed line (one is forgiven each "
        "second), 1 for a bad share (a good one makes it good), a quarter for a stale one. 0 for any number.",
        Whole(0, 1_000_000))
    read_buf: int = option(
        4096, "How many bytes are read from a miner at once.", Whole(256, 1_048_576), zero_is_default=True)
    write_buf: int = option(
        4096, "Kept for files of the original Karoo.", Whole(256, 1_048_576), zero_is_default=True,
        never="the proxy writes straight to the socket")
    max_line_bytes: int = option(
        16_384, "The longest line taken from a miner, in bytes. A miner that sends a longer one is disconnected.",
        Whole(1024, 1_048_576))
    max_backlog_bytes: int = option(
        262_144, "How many bytes may wait for a miner that does not read. Beyond them it is disconnected.",
        Whole(4096, GIB))
    quiet_ms: int = option(
        45_000, "A miner that was sent nothing for so many milliseconds gets its difficulty again, so that it does "
        "not take the pool for dead.", Whole(1000, DAY_MS))
    tls: Tls = section(Tls, "TLS towards the miners.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Socks(Options):
    enabled: bool = option(False, "Whether the pool is reached through a SOCKS5 proxy.", Flag())
    type: str = option("socks5", "The protocol of the proxy.", Choice("socks5"), zero_is_default=True)
    host: str = option("127.0.0.1", "The host of the proxy, without a port.", Host(empty=True))
    port: int = option(1080, "The port of the proxy.", Whole(1, 65535), zero_is_default=True)
    username: str = option("", "The user name for the proxy; empty where it asks for none.", Text(empty=True))
    password: str = option("", "The password for the proxy.", Text(empty=True), secret=True)

    def contradictions(self, given: Container[str]) -> Iterator[Contradiction]:
        if self.enabled and not self.host:
            yield ("host", "enabled"), "the SOCKS proxy is enabled without a host: name it, or set enabled: false"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream(Options):
    name: str = option("", "What the pool is called in logs and on the status page; host:port where empty.",
                       Text(empty=True))
    host: str = required("pool.example.org", "The pool's host, without scheme and port.", Host())
    port: int = option(3333, "The pool's port.", Whole(1, 65535), zero_is_default=True)
    user: str = required(
        "wallet.worker", "The user at the pool. It may hold {worker} where the miner's worker name goes.", Text())
    password: str = option("x", "The password at the pool.", Text(empty=True), name="pass", secret=True)
    tls: bool = option(False, "Whether the pool is reached over TLS.", Flag())
    insecure_skip_verify: bool = option(
        False, "Whether any certificate of the pool is accepted. Then anybody on the way can take the shares.", Flag())
    backoff_min_ms: int = option(
        1000, "The wait before the pool is tried a second time, in milliseconds. It doubles with each failure.",
        Whole(10, DAY_MS), zero_is_default=True)
    backoff_max_ms: int = option(
        30_000, "The longest wait between two tries, in milliseconds.", Whole(10, DAY_MS), zero_is_default=True)
    worker_names: str = option(
        "suffix", "How miners appear at the pool: suffix adds each worker's name to user, single shows them all as "
        "user, passthrough sends the miner's own user and password.", Choice("suffix", "single", "passthrough"))
    prefix_bytes: int | Auto = option(
        "auto", "How many bytes of the pool's extranonce2 tell the miners apart. 0 gives each miner a connection to "
        "the pool of its own.", AutoOr(Whole(0, 12)))
    max_connections: int = option(
        8, "How many connections to the pool may be opened when one has no room for more miners.", Whole(1, 256))
    version_mask: str = option(
        "1fffe000", 'The version-rolling mask asked of the pool. "00000000" asks for none.', Hex(8))
    handshake_ms: int = option(
        10_000, "The deadline of each step towards the pool, in milliseconds: dial, configure, subscribe, authorize, "
        "first job.", Whole(100, 600_000))
    silence_ms: int = option(
        300_000, "A pool that sends nothing for so many milliseconds is taken for dead.", Whole(1000, DAY_MS))
    stale_job_ms: int = option(
        900_000, "A pool that sends no new job for so many milliseconds is left. 0 for never.", Whole(0, DAY_MS))
    max_reject_ratio: float = option(
        0.5, "The part of the shares, of 20 at least in some 5 minutes, that a pool may refuse before a backup pool is "
        "taken instead. 1 for all.", Number(0.01, 1))
    failback_after_seconds: float = option(
        60.0, "How long a pool must be well before the miners come back to it from a backup.", Number(0, 86_400))
    hold_ms: int = option(
        60_000, "How long miners are kept connected while no pool can be reached, in milliseconds.", Whole(0, DAY_MS))
    idle_grace_ms: int = option(
        15_000, "How long the connection to the pool stays open after the last miner has left, in milliseconds.",
        Whole(0, DAY_MS))
    held_shares: int = option(
        1000, "How many shares are kept while the pool is away.", Whole(0, 100_000))
    socks_proxy: Socks = section(Socks, "A SOCKS5 proxy on the way to the pool.")

    def __post_init__(self) -> None:
        if not self.name:
            host = f"[{self.host}]" if ":" in self.host else self.host
            object.__setattr__(self, "name", f"{host}:{self.port}")

    def contradictions(self, given: Container[str]) -> Iterator[Contradiction]:
        if self.backoff_max_ms < self.backoff_min_ms:
            yield ("backoff_max_ms", "backoff_min_ms"), (
                f"backoff_max_ms ({self.backoff_max_ms}) is below backoff_min_ms ({self.backoff_min_ms}): "
                "raise the one or lower the other")


@dataclass(frozen=True, slots=True, kw_only=True)
class Http(Options):
    listen: str = option("127.0.0.1:8080", 'The address of the status page. "" switches it off.', Listen(empty=True))
    pprof: bool = option(
        False, "Whether /debug/greenlets shows the stacks of greenlets and counts of objects, to this machine only.",
        Flag())
    token: str = option(
        "", "The secret that commands over HTTP must carry, as Authorization: Bearer. Without one there are no "
        "commands.", Token(), secret=True)
    read_token: str = option(
        "", "The secret that whoever reads the status page must know: browsers ask for it as a password, with any "
        "user, programs send it as Authorization: Bearer. Without one everybody who reaches the address may read; "
        "/healthz and /readyz are always open.", Token(), secret=True)
    trusted_proxies: tuple[str, ...] = option(
        (), "Networks of reverse proxies in front of the status page, whose X-Forwarded-For, -Proto, -Host and -Prefix "
        "count. Those of others are ignored.", Listed(Network()))

    def contradictions(self, given: Container[str]) -> Iterator[Contradiction]:
        if self.token and self.token == self.read_token:
            yield ("token", "read_token"), (
                "token and read_token are the same, so that whoever may read may command: give each its own")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics(Options):
    max_workers: int = option(
        200, "How many workers /metrics names, those with the most hashrate. The rest is summed up as one, other.",
        Whole(0, 100_000))


@dataclass(frozen=True, slots=True, kw_only=True)
class Vardiff(Options):
    enabled: bool = option(True, "Whether each miner's difficulty follows its speed.", Flag())
    target_seconds: float = option(
        15.0, "The seconds between two shares of a miner that are aimed at.", Number(0.1, 3600), zero_is_default=True)
    min_diff: float = option(
        0.00001, "The lowest difficulty that a miner is given.", Number(1e-12, 1e18), zero_is_default=True)
    max_diff: float = option(
        1e9, "The highest difficulty that a miner is given.", Number(1e-12, 1e18), zero_is_default=True)
    adjust_every_ms: int = option(
        5000, "How often each miner's difficulty is looked at, at most, in milliseconds. A miner far above the target "
        "rate is raised at once.", Whole(1000, 3_600_000), zero_is_default=True)
    start_diff: float | Auto = option(
        "auto", "The difficulty of a miner that has just connected.", AutoOr(Number(1e-12, 1e18)))
    start_by_agent: tuple[tuple[str, float], ...] = option(
        tuple(START_BY_AGENT.items()), "The start difficulty with start_diff: auto, by a part of the program name that "
        "a miner gives, in any case; the longest that fits wins. Others start at the pool's difficulty. A table given "
        "here replaces this one as a whole.", Table(Number(1e-12, 1e18)))
    rounding: str = option(
        "digits", "How difficulties are rounded: digits to two significant digits, power_of_two to a power of two.",
        Choice("digits", "power_of_two"))

    def contradictions(self, given: Container[str]) -> Iterator[Contradiction]:
        if self.max_diff < self.min_diff:
            yield ("max_diff", "min_diff"), (
                f"max_diff ({self.max_diff:g}) is below min_diff ({self.min_diff:g}): raise the one or lower the other")
        elif self.start_diff != "auto" and not self.min_diff <= self.start_diff <= self.max_diff:
            yield ("start_diff", "min_diff", "max_diff"), (
                f"start_diff ({self.start_diff:g}) is not between min_diff ({self.min_diff:g}) and "
                f"max_diff ({self.max_diff:g}): move it in between, or write auto")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares(Options):
    algorithm: str = option(
        "sha256d", "How shares are checked before the pool sees them. With none they are all passed on, and vardiff "
        "must be off.", Choice("sha256d", "scrypt", "none"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratelimit(Options):
    enabled: bool = option(
        False, "Whether the limits below are in force; IPv6 addresses are counted by /64. Without them miners that "
        "misbehave (proxy.max_misbehaviour) are cut all the same, but nobody is banned.", Flag())
    max_connections_per_ip: int = option(
        100, "How many connections one IP address may hold at a time; further ones are refused. 0 sets no limit.",
        Whole(0, 1_000_000))
    max_connections_per_minute: int = option(
        60, "How many connections one IP address may open in a minute; beyond them it is banned. 0 sets no limit.",
        Whole(0, 1_000_000))
    ban_duration_seconds: int = option(
        300, "How many seconds a ban lasts. It doubles each time that the same address is banned again, up to a day, "
        "and is forgiven step by step.", Whole(1, 31_536_000))
    cleanup_interval_seconds: int = option(
        60, "The seconds between two removals of bans that have ended.", Whole(1, 86_400))
    max_submits_per_second: int = option(
        100, "How many shares and requests one miner may send in a second, on average over half a minute; beyond "
        "them it is cut. 0 sets no limit.", Whole(0, 1_000_000))
    bad_sessions: int = option(
        3, "An address is banned when so many of its miners, and a quarter of all that it has, were cut for "
        "misbehaviour in 5 minutes. 0 bans for none.", Whole(0, 10_000))
    allow: tuple[str, ...] = option(
        (), "Networks whose miners are neither limited by address nor banned.", Listed(Network()))
    deny: tuple[str, ...] = option(
        (), "Networks from which nobody may connect. It counts also with enabled: false.", Listed(Network()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Compat(Options):
    strict_broadcast: bool = option(
        False, "Whether mining methods that the proxy does not know are dropped. With false they are passed on "
        "between pool and miners.", Flag())
    local_authorize: bool = option(
        True, "With false, pools without worker_names get passthrough, as in files of the original Karoo. With true, "
        "worker_names decides.", Flag())


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounting(Options):
    database: str = option(
        "karoo.db", 'The file that keeps the accounts of the workers; without a full path it lies beside this '
        'configuration. "" keeps none.', Text(empty=True))
    flush_seconds: float = option(
        10.0, "The seconds between two writes of the accounts. What came since the last one is lost when the process "
        "is killed.", Number(0.5, 3600))


@dataclass(frozen=True, slots=True, kw_only=True)
class Log(Options):
    level: str = option("info", "The least that is logged.", Choice("debug", "info", "warning", "error"))
    format: str = option("text", "Lines for people, or one JSON object a line.", Choice("text", "json"))
    report_every_seconds: int = option(
        60, "The seconds between two summaries in the log. 0 writes none.", Whole(0, 86_400))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Options):
    """All options. `given` holds the paths that the file sets, such as `upstream.host` or `backups[0].port`."""

    proxy: Proxy = section(Proxy, "The side of the miners.")
    upstream: Upstream = section(Upstream, "The pool.")
    backups: tuple[Upstream, ...] = sections(
        Upstream, "Pools used in turn when the one above fails. Each takes every option of upstream.",
        sample={"name": "backup", "host": "backup.example.org"})
    http: Http = section(Http, "The status page.")
    metrics: Metrics = section(Metrics, "The figures for Prometheus, at /metrics of the status page.")
    vardiff: Vardiff = section(Vardiff, "Variable difficulty.")
    shares: Shares = section(Shares, "The checking of shares.")
    ratelimit: Ratelimit = section(Ratelimit, "Limits on connections.")
    compat: Compat = section(Compat, "Behaviour of the original Karoo.")
    accounting: Accounting = section(Accounting, "The accounts of the workers.")
    log: Log = section(Log, "The log.")
    given: frozenset[str] = field(default=frozenset(), repr=False, compare=False)

    @property
    def pools(self) -> list[Upstream]:
        """All pools, in the order in which they are preferred."""
        return [self.upstream, *self.backups]

    def contradictions(self, given: Container[str]) -> Iterator[Contradiction]:
        if self.shares.algorithm == "none" and self.vardiff.enabled:
            yield ("shares.algorithm", "vardiff.enabled"), (
                "without checked shares (none) every miner has the pool's difficulty: set vardiff.enabled: false, "
                "or choose an algorithm")
        if not self.compat.local_authorize:
            pools = {"upstream": self.upstream} | {f"backups[{n}]": pool for n, pool in enumerate(self.backups)}
            for path, pool in pools.items():
                if f"{path}.worker_names" in given and pool.worker_names != "passthrough":
                    yield (f"{path}.worker_names", "compat.local_authorize"), (
                        f"worker_names: {pool.worker_names} contradicts compat.local_authorize: false, which means "
                        "passthrough: remove one of the two")


def load(path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration in a YAML or JSON file; `${NAME}` in its values is taken from `environ`. Where the database
    of the accounts is no full path it is taken from the file's directory.

    Raises ConfigError with every fault of the file, or with the reason why it cannot be read.
    """
    config = loads(read_text(path), environ, os.fspath(path))
    database = config.accounting.database
    if not database:
        return config
    beside = os.path.join(os.path.dirname(os.path.abspath(path)), database)
    return dataclasses.replace(config, accounting=dataclasses.replace(config.accounting, database=beside))


def loads(text: str, environ: Mapping[str, str] = os.environ, name: str = "<text>") -> Config:
    """The configuration in YAML or JSON text; faults are listed under `name`. Raises ConfigError."""
    return _configure(parse(text, name), environ, name, 1)


def from_dict(values: Mapping[str, Any], name: str = "<values>") -> Config:
    """The configuration in nested dicts with the names of the file, under the same rules; `${` stands for itself.

    Raises ConfigError, whose faults have no lines.
    """
    return _configure(from_plain(values, name), {}, name, None)


def _configure(tree: Node, environ: Mapping[str, str], name: str, line: int | None) -> Config:
    builder = Builder(Config, environ)
    config = builder.build(Config, tree, "", line)
    if builder.faults:
        raise ConfigError(name, builder.faults)
    config = dataclasses.replace(config, given=frozenset(builder.given))
    return config if config.compat.local_authorize else _passing_through(config)


def _passing_through(config: Config) -> Config:
    """`compat.local_authorize: false` said as `worker_names: passthrough` of every pool."""
    upstream, *backups = (dataclasses.replace(pool, worker_names="passthrough")
                          for pool in (config.upstream, *config.backups))
    return dataclasses.replace(config, upstream=upstream, backups=tuple(backups))


def without_effect(config: Config) -> list[str]:
    """A sentence for each option that is set to something else than its default and changes nothing."""
    sentences = []
    for path, each, value in walk(config):
        if path in config.given and value != each.default:
            if each.never:
                sentences.append(f"{path} is set, but never has an effect: {each.never}")
            elif each.later:
                sentences.append(f"{path} is set, but has no effect yet")
    return sentences
