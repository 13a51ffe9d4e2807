"""`karoo check --connect`: dial each pool as the proxy would, and say what it gives."""

from __future__ import annotations

from collections.abc import Iterator

from karoo import config, units
from karoo.metrics import Metrics
from karoo.net.tls import client_context
from karoo.policy.nonce import prefix_size
from karoo.proxy.events import Unheard
from karoo.proxy.lost import UpstreamError
from karoo.proxy.upstream import Upstream, files_of
from karoo.proxy.waysin import securities
from karoo.stratum import difficulty as dif
from karoo.stratum.methods import Notify
from karoo.stratum.share import ALGORITHMS


class _FirstJob(Unheard):
    """Keeps the first job of a connection."""

    def __init__(self) -> None:
        self.job: tuple[Notify, float] | None = None

    def on_job(self, notify: Notify, difficulty: float) -> None:
        self.job = self.job or (notify, difficulty)
        raise UpstreamError("seen enough")


def load_files(settings: config.Config) -> None:
    """Look whether the files that the configuration names hold what they should. Raises TlsError."""
    securities(settings.ways_in)
    for pool in settings.pools:
        client_context(files_of(pool))


def check_pool(pool: config.Upstream, algorithm: str, report: list[str]) -> bool:
    """Connect to a pool up to its first job; lines for people go to `report`. Whether miners could work there."""
    events = _FirstJob()
    upstream = Upstream(pool, events, Metrics())
    address = f"{pool.place.host}:{pool.place.port}"
    title = address if pool.name == address else f"{pool.name} ({address})"
    report.append(f"{title} as {upstream.names.policy.default_user}{' over TLS' if pool.place.tls else ''}")
    reason = ""
    try:
        upstream.open()
        upstream.hear_refusals(1.0)
        upstream.relay()
    except UpstreamError as failure:
        reason = str(failure)
    finally:
        upstream.close()
    report += [f"  {line}" for line in _steps(upstream)]
    if events.job is None:
        report.append(f"  FAILED: {reason}")
        return False
    report += [f"  {line}" for line in _given(upstream, *events.job, algorithm)]
    report.append("  OK")
    return True


def _steps(upstream: Upstream) -> Iterator[str]:
    for step, seconds in upstream.handshake_seconds.items():
        yield f"{step:<20} {seconds * 1e3:8.1f} ms"


def _given(upstream: Upstream, notify: Notify, difficulty: float, algorithm: str) -> Iterator[str]:
    extranonce = upstream.extranonce
    assert extranonce is not None
    size, setting = extranonce.extranonce2_size, upstream.pool.prefix_bytes
    prefix = prefix_size(size, None if isinstance(setting, str) else setting)
    first = extranonce.extranonce1
    yield f"extranonce1          {first.hex()} ({len(first)} bytes)"
    yield (f"extranonce2          {size} bytes: {prefix} to tell miners apart (room for {1 << 8 * prefix} on a "
           f"connection), {size - prefix} for each miner")
    yield f"version rolling      {f'mask {upstream.mask:08x}' if upstream.mask else 'none'}"
    diff1 = ALGORITHMS[algorithm].diff1
    yield (f"difficulty           {units.difficulty(difficulty)} "
           f"(network {units.difficulty(dif.difficulty_of(notify.network_target, diff1))})")
    coinbase = len(notify.coinb1) + len(first) + size + len(notify.coinb2)
    yield f"job                  {len(notify.branches)} merkle branches, a coinbase of {coinbase} bytes"
    for refused in upstream.refused:
        yield f"refused              {refused}"
