"""The options of the pools' side. See `config`."""

# ruff: noqa: RUF009 - `option` and `section` wrap `dataclasses.field`, which is meant to be called here.
from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterator
from dataclasses import dataclass

from karoo import units
from karoo.configaddresses import Host, Place, PoolUrl, parse_pool_url
from karoo.configkinds import Auto, AutoOr, Choice, File, Fingerprint, Flag, Hex, Number, Text, Whole
from karoo.configschema import Contradiction, Options, option, required, section

DAY_MS = 86_400_000
DEFAULT_PORT = 3333
# Options of a pool that change nothing in what it is sent: a connection to it stays when they change.
OURS_ALONE = ("name", "backoff_min_ms", "backoff_max_ms", "max_connections", "handshake_ms", "silence_ms",
              "stale_job_ms", "max_reject_ratio", "failback_after_seconds", "hold_ms", "idle_grace_ms", "held_shares")


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
        said = [name for name in ("host", "port", "username", "password") if name in given]
        if said and "enabled" not in given:
            yield (said[0], "enabled"), f"{said[0]} is given, and the SOCKS proxy is off: set enabled: true (or false)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream(Options):
    name: str = option("", "What the pool is called in logs and on the status page; host:port where empty.",
                       Text(empty=True))
    host: str = required("pool.example.org", "The pool's host, without scheme and port.", Host(), unless="url")
    port: int = option(DEFAULT_PORT, "The pool's port.", Whole(1, 65535), zero_is_default=True)
    url: str = option(
        "", "In the place of host, port and tls: stratum+tcp://host:port, or stratum+ssl://host:port for TLS.",
        PoolUrl())
    user: str = required(
        "wallet.worker", "The user at the pool. It may hold {worker} where the miner's worker name goes.", Text())
    password: str = option("x", "The password at the pool.", Text(empty=True), name="pass", secret=True)
    tls: bool = option(
        False, "Whether the pool is reached over TLS. Its certificate is checked against the authorities that this "
        "system trusts, unless one of the next options says otherwise.", Flag())
    ca_file: str = option(
        "", "A file with the certificates of the authorities that count for this pool instead of the system's, in PEM.",
        File())
    server_name: str = option(
        "", "The name that the pool's certificate must be for, where it is not the host.", Host(empty=True))
    fingerprint: str = option(
        "", "The SHA-256 fingerprint of the pool's certificate. With it that one certificate is accepted and no other, "
        "whoever issued it, for whatever name and time.", Fingerprint())
    cert_file: str = option(
        "", "A file with a certificate chain that shows the pool who this is, where it asks for that, in PEM.", File())
    key_file: str = option("", "The file with its private key; cert_file where empty.", File())
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
            object.__setattr__(self, "name", units.place(self.place.host, self.place.port))

    def connects_as(self, other: Upstream) -> bool:
        """Whether a connection to this pool is one to the other: they differ at most in options that are OURS_ALONE."""
        return dataclasses.replace(self, **{name: getattr(other, name) for name in OURS_ALONE}) == other

    @property
    def place(self) -> Place:
        """Where the pool is, by `url` or by `host`, `port` and `tls`."""
        return parse_pool_url(self.url) if self.url else Place(self.host, self.port, self.tls)

    def contradictions(self, given: Container[str]) -> Iterator[Contradiction]:
        if self.backoff_max_ms < self.backoff_min_ms:
            yield ("backoff_max_ms", "backoff_min_ms"), (
                f"backoff_max_ms ({self.backoff_max_ms}) is below backoff_min_ms ({self.backoff_min_ms}): "
                "raise the one or lower the other")
        for name, differs in (("host", self.host != ""), ("port", self.port != DEFAULT_PORT), ("tls", self.tls)):
            if self.url and differs and name in given:
                yield (name, "url"), f"url tells the {name} already: remove one of the two"
        where = "url" if self.url else "host"
        if self.place.host.endswith(".onion") and not self.socks_proxy.enabled:
            yield (where, "socks_proxy.enabled"), (
                "a name that ends in .onion is known to Tor only: set socks_proxy.enabled: true, with Tor's SOCKS port")
        yield from self._contradictions_of_tls()

    def _contradictions_of_tls(self) -> Iterator[Contradiction]:
        for name in ("ca_file", "server_name", "fingerprint", "cert_file"):
            if getattr(self, name) and not self.place.tls:
                yield (name, "tls"), f"{name} is for TLS only: set tls: true, or remove it"
        if self.key_file and not self.cert_file:
            yield ("key_file", "cert_file"), "key_file is given without the cert_file that it belongs to: name that too"
        for name, only in (("fingerprint", "one"), ("ca_file", "those of its authorities"),
                           ("server_name", "those for that name")):
            if getattr(self, name) and self.insecure_skip_verify:
                yield ("insecure_skip_verify", name), (
                    f"insecure_skip_verify accepts any certificate, and {name} only {only}: remove one of the two")
