"""What the ways in and out need from the system: sockets, and certificates."""

from __future__ import annotations

import hashlib
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

from karoo import config, units
from karoo.net.dialer import Destination
from karoo.net.listener import ListenError, listening_socket, passed_socket
from karoo.net.tls import ClientFiles, ServerFiles, TlsError, client_context, server_context

log = logging.getLogger("karoo.proxy")

WARN_BEFORE = 21 * 86_400.0  # seconds

Take = Callable[[str], list[int]]


def nothing_passed(name: str) -> list[int]:
    """Of a process that got no sockets. Raises ListenError."""
    raise ListenError(f"there is no socket named {name}: systemd passed none")


def open_sockets(address: str, take: Take, dual_stack: bool = True) -> list[Any]:
    """The listening sockets of a configured address: one, or those of a name that systemd passes. Raises ListenError,
    ActivationError."""
    name = config.passed_name(address)
    if name:
        return [passed_socket(descriptor) for descriptor in take(name)]
    return [listening_socket(*config.parse_address(address), dual_stack)]


def open_socket(address: str, take: Take) -> Any:
    """The same, where only one can be used."""
    first, *others = open_sockets(address, take)
    if others:
        raise ListenError(f"{address}: systemd passed {1 + len(others)} sockets of that name, and one is wanted")
    return first


@dataclass(frozen=True, slots=True)
class Security:
    """The TLS of a listener: its context (None: it is plain), and when its certificate runs out, in Unix seconds.
    ``shown`` and ``authorities`` are digests of the files with its certificates and with those that it asks for."""

    context: ssl.SSLContext | None = None
    expires: float | None = None
    shown: bytes = b""
    authorities: bytes = b""


def securities(settings: config.Config) -> list[Security]:
    """The TLS of each listener, from the files as they are now; a certificate that runs out soon is warned of. Raises
    TlsError, which names the section of the configuration."""
    found = []
    for path, way in settings.ways_by_path.items():
        tls = way.tls
        if not tls.enabled:
            found.append(Security())
            continue
        try:
            context = server_context(server_files(tls))
            expires = _expiry(tls.cert_file)
            digests = [_digest(each) for each in (tls.cert_file, tls.client_ca_file)]
        except TlsError as fault:
            raise TlsError(f"{path}.tls: {fault}") from None
        found.append(Security(context, expires, *digests))
        left = expires - time()
        if left < WARN_BEFORE:
            log.warning("the certificate in %s %s: renew it, and reload", tls.cert_file,
                        f"runs out in {units.duration(left)}" if left > 0 else "has run out")
    return found


def check_pools(settings: config.Config) -> None:
    """Look whether the files that are named for pools hold what they should. Raises TlsError, which names the pool."""
    for path, pool in settings.pools_by_path.items():
        try:
            check_pool(pool)
        except TlsError as fault:
            raise TlsError(f"{path}: {fault}") from None


def check_pool(pool: config.Upstream) -> None:
    """The same for one. The system's authorities are not loaded where no files are named: that takes 20 ms. Raises
    TlsError."""
    if pool.ca_file or pool.cert_file:
        client_context(files_of(pool))


def server_files(tls: config.Tls) -> ServerFiles:
    """What a listener shows, and whom it asks for a certificate."""
    return ServerFiles(tls.cert_file, tls.key_file, tls.client_ca_file, tls.min_version)


def files_of(pool: config.Upstream) -> ClientFiles:
    """How a pool's certificate is checked, and what it is shown."""
    return ClientFiles(not pool.insecure_skip_verify, pool.ca_file, pool.cert_file, pool.key_file)


def destination_of(pool: config.Upstream) -> Destination:
    """Where the pool is, and how it is reached."""
    place, socks = pool.place, pool.socks_proxy
    return Destination(place.host, place.port, place.tls, files_of(pool), pool.server_name, pool.fingerprint,
                       socks.host if socks.enabled else "", socks.port, socks.username, socks.password)


def _expiry(path: str) -> float:
    from karoo import cert  # only here: it takes 10 MB
    try:
        return cert.expiry(path)
    except (OSError, ValueError) as failure:
        raise TlsError(f"{path}: {failure}") from None


def _digest(path: str) -> bytes:
    """That of a file; empty for no file. Raises TlsError."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).digest() if path else b""
    except OSError as failure:
        raise TlsError(f"{path}: {failure.strerror or failure}") from None
