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

from karoo.configaddresses import Address, Listen, Network, in_networks, parse_address, passed_name
from karoo.configfile import ConfigError, Fault, Node, from_plain, parse, read_text
from karoo.configkinds import Auto, AutoOr, Choice, File, Flag, Listed, Number, Table, Token, Whole
from karoo.configminers import DIFFICULTY, TARGET_SECONDS, Listener, Profile, Proxy, Tls
from karoo.configpools import Socks, Upstream
from karoo.configschema import Builder, Contradiction, Options, based, option, section, sections, walk

__all__ = ["Accounting", "Address", "Compat", "Config", "ConfigError", "Control", "Fault", "Http", "Listener", "Log",
           "Metrics", "Profile", "Proxy", "Ratelimit", "Shares", "Socks", "Tls", "Upstream", "Vardiff", "from_dict",
           "in_networks", "load", "loads", "parse_address", "passed_name",
           "passes_users_on", "remarks", "without_effect"]


# Parts of the names of well-known mining programs, and the difficulty that the machines under them can start at.
START_BY_AGENT: dict[str, float] = {
    "nerdminer": 0.0001, "nminer": 0.0001, "cpuminer": 0.001, "bitaxe": 500.0, "esp-miner": 500.0, "nerdqaxe": 2000.0,
    "nerdaxe": 500.0, "antminer": 65536.0, "bmminer": 65536.0, "whatsminer": 65536.0, "btminer": 65536.0,
    "cgminer": 8192.0, "bfgminer": 8192.0, "nicehash": 500_000.0, "karoo-miner": 0.00005,
}


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
        15.0, "The seconds between two shares of a miner that are aimed at.", TARGET_SECONDS, zero_is_default=True)
    min_diff: float = option(
        0.00001, "The lowest difficulty that a miner is given.", DIFFICULTY, zero_is_default=True)
    max_diff: float = option(
        1e9, "The highest difficulty that a miner is given.", DIFFICULTY, zero_is_default=True)
    adjust_every_ms: int = option(
        5000, "How often each miner's difficulty is looked at, at most, in milliseconds. A miner far above the target "
        "rate is raised at once.", Whole(1000, 3_600_000), zero_is_default=True)
    start_diff: float | Auto = option(
        "auto", "The difficulty of a miner that has just connected.", AutoOr(DIFFICULTY))
    start_by_agent: tuple[tuple[str, float], ...] = option(
        tuple(START_BY_AGENT.items()), "The start difficulty with start_diff: auto, by a part of the program name that "
        "a miner gives, in any case; the longest that fits wins. Others start at the pool's difficulty. A table given "
        "here replaces this one as a whole.", Table(DIFFICULTY))
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
        'configuration. "" keeps none.', File())
    flush_seconds: float = option(
        10.0, "The seconds between two writes of the accounts. What came since the last one is lost when the process "
        "is killed.", Number(0.5, 3600))


@dataclass(frozen=True, slots=True, kw_only=True)
class Log(Options):
    level: str = option("info", "The least that is logged.", Choice("debug", "info", "warning", "error"))
    format: str = option("text", "Lines for people, or one JSON object a line.", Choice("text", "json"))
    report_every_seconds: int = option(
        60, "The seconds between two summaries in the log. 0 writes none.", Whole(0, 86_400))
    file: str = option(
        "", "The file that the log goes to; standard error where empty. SIGUSR1 opens it again, once it was moved.",
        File())
    rotate_mb: int = option(
        0, "The size in megabytes at which the file is put aside and a new one begun. 0 for never: then logrotate may "
        "do it.", Whole(0, 100_000))
    keep_files: int = option(10, "How many files that were put aside are kept.", Whole(1, 1000))
    color: str = option(
        "auto", "Whether levels are coloured: auto on a terminal only.", Choice("auto", "always", "never"))
    watchdog_ms: int = option(
        500, "When nobody was answered for so many milliseconds, the log shows what kept the program busy; 0: never.",
        Whole(0, 600_000))


@dataclass(frozen=True, slots=True, kw_only=True)
class Control(Options):
    socket: str = option(
        "karoo.sock", "The Unix socket for `karoo ctl` and `karoo top`; whoever may write to it may command. "
        '"" for none.', File())
    mode: str = option(
        "600", "The rights of that socket: 600 for its owner alone, 660 for its group too, 666 for everybody on this "
        "machine.", Choice("600", "660", "666"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Options):
    """All options. `given` holds the paths that the file sets, such as `upstream.host` or `backups[0].port`."""

    proxy: Proxy = section(Proxy, "The side of the miners.")
    listeners: tuple[Listener, ...] = sections(
        Listener, "In the place of proxy.listen and proxy.tls: several addresses on which miners connect, each with "
        "its own protocol, TLS and difficulties.",
        sample={"name": "racks", "address": "0.0.0.0:3334"})
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
    control: Control = section(Control, "Commands from this machine, with `karoo ctl`.")
    given: frozenset[str] = field(default=frozenset(), repr=False, compare=False)

    @property
    def pools(self) -> list[Upstream]:
        """All pools, in the order in which they are preferred."""
        return [self.upstream, *self.backups]

    @property
    def pools_by_path(self) -> dict[str, Upstream]:
        """The same, by the section of each: upstream, backups[0]."""
        return {"upstream": self.upstream} | {f"backups[{number}]": pool for number, pool in enumerate(self.backups)}

    @property
    def ways_in(self) -> tuple[Listener, ...]:
        """All listeners; without `listeners` the one of the section proxy."""
        return self.listeners or (Listener(address=self.proxy.listen, tls=self.proxy.tls),)

    @property
    def ways_by_path(self) -> dict[str, Listener]:
        """The same, by the section of each: listeners[0], or proxy."""
        return {f"listeners[{number}]" if self.listeners else "proxy": way for number, way in enumerate(self.ways_in)}

    def vardiff_of(self, listener: Listener) -> Vardiff:
        """The variable difficulty of the miners that come by this listener."""
        profile = listener.profile
        own = {name: value for name in ("start_diff", "min_diff", "max_diff", "target_seconds")
               if (value := getattr(profile, name)) is not None}
        return dataclasses.replace(self.vardiff, **own)

    def contradictions(self, given: Container[str]) -> Iterator[Contradiction]:
        yield from self._contradictions_of_listeners(given)
        if self.shares.algorithm == "none" and self.vardiff.enabled:
            yield ("shares.algorithm", "vardiff.enabled"), (
                "without checked shares (none) every miner has the pool's difficulty: set vardiff.enabled: false, "
                "or choose an algorithm")
        if not self.compat.local_authorize:
            for path, pool in self.pools_by_path.items():
                if f"{path}.worker_names" in given and pool.worker_names != "passthrough":
                    yield (f"{path}.worker_names", "compat.local_authorize"), (
                        f"worker_names: {pool.worker_names} contradicts compat.local_authorize: false, which means "
                        "passthrough: remove one of the two")

    def _contradictions_of_listeners(self, given: Container[str]) -> Iterator[Contradiction]:
        if not self.listeners:
            return
        if "proxy.listen" in given:
            yield ("proxy.listen", "listeners"), (
                "listeners are there, so that proxy.listen would not count: make it one of them, or remove it")
        if self.proxy.tls.enabled:
            yield ("proxy.tls.enabled", "listeners"), (
                "listeners are there, each with its own tls, so that proxy.tls would not count: remove it")
        first: dict[str, int] = {}
        called: dict[str, int] = {}
        for number, listener in enumerate(self.listeners):
            path = f"listeners[{number}]"
            other = first.setdefault(listener.address, number)
            if other != number and not listener.address.endswith(":0"):
                yield (f"{path}.address",), f"listeners[{other}] has the same address: give each its own"
            name = listener.name or listener.address
            if called.setdefault(name, number) != number and listener.name:
                yield (f"{path}.name",), f"listeners[{called[name]}] has the same name: give each its own"
            if any(f"{path}.profile.{name}" in given for name in ("start_diff", "min_diff", "max_diff")):
                for names, sentence in self.vardiff_of(listener).contradictions(given):
                    yield tuple(f"{path}.profile.{name}" for name in names), sentence


def load(path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration in a YAML or JSON file; `${NAME}` in its values is taken from `environ`. Paths of other files
    are taken from the file's directory on.

    Raises ConfigError with every fault of the file, or with the reason why it cannot be read.
    """
    config = loads(read_text(path), environ, os.fspath(path))
    return based(config, os.path.dirname(os.path.abspath(path)))


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


def remarks(config: Config) -> list[str]:
    """A sentence for each option that changes nothing, or may do something else than who set it believes."""
    return without_effect(config) + ([f"{pays_others}; {PAY_ONE}"] if (pays_others := passes_users_on(config)) else [])


def passes_users_on(config: Config) -> str:
    """What follows from an option of the original Karoo, which did something else; empty where it is not set, or where
    `worker_names` says that this is meant."""
    if config.compat.local_authorize or "upstream.worker_names" in config.given:
        return ""
    return ("compat.local_authorize is false: the pool gets the miners' own users, and credits their shares to them; "
            "the original Karoo sent all shares as upstream.user, whatever this option said")


PAY_ONE = ("to have that, remove it and set upstream.worker_names: single; if it is meant, set "
           "upstream.worker_names: passthrough instead of it")


def without_effect(config: Config) -> list[str]:
    """A sentence for each option that is set to something else than its default and changes nothing."""
    sentences = []
    for path, each, value in walk(config):
        if path in config.given and value != each.default and each.never:
            sentences.append(f"{path} is set, but never has an effect: {each.never}")
    return sentences
