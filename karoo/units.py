"""Numbers and addresses as people read them. No I/O."""

from __future__ import annotations

import math

_HASHES = ("H/s", "kH/s", "MH/s", "GH/s", "TH/s", "PH/s", "EH/s", "ZH/s")
_PLAIN = ("", "k", "M", "G", "T", "P", "E")


def hashrate(value: float) -> str:
    """1.23 TH/s: three significant digits."""
    return _scaled(value, _HASHES, " ")


def difficulty(value: float) -> str:
    """65.5k, 0.0001, 126T."""
    return f"{value:.3g}" if value < 1000 else _scaled(value, _PLAIN, "")


def place(host: str, port: int) -> str:
    """pool.example.org:3333, [::1]:3333."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def counted(number: int, thing: str) -> str:
    """1 pool, 2 pools."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """0.4 s, 12 s, 3 min 20 s, 5 h 02 min, 3 d 04 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def _scaled(value: float, names: tuple[str, ...], blank: str) -> str:
    if not math.isfinite(value):
        return "∞"
    step = 0
    while value >= 999.5 and step < len(names) - 1:
        value /= 1000
        step += 1
    digits = 0 if value >= 99.95 or value == 0 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}{blank}{names[step]}".rstrip()
