"""What is odd about a configuration that is right by the letter. No I/O, but for this machine's own addresses."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterator

from karoo import config, units
from karoo.configschema import walk
from karoo.doctor.findings import Section
from karoo.doctor.ports import ways_of
from karoo.policy import addresses
from karoo.web.access import exposure

DEAD_AFTER = 60.0  # seconds without a word after which the first miners take a pool for dead
SYSTEMD_KILLS, SUPERVISORD_KILLS = 90, 10  # seconds after SIGTERM, unless they are told otherwise
SECRET_LENGTH = 6
CHECKS_GAPS = 10.0  # mean intervals between shares; a longer one comes once in 22,000 shares


def examine(section: Section, settings: config.Config) -> None:
    """Everything that needs no look at the machine beyond its addresses."""
    for sentence in config.without_effect(settings):
        section.note("config.no_effect", sentence.partition(" ")[0], sentence, "remove it")
    if pays_others := config.passes_users_on(settings):
        section.warn("config.payee", "compat.local_authorize", pays_others, config.PAY_ONE)
    _page(section, settings)
    _who_may_connect(section, settings)
    _times(section, settings)
    _keeping(section, settings)
    _pools(section, settings)


def _page(section: Section, settings: config.Config) -> None:
    http = settings.http
    host = _host(http.listen)
    if host and (exposed := exposure(http, host)):
        section.warn("config.page_open", "http.listen", exposed.partition(": set ")[0].removeprefix("http.listen: "),
                     "set http.read_token, or listen on 127.0.0.1")
    elif host and not _loopback(host) and (http.token or http.read_token):
        section.note("config.page_plain", "http.listen", "the status page is plain HTTP: its tokens can be read on the "
                     "way", "put a reverse proxy with TLS in front where the network is not yours")
    if http.listen and not _host(http.listen) and not http.read_token:
        section.note("config.page_passed", "http.listen", "who can reach the socket that systemd passes may read the "
                     "status page", "set http.read_token, unless the socket is on 127.0.0.1")


def _who_may_connect(section: Section, settings: config.Config) -> None:
    limits = settings.ratelimit
    allow, deny = ([addresses.network(text) for text in texts] for texts in (limits.allow, limits.deny))
    for denied in deny:
        if denied.prefixlen == 0 and denied.version == 4:
            section.fail("config.deny_all", "ratelimit.deny", f"{denied} lets in nobody by IPv4", "remove it",
                         faulty=True)
        for allowed in allow:
            if denied.version == allowed.version and denied.overlaps(allowed):
                section.warn("config.allow_deny", "ratelimit.deny", f"{denied} overlaps {allowed} of "
                             "ratelimit.allow: who "
                             "is in both is not let in", "take one of them smaller")
    public = [way.option for way in ways_of(settings) if way.option != "http.listen" and _public(way.address)]
    if not limits.enabled and public:
        section.warn("config.no_limits", "ratelimit.enabled", "nobody is limited, and this machine has a public "
                     "address: "
                     "anybody on the internet may take all room", "set ratelimit.enabled: true", options=public)
    elif limits.enabled and any(network.prefixlen == 0 for network in allow):
        section.warn("config.allow_all", "ratelimit.allow", "everybody is exempt: the limits have no effect",
                     "name your own networks only")
    for option, texts in _trusted(settings):
        if any(addresses.network(text).prefixlen == 0 for text in texts):
            section.warn("config.trust_all", option, "everybody may say any address of theirs: limits and bans do not "
                         "hold", "name the balancers only")
    if settings.http.pprof:
        section.note("config.pprof", "http.pprof", "stacks are shown to everybody on this machine",
                     "switch it off when nobody looks")
    if settings.control.socket and settings.control.mode == "666":
        section.warn("config.control_open", "control.mode", "everybody on this machine may command the proxy",
                     "660, and a group of operators")


def _trusted(settings: config.Config) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield "http.trusted_proxies", settings.http.trusted_proxies
    for number, listener in enumerate(settings.listeners):
        yield f"listeners[{number}].proxy_protocol", listener.proxy_protocol


def _times(section: Section, settings: config.Config) -> None:
    proxy = settings.proxy
    if proxy.quiet_ms >= DEAD_AFTER * 1e3:
        section.warn("config.quiet", "proxy.quiet_ms", f"a miner may hear nothing for {proxy.quiet_ms / 1e3:g} s, "
                     "and some "
                     f"take a pool for dead after {DEAD_AFTER:g} s", "45000")
    if proxy.drain_seconds > SYSTEMD_KILLS - 10:
        section.warn("config.drain", "proxy.drain_seconds", f"systemd kills a service {SYSTEMD_KILLS} s after SIGTERM, "
                     f"supervisord after {SUPERVISORD_KILLS} s, unless told otherwise",
                     "TimeoutStopSec= and stopwaitsecs= must be longer than it, or it shorter")
    elif proxy.drain_seconds == 0:
        section.note("config.drain", "proxy.drain_seconds", "shares under way are given up at each end of the proxy",
                     "10 lets the pool answer them")
    slowest = max((settings.vardiff_of(way).target_seconds for way in settings.ways_in), default=0.0)
    idle = proxy.authorized_idle_ms / 1e3
    if settings.vardiff.enabled and idle and idle < CHECKS_GAPS * slowest:
        part = math.exp(-idle / slowest)
        section.warn("config.idle", "proxy.authorized_idle_ms", f"a miner that finds a share each {slowest:g} s is cut "
                     f"after {idle:g} s of silence: by chance that is after one share in {1 / part:.0f}",
                     f"{CHECKS_GAPS * slowest * 1e3:.0f} or more")
    for path, pool in settings.pools_by_path.items():
        if pool.silence_ms < 60_000:
            section.warn("config.silence", f"{path}.silence_ms", "a pool may well say nothing for "
                         f"{pool.silence_ms / 1e3:g} "
                         "s between two jobs, and is left then", "300000")
        if 0 < pool.stale_job_ms < 120_000:
            section.warn("config.stale_job", f"{path}.stale_job_ms", "pools send a new job every 30 to 60 s, some "
                         "only when "
                         f"there is something new: after {pool.stale_job_ms / 1e3:g} s it is left", "900000")
        if pool.hold_ms == 0:
            section.note("config.hold", f"{path}.hold_ms", "miners are sent away as soon as no pool can be reached",
                         "60000 keeps them while a pool restarts")


def _keeping(section: Section, settings: config.Config) -> None:
    if not settings.accounting.database:
        section.note("config.no_accounts", "accounting.database", "what the workers do is not kept over a restart")
    if settings.log.level == "debug":
        section.note("config.debug", "log.level", "each message is logged: that is slow, and fills disks",
                     "info for every day")
    if not settings.control.socket:
        section.note("config.no_control", "control.socket", "there is none: `karoo ctl` and `karoo top` cannot be used")


def _pools(section: Section, settings: config.Config) -> None:
    if not settings.backups:
        section.note("config.no_backup", "backups", "there is no pool to take over when the first fails")
    seen: dict[tuple[str, int], str] = {}
    for path, pool in settings.pools_by_path.items():
        place = (pool.place.host.lower(), pool.place.port)
        first = seen.setdefault(place, path)
        if first != path:
            section.warn("config.same_pool", path, f"is the same pool as {first} ({units.place(*place)}): when the one "
                         "fails, so does the other", "another port or host of the pool, or another pool")
        if pool.insecure_skip_verify and pool.place.tls:
            section.warn("config.insecure", f"{path}.insecure_skip_verify", "any certificate is taken for the pool's: "
                         "anybody on the way can take the shares", "set fingerprint or ca_file instead")
        if pool.user == "wallet.worker":
            section.warn("config.sample", f"{path}.user", "wallet.worker is the user of the example: the shares "
                         "would be "
                         "nobody's", "your own user at the pool")


def secrets_in(settings: config.Config, text: str) -> list[str]:
    """The options whose secrets stand in the text of the file itself, and not in the environment. Passwords at pools
    are often none: short ones do not count."""
    return [path for path, option, value in walk(settings)
            if option.secret and len(value) >= SECRET_LENGTH and value in text]


# ---------------------------------------------------------------- addresses

def _host(address: str) -> str:
    """Of an address to listen on; empty where it is systemd's, or none."""
    return "" if not address or config.passed_name(address) else config.parse_address(address).host


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _public(address: str) -> bool:
    """Whether it is reached from the internet, as far as this machine can know: a NAT may forward to it."""
    host = _host(address)
    if not host:
        return False
    from karoo import cert  # only here: it takes 10 MB
    try:
        own = ipaddress.ip_address(host)
    except ValueError:
        return False
    if not own.is_unspecified:
        return own.is_global
    return any(known.is_global and known.version <= own.version  # [::] takes IPv4 as well
               for text in cert.own_hosts() if (known := addresses.parse(text)) is not None)
