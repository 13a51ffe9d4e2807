"""The files of the configuration: can they be used, who can read them, and until when do certificates hold?"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import Any

from cryptography import x509

from karoo import config, units
from karoo.configfile import read_text
from karoo.doctor.findings import Section
from karoo.doctor.settings import secrets_in
from karoo.net.tls import TlsError, server_context
from karoo.proxy.waysin import WARN_BEFORE, check_pool, server_files

DAY = 86_400.0


def examine(section: Section, own: str, settings: config.Config) -> None:
    """The configuration's own file, then those that it names."""
    _own(section, own, settings)
    for path, way in settings.ways_by_path.items():
        option, tls = f"{path}.tls", way.tls
        if not tls.enabled:
            continue
        try:
            server_context(server_files(tls))
        except TlsError as fault:
            section.fail("files.tls", option, str(fault), "`karoo cert` makes a certificate and its key", faulty=True)
            continue
        _certificate(section, f"{option}.cert_file", tls.cert_file)
        _key(section, f"{option}.key_file", tls.key_file)
        if tls.client_ca_file:
            _certificate(section, f"{option}.client_ca_file", tls.client_ca_file)
    for option, pool in settings.pools_by_path.items():
        try:
            check_pool(pool)
        except TlsError as fault:
            section.fail("files.tls", option, str(fault), faulty=True)
            continue
        if pool.ca_file:
            _certificate(section, f"{option}.ca_file", pool.ca_file)
        if pool.cert_file:
            _certificate(section, f"{option}.cert_file", pool.cert_file)
            _key(section, f"{option}.key_file" if pool.key_file else f"{option}.cert_file",
                 pool.key_file or pool.cert_file)


def _own(section: Section, path: str, settings: config.Config) -> None:
    secrets = secrets_in(settings, read_text(path))
    mode = os.stat(path).st_mode
    if secrets and mode & (stat.S_IROTH | stat.S_IWOTH):
        section.warn("files.secrets", os.path.basename(path), "everybody on this machine can read "
                     f"{' and '.join(secrets)} "
                     "in it", f"chmod 640 {path}, or take them from the environment: ${{NAME}}", options=secrets)
    elif mode & stat.S_IWOTH:
        section.warn("files.writable", os.path.basename(path), "everybody on this machine may change the configuration",
                     f"chmod 640 {path}")


def _key(section: Section, option: str, path: str) -> None:
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        section.warn("files.key_mode", option, f"everybody on this machine can read the key in {path} (mode "
                     f"{mode:03o})",
                     f"chmod 600 {path}", mode=f"{mode:03o}")
    elif mode & stat.S_IRGRP:
        section.note("files.key_mode", option, f"the group of {path} can read the key (mode {mode:03o})",
                     mode=f"{mode:03o}")
    else:
        section.ok("files.key_mode", option, f"only its owner can read the key (mode {mode:03o})", mode=f"{mode:03o}")


def _certificate(section: Section, option: str, path: str) -> None:
    """How long the one certificate of a file holds that ends first."""
    try:
        certificates = x509.load_pem_x509_certificates(Path(path).read_bytes())
        first = min(certificates, key=lambda each: each.not_valid_after_utc)
    except (OSError, ValueError) as fault:
        section.fail("files.certificate", option, f"{path}: {fault}", faulty=True)
        return
    now, begins = time.time(), max(each.not_valid_before_utc for each in certificates).timestamp()
    left = first.not_valid_after_utc.timestamp() - now
    until = f"{first.not_valid_after_utc:%Y-%m-%d}"
    data: dict[str, Any] = {"path": path, "days_left": round(left / DAY, 1)}
    if begins > now:
        section.fail("files.certificate", option, f"{path} is not valid for {units.duration(begins - now)} yet",
                     "is the clock of this machine right?", **data)
    elif left <= 0:
        section.fail("files.certificate", option, f"{path} has run out on {until}", "renew it, and reload", **data)
    elif left < WARN_BEFORE:
        section.warn("files.certificate", option, f"{path} runs out in {units.duration(left)}, on {until}",
                     "renew it, and reload", **data)
    else:
        section.ok("files.certificate", option, f"{path} holds until {until}", **data)
