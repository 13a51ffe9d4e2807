"""The options of the miners' side: listeners, their TLS and their profiles. See `config`."""

# ruff: noqa: RUF009 - `option` and `section` wrap `dataclasses.field`, which is meant to be called here.
from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass

from karoo.configaddresses import Listen, Network, Origin
from karoo.configkinds import Auto, AutoOr, Choice, File, Flag, Left, Listed, Number, Text, Whole
from karoo.configschema import Contradiction, Options, option, required, section

DAY_MS = 86_400_000
GIB = 1_073_741_824
DIFFICULTY = Number(1e-12, 1e18)
TARGET_SECONDS = Number(0.1, 3600)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls(Options):
    enabled: bool = option(False, "Whether miners connect over TLS.", Flag())
    cert_file: str = option(
        "", "The file with the certificate chain, in PEM. `karoo cert` makes one for a LAN.", File())
    key_file: str = option("", "The file with the private key, in PEM.", File())
    min_version: str = option("1.2", "The oldest version of TLS that is spoken.", Choice("1.2", "1.3"))
    client_ca_file: str = option(
        "", "A file with certificates of authorities, in PEM. With it every miner must show a certificate of theirs.",
        File())

    def contradictions(self, given: Container[str]) -> Iterator[Contradiction]:
        for name, value in (("cert_file", self.cert_file), ("key_file", self.key_file)):
            if self.enabled and not value:
                yield (name, "enabled"), f"TLS is enabled without a {name}: name the file, or set enabled: false"
            if value and "enabled" not in given:
                yield (name, "enabled"), f"{name} is given, and TLS is off: set enabled: true (or false)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile(Options):
    start_diff: float | Auto | None = option(
        None, "The difficulty of a miner that has just connected.", Left(AutoOr(DIFFICULTY), "vardiff.start_diff"))
    min_diff: float | None = option(
        None, "The lowest difficulty that a miner is given.", Left(DIFFICULTY, "vardiff.min_diff"))
    max_diff: float | None = option(
        None, "The highest difficulty that a miner is given.", Left(DIFFICULTY, "vardiff.max_diff"))
    target_seconds: float | None = option(
        None, "The seconds between two shares of a miner that are aimed at.",
        Left(TARGET_SECONDS, "vardiff.target_seconds"))
    max_clients: int | None = option(
        None, "How many miners may be connected by this listener at a time. proxy.max_clients counts besides.",
        Left(Whole(1, 1_000_000), "proxy.max_clients alone"))
    max_submits_per_second: int | None = option(
        None, "How many shares and requests one miner may send in a second. Counts with ratelimit.enabled: true.",
        Left(Whole(0, 1_000_000), "ratelimit.max_submits_per_second"))
    max_misbehaviour: int | None = option(
        None, "How many points of misbehaviour end a miner's session.",
        Left(Whole(0, 1_000_000), "proxy.max_misbehaviour"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener(Options):
    name: str = option("", "What it is called in logs and on the status page; its address where empty.",
                       Text(empty=True))
    address: str = required(
        "0.0.0.0:3334", "The address on which miners connect, as in proxy.listen.", Listen())
    protocol: str = option(
        "stratum", "What is spoken there: stratum, or stratum over a WebSocket with a line or several in a text "
        "message.", Choice("stratum", "websocket"))
    dual_stack: bool = option(
        True, "Whether an IPv6 address such as [::] takes IPv4 miners as well, as far as it stands for them.", Flag())
    proxy_protocol: tuple[str, ...] = option(
        (), "Networks of balancers such as HAProxy, whose connections begin with a PROXY header (version 1 or 2) that "
        "tells the miner's address. Miners from elsewhere connect as usual; a header from them ends the connection.",
        Listed(Network()))
    origins: tuple[str, ...] = option(
        (), 'Where web pages must come from to be let in by WebSocket, such as https://farm.example.org; "*" lets in '
        "those from everywhere. Programs that are no browsers need not be named.", Listed(Origin()))
    tls: Tls = section(Tls, "TLS towards the miners of this listener.")
    profile: Profile = section(
        Profile, "What differs for the miners of this listener: one port for small miners, one for racks.")

    def contradictions(self, given: Container[str]) -> Iterator[Contradiction]:
        if self.origins and self.protocol != "websocket":
            yield ("origins", "protocol"), (
                "origins are for WebSockets: set protocol: websocket, or remove them")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy(Options):
    listen: str = option(
        "0.0.0.0:3333", "The address on which miners connect. Without a host, as in :3333, it is every IPv4 address, "
        "[::]:3333 every IPv6 and IPv4 address; port 0 takes any free one; systemd:NAME is the socket of that name "
        "that systemd passes. For several addresses see listeners.", Listen(), zero_is_default=True)
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
    drain_seconds: float = option(
        10.0, "How long the end of the proxy waits for the pool's word on shares that are under way.", Number(0, 600))
    handshake_ms: int = option(
        10_000, "The time for what goes before a miner's first line, in milliseconds: PROXY header, TLS handshake, "
        "WebSocket handshake, where there are such.", Whole(100, 600_000))
    tls: Tls = section(Tls, "TLS towards the miners of proxy.listen.")


