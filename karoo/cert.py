"""Certificates: a self-signed one for a LAN, its files, and what can be told about any."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import pwd
import re
import secrets
import shlex
import socket
import struct
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from karoo import units
from karoo.net.ownaddress import towards_others

CERT_NAME, KEY_NAME = "karoo-cert.pem", "karoo-key.pem"
# Whoever made every miner of a farm trust a certificate does not want to do it again next year. Apple's systems refuse
# more than 825 days, one of which is over when a certificate is made; they are no miners.
DAYS, MOST_DAYS = 3650, 7300
MOST_HOSTS = 100  # a certificate is sent in each handshake, to small miners too
PORT = 3334  # of the listener in the examples
_OLDEST_NOW = 1_767_225_600  # 2026-01-01: clocks that say less were never set

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")  # no name of the DNS has underscores, but machines do
_SIOCGIFADDR = 0x8915  # linux/sockios.h
_PASSING = 0x01 | 0x08 | 0x20  # linux/if_addr.h: IFA_F_TEMPORARY, IFA_F_DADFAILED, IFA_F_DEPRECATED
_PLAIN = re.compile(r"/[A-Za-z0-9_./-]*")  # a path that YAML takes without quotes


class BadRequest(ValueError):
    """There is no certificate for these words; the text says why."""


class NotWritten(Exception):
    """The files could not be had; the text names them. What was there before still is."""


# ---------------------------------------------------------------- hosts

def host_of(text: str) -> str:
    """A host as it stands in a certificate: a DNS name in small letters, the first label of which may be "*", or an IP
    address in its shortest form. Raises BadRequest."""
    name = text.removesuffix(".").lower()
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    try:
        address = ip_address(name)
    except ValueError:
        return _dns_name(name, text)
    if "%" in name:
        raise BadRequest(f"{text!r}: an address with a zone means something on one machine only: leave out the %")
    if address.is_unspecified or address.is_multicast:
        raise BadRequest(f"{text!r} is no address to connect to: give those of this machine that miners use")
    return str(address)


def _dns_name(name: str, text: str) -> str:
    if not text.isascii():
        raise BadRequest(f"{text!r}: names with other letters than a to z are written as the DNS has them: xn--...")
    labels = name.split(".")
    wildcard = labels[0] == "*"
    if wildcard and len(labels) < 3:
        raise BadRequest(f"{text!r}: clients want at least two labels behind a wildcard: *.farm.example")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels[wildcard:]):
        raise BadRequest(f"{text!r} is neither a DNS name nor an IP address (no port, no URL)")
    if labels[-1].isdecimal():
        raise BadRequest(f"{text!r} looks like an IP address, but is none")
    return name


def hosts_of(texts: Sequence[str]) -> list[str]:
    """Each of the hosts once, in their order. Raises BadRequest."""
    hosts = list(dict.fromkeys(map(host_of, texts)))
    if not 0 < len(hosts) <= MOST_HOSTS:
        raise BadRequest(f"a certificate is for 1 to {MOST_HOSTS} hosts, not for {len(hosts)}")
    return hosts


def own_hosts() -> list[str]:
    """What miners may call this machine: its addresses, the one towards its router first, its name, and what only the
    machine itself calls itself. Nothing is sent to anybody, so no DNS is asked."""
    found = []
    own = filter(None, (towards_others(socket.AF_INET), *_interfaces(), *_interfaces_ipv6()))
    for known in map(ip_address, own):
        if not (known.is_loopback or known.is_link_local or known.is_unspecified or known.is_multicast):
            found.append(str(known))
    try:
        found.append(host_of(socket.gethostname()))
    except BadRequest:
        pass  # machines may have names that the DNS cannot have
    return hosts_of([*found[:MOST_HOSTS - 3], "localhost", "127.0.0.1", "::1"])


def _interfaces() -> Iterator[str]:
    """The IPv4 address of each network interface, on Linux: a proxy may stand between two networks."""
    try:
        names = [name.encode() for _, name in socket.if_nameindex()]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for name in names:
                try:
                    answer = fcntl.ioctl(sock.fileno(), _SIOCGIFADDR, struct.pack("40s", name))
                except OSError:  # it has none
                    continue
                yield socket.inet_ntoa(answer[20:24])
    except OSError:  # no IPv4
        return


def _interfaces_ipv6() -> Iterator[str | None]:
    """The IPv6 addresses of the interfaces, without those that are changed every day for privacy."""
    try:
        lines = Path("/proc/net/if_inet6").read_text("ascii").splitlines()
    except OSError:  # no IPv6, or no Linux
        yield towards_others(socket.AF_INET6)
        return
    for line in lines:
        digits, _, _, _, flags, _ = line.split()
        if not int(flags, 16) & _PASSING:
            yield socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))


# ---------------------------------------------------------------- the certificate

def make(hosts: Sequence[str], days: int, now: float) -> tuple[bytes, bytes]:
    """A self-signed certificate and its key, both PEM, for these hosts, from a day before `now` (Unix seconds) until
    so many days after it. Raises BadRequest."""
    hosts = hosts_of(hosts)
    if not 1 <= days <= MOST_DAYS:
        raise BadRequest(f"a certificate can be valid for 1 to {MOST_DAYS} days, not for {days}")
    moment = datetime.fromtimestamp(int(now), timezone.utc)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _common_name(hosts))])
    key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - timedelta(days=1))  # the clocks of miners are not all right
        .not_valid_after(moment + timedelta(days=days)))
    for extension, critical in (
            (x509.SubjectAlternativeName([_general_name(host) for host in hosts]), False),
            # No authority, although clients are told to trust it. They take a certificate that is the same as a trusted
            # one without asking who signed it (OpenSSL since 1.1.1h, Go, GnuTLS, mbedTLS), and rustls does not take one
            # of an authority from a server (CaUsedAsEndEntity). It is safer too: whoever steals the key from the proxy
            # can pretend to be the proxy, and not to be every site on earth towards all who trust its certificate.
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_signs_handshakes(), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
            (key_id, False),
            # Tells a certificate from the one before it, which has the same name and may still be trusted somewhere.
            (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), False)):
        builder = builder.add_extension(extension, critical)
    certificate = builder.sign(key, hashes.SHA256())
    return (certificate.public_bytes(Encoding.PEM),
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _common_name(hosts: Sequence[str]) -> str:
    """For people who look for it in a list of certificates: a name if there is one, of the 64 letters that fit."""
    return next((host for host in sorted(hosts, key=_is_address) if len(host) <= 64), "karoo")


def _general_name(host: str) -> x509.GeneralName:
    return x509.IPAddress(ip_address(host)) if _is_address(host) else x509.DNSName(host)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _signs_handshakes() -> x509.KeyUsage:
    """All that an ECDSA key does in TLS."""
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False)


def fingerprint(certificate: bytes) -> str:
    """SHA-256 of a certificate in DER, or of the first in a PEM file: 64 hexadecimal digits in small letters. Raises
    ValueError for what is none."""
    if certificate.startswith(b"\x30"):  # ASN.1: a sequence
        x509.load_der_x509_certificate(certificate)
        return hashlib.sha256(certificate).hexdigest()
    return x509.load_pem_x509_certificate(certificate).fingerprint(hashes.SHA256()).hex()


def expiry(path: str | os.PathLike[str]) -> float:
    """When the first certificate in a PEM file ceases to be valid, in Unix seconds. Raises ValueError when there is
    none in it, OSError when the file cannot be read."""
    data = Path(path).read_bytes()
    try:
        return x509.load_pem_x509_certificate(data).not_valid_after_utc.timestamp()
    except ValueError as fault:
        raise ValueError(f"{os.fspath(path)}: no certificate in PEM ({fault})") from None


# ---------------------------------------------------------------- the files

def write(folder: str | os.PathLike[str], cert_pem: bytes, key_pem: bytes, force: bool = False) -> tuple[Path, Path]:
    """Put the pair into a folder, which is made where it is not there, under whole paths that are returned. Raises
    NotWritten.

    Files that are there are replaced with `force` only; both or none, whatever fails. When the machine dies in between,
    each file is still whole, but one may be of the old pair: the proxy says so, and it is to be done again.
    """
    place = Path(os.path.abspath(folder))
    cert, key = place / CERT_NAME, place / KEY_NAME
    _refuse(cert, key, force=force)
    rubbish: list[Path] = []
    try:
        place.mkdir(exist_ok=True)  # but none above it, which may be a mistake
        new = [(_written(key, key_pem, 0o600, rubbish), key), (_written(cert, cert_pem, 0o644, rubbish), cert)]
        _exchange(new, force)
        _sync(place)
    except OSError as failure:
        raise NotWritten(f"cannot write {CERT_NAME} and {KEY_NAME} into {place}: "
                         f"{failure.strerror or failure}") from failure
    finally:
        for path in rubbish:
            path.unlink(missing_ok=True)
    return cert, key


def _refuse(*paths: Path, force: bool) -> None:
    taken = [str(path) for path in paths if os.path.lexists(path)]
    if taken and not force:
        raise NotWritten(f"{' and '.join(taken)} {'are' if len(taken) > 1 else 'is'} there already: "
                         "--force replaces certificate and key, --out FOLDER puts the new ones elsewhere")
    for path in paths:
        if path.is_dir():
            raise NotWritten(f"{path} is a folder: remove it, or choose another place with --out FOLDER")


def _written(final: Path, data: bytes, mode: int, rubbish: list[Path]) -> Path:
    """A file beside the final one, on the disk; nobody else can read it before it has its mode."""
    number, name = tempfile.mkstemp(prefix=f".{final.name}.", dir=final.parent)  # 0600
    rubbish.append(Path(name))
    with open(number, "wb") as file:
        os.fchmod(number, mode)  # whatever the umask made of it
        file.write(data)
        file.flush()
        os.fsync(number)
    return Path(name)


def _exchange(new: Sequence[tuple[Path, Path]], force: bool) -> None:
    """Give each file its final name; all of them, or everything is as it was. Raises OSError."""
    done: list[tuple[Path, Path | None]] = []  # a final name, and what it stood for before
    try:
        for temporary, final in new:
            if force and os.path.lexists(final):
                old = final.with_name(f".{final.name}.{secrets.token_hex(6)}.old")
                _name(final, old)
                done.append((final, old))
                os.replace(temporary, final)
            else:
                _name(temporary, final)
                done.append((final, None))
    except BaseException:
        for final, before in reversed(done):
            if before is None:
                os.unlink(final)
            else:
                os.replace(before, final)
                before.unlink(missing_ok=True)  # two names of one file: nothing was replaced
        raise
    for _, before in done:
        if before is not None:
            before.unlink(missing_ok=True)


def _name(path: Path, name: Path) -> None:
    """Give a file a name that is free; the old one may go. Raises FileExistsError when it is not free."""
    try:
        os.link(path, name, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(name)) from None
        os.rename(path, name)


def _sync(folder: Path) -> None:
    try:
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
    except OSError:
        pass  # not every folder can be read, or synced; the files themselves are on the disk


# ---------------------------------------------------------------- the command

def create(folder: str, hosts: Sequence[str], days: int, force: bool, now: float) -> str:
    """What `karoo cert` does; what it has to say, for people. Raises BadRequest, NotWritten."""
    place = os.path.abspath(folder)
    if not place.isprintable():  # bytes that are no UTF-8 are not, either
        raise BadRequest(f"{place!r} has letters that a configuration cannot have: choose another folder")
    hosts = hosts_of(hosts)
    cert_pem, key_pem = make(hosts, days, now)
    if now < _OLDEST_NOW:
        raise NotWritten(f"the clock of this machine says that it is {_day(now)}, and so the certificate would end too "
                         "early: set the clock first")
    cert, key = write(place, cert_pem, key_pem, force)
    return _described(cert, key, hosts, fingerprint(cert_pem), expiry(cert))


def _described(cert: Path, key: Path, hosts: Sequence[str], digest: str, until: float) -> str:
    host = next((host for host in hosts if not host.startswith("*")), "HOST")
    there = units.place(host, PORT)
    return f"""\
certificate   {cert}
key           {key}
for           {", ".join(hosts)}
valid until   {_day(until)}
SHA-256       {digest}

Only {_user()} can read the key. A proxy that runs as another user needs: chown USER {shlex.quote(str(key))}

In the configuration of the proxy:

listeners:
  - address: "0.0.0.0:{PORT}"
    tls:
      enabled: true
      cert_file: {_yaml(cert)}
      key_file: {_yaml(key)}

Miners then connect to stratum+ssl://{there}
Those that check certificates must be given {CERT_NAME} as one to trust; for another Karoo that connects here, the
SHA-256 as upstream.fingerprint is enough. To try it:

  openssl s_client -connect {there} -CAfile {shlex.quote(str(cert))}
"""


def _day(now: float) -> str:
    return f"{datetime.fromtimestamp(now, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def _user() -> str:
    number = os.geteuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # in containers
        return f"user {number}"


def _yaml(path: Path) -> str:
    return str(path) if _PLAIN.fullmatch(str(path)) else json.dumps(str(path), ensure_ascii=False)
