"""`karoo cert`: what it makes is judged by the real openssl, where it puts it by everything that can fail there."""

import errno
import os
import shutil
import socket
import ssl
import stat
import string
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from gevent.server import StreamServer
from hypothesis import given
from hypothesis import strategies as st

from karoo import cert, config
from karoo.cert import CERT_NAME, KEY_NAME, BadRequest, NotWritten

ROOT = Path(__file__).parent.parent
OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(  # by hand only: where everything must hold, it is missed
    OPENSSL is None and not os.environ.get("CI"), reason="openssl is missing: .ci/debian openssl openssl")

HOSTS = ["proxy.lan", "*.farm.example", "10.0.0.5", "fd00::5"]
DAY = 86400


def openssl(*words):
    """Its exit code and all that it says."""
    done = subprocess.run([OPENSSL, *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=30, check=False)
    return done.returncode, done.stdout


def made(folder, *hosts, days=30, name="pair"):
    """The files of a pair."""
    place = folder / name
    place.mkdir()
    return cert.write(place, *cert.make(hosts or HOSTS, days, time.time()))


def loaded(pem):
    return x509.load_pem_x509_certificate(pem)


def names_in(certificate):
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in found]


class TlsServer:
    """Shakes hands with whoever comes."""

    def __init__(self, cert_file, key_file):
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(cert_file, key_file)
        self._server = StreamServer(("127.0.0.1", 0), self._serve)
        self._server.start()
        self.address = f"127.0.0.1:{self._server.server_port}"

    def _serve(self, sock, _address):
        try:
            with self._context.wrap_socket(sock, server_side=True) as safe:
                safe.recv(1)
        except OSError:
            pass  # the client did not like the certificate

    def close(self):
        self._server.stop()


@pytest.fixture
def handshake():
    """openssl's judgement on a server that shows a pair: exit code and text."""
    servers = []

    def shake(files, authority, *words):
        servers.append(TlsServer(*files))
        return openssl("s_client", "-connect", servers[-1].address, "-CAfile", authority, "-no-CApath", "-no-CAstore",
                       "-verify_return_error", *words)
    yield shake
    for server in servers:
        server.close()


# ---------------------------------------------------------------- what openssl makes of it

@needs_openssl
def test_openssl_reads_what_was_asked_for(tmp_path):
    certificate, key = made(tmp_path)
    code, text = openssl("x509", "-in", certificate, "-noout", "-text")
    assert code == 0
    for words in ("Version: 3 ", "ecdsa-with-SHA256", "prime256v1", "DNS:proxy.lan, DNS:*.farm.example, "
                  "IP Address:10.0.0.5, IP Address:FD00:0:0:0:0:0:0:5", "Subject Alternative Name",
                  "Basic Constraints: critical", "CA:FALSE", "Key Usage: critical", "Digital Signature",
                  "TLS Web Server Authentication", "Subject Key Identifier"):
        assert words in text
    for words in ("Certificate Sign", "CRL Sign", "TLS Web Client"):
        assert words not in text
    assert openssl("pkey", "-in", key, "-noout", "-check")[0] == 0
    assert openssl("x509", "-in", certificate, "-noout", "-pubkey") == openssl("pkey", "-in", key, "-pubout")


@needs_openssl
@pytest.mark.parametrize("more", [[], ["-x509_strict"], ["-partial_chain"], ["-check_ss_sig"]])
def test_openssl_trusts_it_when_told_to(tmp_path, more):
    certificate, _ = made(tmp_path)
    words = ["verify", "-no-CApath", "-no-CAstore", "-purpose", "sslserver", *more]
    assert openssl(*words, "-CAfile", certificate, certificate) == (0, f"{certificate}: OK\n")
    other, _ = made(tmp_path, name="other")
    assert openssl(*words, "-CAfile", other, certificate)[0] != 0


@needs_openssl
@pytest.mark.parametrize(("words", "good"), [
    (["-verify_hostname", "proxy.lan"], True), (["-verify_hostname", "rig.farm.example"], True),
    (["-verify_ip", "10.0.0.5"], True), (["-verify_ip", "fd00::5"], True),
    (["-verify_hostname", "other.lan"], False), (["-verify_hostname", "farm.example"], False),
    (["-verify_hostname", "a.b.farm.example"], False), (["-verify_ip", "10.0.0.6"], False)])
def test_a_client_shakes_hands_with_the_hosts_that_it_is_for_and_no_others(tmp_path, handshake, words, good):
    files = made(tmp_path)
    code, text = handshake(files, files[0], *words)
    assert (code == 0) is good, text
    assert ("Verify return code: 0 (ok)" in text) is good
    assert good or "mismatch" in text.lower()


@needs_openssl
def test_a_client_with_another_certificate_does_not_shake_hands(tmp_path, handshake):
    files, (other, _) = made(tmp_path), made(tmp_path, name="other")
    code, text = handshake(files, other, "-verify_hostname", "proxy.lan")
    assert code != 0 and "self" in text


@needs_openssl
def test_a_client_may_trust_the_old_and_the_new_certificate_of_one_name_at_a_time(tmp_path, handshake):
    old, new = made(tmp_path, name="old"), made(tmp_path, name="new")
    both = tmp_path / "both.pem"
    for first, second in ((old, new), (new, old)):
        both.write_bytes(first[0].read_bytes() + second[0].read_bytes())
        for files in (old, new):
            code, text = handshake(files, both, "-verify_hostname", "proxy.lan")
            assert code == 0, text


@needs_openssl
def test_its_key_cannot_sign_for_others(tmp_path):
    certificate, key = made(tmp_path)
    issuer = loaded(certificate.read_bytes())
    signer = serialization.load_pem_private_key(key.read_bytes(), None)
    now = datetime.now(timezone.utc)
    forged = (x509.CertificateBuilder().issuer_name(issuer.subject).public_key(ec.generate_private_key(
        ec.SECP256R1()).public_key()).serial_number(1).not_valid_before(now - timedelta(1))
        .not_valid_after(now + timedelta(1))
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bank.example")]))
        .sign(signer, hashes.SHA256()))
    path = tmp_path / "forged.pem"
    path.write_bytes(forged.public_bytes(serialization.Encoding.PEM))
    code, text = openssl("verify", "-no-CApath", "-no-CAstore", "-CAfile", certificate, path)
    assert code != 0 and "OK" not in text


@needs_openssl
def test_fingerprint_and_expiry_are_those_that_openssl_tells(tmp_path):
    certificate, _ = made(tmp_path)
    pem = certificate.read_bytes()
    _, text = openssl("x509", "-in", certificate, "-noout", "-fingerprint", "-sha256")
    told = text.strip().rpartition("=")[2].replace(":", "").lower()
    assert cert.fingerprint(pem) == cert.fingerprint(ssl.PEM_cert_to_DER_cert(pem.decode())) == told
    _, text = openssl("x509", "-in", certificate, "-noout", "-enddate")
    assert cert.expiry(certificate) == ssl.cert_time_to_seconds(text.strip().partition("=")[2])


# ---------------------------------------------------------------- the certificate

def test_it_is_valid_from_a_day_ago_for_so_many_days():
    now = 1_800_000_000.75
    for days in (1, 3650, cert.MOST_DAYS):
        certificate = loaded(cert.make(["proxy.lan"], days, now)[0])
        assert certificate.not_valid_before_utc.timestamp() == 1_800_000_000 - DAY
        assert certificate.not_valid_after_utc.timestamp() == 1_800_000_000 + days * DAY


@pytest.mark.parametrize("days", [0, -1, cert.MOST_DAYS + 1, 10**30])
def test_days_have_limits(days):
    with pytest.raises(BadRequest, match=f"1 to {cert.MOST_DAYS} days, not for {days}"):
        cert.make(["proxy.lan"], days, 1.8e9)


def test_no_two_are_the_same():
    pairs = [cert.make(["proxy.lan"], 30, 1.8e9) for _ in range(20)]
    serials = {loaded(pem).serial_number for pem, _ in pairs}
    assert len(serials) == len({key for _, key in pairs}) == 20
    assert all(2**64 < serial < 2**159 for serial in serials)


@pytest.mark.parametrize(("hosts", "name"), [
    (["10.0.0.5", "proxy.lan"], "proxy.lan"), (["10.0.0.5"], "10.0.0.5"), (["*.farm.example"], "*.farm.example"),
    ([".".join(["a" * 40] * 3)], "karoo"), ([".".join(["a" * 40] * 3), "proxy.lan"], "proxy.lan")])
def test_its_common_name_is_a_name_that_fits(hosts, name):
    subject = loaded(cert.make(hosts, 30, 1.8e9)[0]).subject
    assert [part.value for part in subject] == [name]


# ---------------------------------------------------------------- hosts

@pytest.mark.parametrize(("text", "host"), [
    ("proxy.lan", "proxy.lan"), ("Proxy.LAN.", "proxy.lan"), ("rig_7", "rig_7"), ("*.farm.example", "*.farm.example"),
    ("xn--bcher-kva.example", "xn--bcher-kva.example"), ("3com.example", "3com.example"), ("a-b", "a-b"),
    ("10.0.0.5", "10.0.0.5"), ("FD00:0:0::0005", "fd00::5"), ("[fd00::5]", "fd00::5"), ("::1", "::1"),
    ("fe80::1", "fe80::1"), ("a" * 63, "a" * 63), (".".join(["a" * 50] * 4), ".".join(["a" * 50] * 4))])
def test_hosts_are_names_and_addresses(text, host):
    assert cert.host_of(text) == host


@pytest.mark.parametrize(("text", "reason"), [
    ("", "neither"), (".", "neither"), (" ", "neither"), ("a b", "neither"), ("a..b", "neither"), ("-a", "neither"),
    ("a-.lan", "neither"), ("proxy.lan:3334", "no port"), ("stratum+ssl://proxy.lan", "no URL"), ("a\n", "neither"),
    ("10.0.0.0/24", "neither"), ("a" * 64, "neither"), (".".join(["a" * 50] * 5), "neither"), ("a\0b", "neither"),
    ("10.0.0.300", "looks like an IP address"), ("10.0.0", "looks like"), ("010.0.0.1", "looks like"),
    ("7", "looks like"), ("*", "wildcard"), ("*.lan", "wildcard"), ("a.*.lan", "neither"), ("a*.farm.lan", "neither"),
    ("0.0.0.0", "to connect to"), ("::", "to connect to"), ("224.0.0.1", "to connect to"), ("fe80::1%eth0", "zone"),
    ("bücher.example", "xn--"), ("\u212a.lan", "xn--"), ("[proxy.lan", "neither"), ("::1::", "neither")])
def test_other_hosts_are_refused_with_a_reason(text, reason):
    with pytest.raises(BadRequest, match=reason) as refusal:
        cert.host_of(text)
    assert repr(text) in str(refusal.value)


def test_a_host_stands_there_once_and_there_are_not_too_many():
    assert cert.hosts_of(["b.lan", "a.lan", "B.lan.", "::1", "0:0::1"]) == ["b.lan", "a.lan", "::1"]
    most = [f"rig{number}" for number in range(cert.MOST_HOSTS)]
    assert cert.hosts_of(most + most) == most
    for hosts in ([], [*most, "one.more"]):
        with pytest.raises(BadRequest, match=f"not for {len(hosts)}"):
            cert.make(hosts, 30, 1.8e9)


labels = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,20}[a-z0-9])?", fullmatch=True)
tops = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
dns_names = st.builds(lambda star, parts, top: ".".join([*star, *parts, top]), st.sampled_from([(), ("*",)]),
                      st.lists(labels, min_size=1, max_size=4), tops)
addresses = st.ip_addresses().filter(lambda one: not (one.is_unspecified or one.is_multicast)).map(str)


@given(st.lists(dns_names | addresses, min_size=1, max_size=8, unique=True))
def test_a_certificate_is_for_just_the_hosts_that_were_given(hosts):
    pem, key = cert.make(hosts, 30, 1.8e9)
    assert names_in(loaded(pem)) == hosts
    for name, host in zip(loaded(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value, hosts,
                          strict=True):
        assert isinstance(name, x509.IPAddress) == (":" in host or host.replace(".", "").isdecimal())
    assert serialization.load_pem_private_key(key, None).public_key() == loaded(pem).public_key()


@given(st.text() | st.text(string.ascii_letters + string.digits + ".-*:[]%_"))
def test_any_text_is_a_host_or_refused(text):
    try:
        host = cert.host_of(text)
    except BadRequest:
        return
    assert cert.host_of(host) == host and host.isascii() and host == host.lower() and len(host) <= 253


def test_by_default_it_is_for_this_machine():
    hosts = cert.own_hosts()
    assert hosts[-3:] == ["localhost", "127.0.0.1", "::1"] and cert.hosts_of(hosts) == hosts
    assert not [host for host in hosts[:-3] if host.startswith(("127.", "169.254.", "fe80:"))]


def test_the_addresses_of_all_interfaces_are_this_machine(monkeypatch, tmp_path):
    known = tmp_path / "if_inet6"
    known.write_text("00000000000000000000000000000001 01 80 10 80       lo\n"
                     "fd000000000000000000000000000002 04 40 00 82     eth0\n"
                     "fd00000000000000deadbeefdeadbeef 04 40 00 01     eth0\n"  # for today
                     "fe8000000000000000fc00fffe000001 04 40 20 80     eth0\n")
    monkeypatch.setattr(cert, "Path", lambda path: known)
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth0"), (3, "eth1"), (4, "down")])
    monkeypatch.setattr(socket, "gethostname", lambda: "Proxy")

    def ioctl(_number, request, name):
        address = {b"lo": "127.0.0.1", b"eth0": "10.0.0.5", b"eth1": "192.168.7.1"}.get(name.rstrip(b"\0"))
        if request != 0x8915 or address is None:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        return name[:20] + socket.inet_aton(address) + bytes(16)
    monkeypatch.setattr(cert.fcntl, "ioctl", ioctl)
    monkeypatch.setattr(cert, "towards_others", lambda family: "192.168.7.1")
    assert cert.own_hosts() == ["192.168.7.1", "10.0.0.5", "fd00::2", "proxy", "localhost", "127.0.0.1", "::1"]


@pytest.mark.parametrize("hostname", ["rig.", "(none)", "", "rig 7", "4711", "localhost"])
def test_a_machine_without_network_and_with_any_name_has_a_certificate(monkeypatch, tmp_path, hostname):
    class Alone:
        def __init__(self, *words):
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", Alone)
    monkeypatch.setattr(socket, "gethostname", lambda: hostname)
    monkeypatch.setattr(cert, "Path", lambda path: tmp_path / "nothing")
    hosts = cert.own_hosts()
    assert hosts == [*(["rig"] if hostname == "rig." else []), "localhost", "127.0.0.1", "::1"]
    assert names_in(loaded(cert.make(hosts, 30, 1.8e9)[0])) == hosts


def test_nobody_is_asked_or_told_anything(monkeypatch):
    def refuse(*words, **more):
        raise AssertionError("a name was asked for, or something sent")
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getfqdn"):
        monkeypatch.setattr(socket, name, refuse)
    for name in ("send", "sendto", "sendall"):
        monkeypatch.setattr(socket.socket, name, refuse)
    assert "localhost" in cert.own_hosts()


# ---------------------------------------------------------------- any certificates

def test_of_a_chain_the_first_certificate_counts(tmp_path):
    (first, key), (second, _) = cert.make(["a.lan"], 10, 1.8e9), cert.make(["b.lan"], 20, 1.8e9)
    path = tmp_path / "chain.pem"
    for chain in (first + second, key + first + second, b"# of a.lan\n\n" + first + key):
        path.write_bytes(chain)
        assert cert.expiry(path) == cert.expiry(str(path)) == 1.8e9 + 10 * DAY
        assert cert.fingerprint(chain) == cert.fingerprint(first) != cert.fingerprint(second)


@pytest.mark.parametrize("data", [b"", b"x", b"\xff\xfe\x00", b"0", b"\x30\x03\x02\x01\x01", "key",
                                  b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                                  b"-----BEGIN CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_a_value_error(tmp_path, data):
    data = cert.make(["a.lan"], 10, 1.8e9)[1] if data == "key" else data
    path = tmp_path / "none.pem"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"none\.pem: no certificate in PEM"):
        cert.expiry(path)
    with pytest.raises(ValueError):
        cert.fingerprint(data)


def test_a_file_that_cannot_be_read_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        cert.expiry(tmp_path / "nothing.pem")
    with pytest.raises(IsADirectoryError):
        cert.expiry(tmp_path)


# ---------------------------------------------------------------- the files

OLD, NEW = (b"old certificate", b"old key"), (b"new certificate", b"new key")


def pair_in(folder):
    """What stands there, certificate and key; None for what does not."""
    return tuple(path.read_bytes() if path.exists() else None for path in (folder / CERT_NAME, folder / KEY_NAME))


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize("mask", [0, 0o022, 0o077, 0o177, 0o777])
@pytest.mark.parametrize("force", [False, True])
def test_the_key_is_for_its_owner_only_under_any_umask(tmp_path, umask, monkeypatch, mask, force):
    if force:
        cert.write(tmp_path, *OLD)
        (tmp_path / KEY_NAME).chmod(0o666)
    seen = []
    change = os.fchmod

    def fchmod(number, mode):
        status = os.fstat(number)
        seen.append((stat.S_IMODE(status.st_mode) & ~0o600, status.st_size))
        change(number, mode)
    monkeypatch.setattr(os, "fchmod", fchmod)
    umask(mask)
    certificate, key = cert.write(tmp_path, *NEW, force=force)
    assert (mode(certificate), mode(key)) == (0o644, 0o600)
    assert seen == [(0, 0), (0, 0)], "while nothing was in them, nobody else could open them"
    assert pair_in(tmp_path) == NEW and files_in(tmp_path) == [CERT_NAME, KEY_NAME]


def test_paths_are_whole_however_the_folder_is_given(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    assert cert.write("sub/../sub", *NEW) == (tmp_path / "sub" / CERT_NAME, tmp_path / "sub" / KEY_NAME)


@pytest.mark.parametrize("there", [[CERT_NAME], [KEY_NAME], [CERT_NAME, KEY_NAME]])
@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_what_is_there_is_kept_and_named(tmp_path, there, kind):
    for name in there:
        if kind == "file":
            (tmp_path / name).write_text("precious")
        elif kind == "link":
            (tmp_path / name).symlink_to("nowhere")
        else:
            (tmp_path / name).mkdir()
    before = [(name, (tmp_path / name).lstat()) for name in files_in(tmp_path)]
    with pytest.raises(NotWritten, match="--force") as refusal:
        cert.write(tmp_path, *NEW)
    assert all(str(tmp_path / name) in str(refusal.value) for name in there)
    assert [(name, (tmp_path / name).lstat()) for name in files_in(tmp_path)] == before


@pytest.mark.parametrize("there", [[], [CERT_NAME], [KEY_NAME], [CERT_NAME, KEY_NAME]])
def test_with_force_both_are_replaced(tmp_path, there):
    for name in there:
        (tmp_path / name).write_text("old")
    cert.write(tmp_path, *NEW, force=True)
    assert pair_in(tmp_path) == NEW and files_in(tmp_path) == [CERT_NAME, KEY_NAME]


def test_with_force_a_link_is_replaced_and_not_what_it_leads_to(tmp_path):
    target = tmp_path / "elsewhere.pem"
    target.write_text("precious")
    (tmp_path / KEY_NAME).symlink_to(target)
    cert.write(tmp_path, *NEW, force=True)
    assert target.read_text() == "precious" and pair_in(tmp_path) == NEW
    assert not (tmp_path / KEY_NAME).is_symlink()


def test_a_link_is_still_one_when_the_pair_could_not_be_replaced(tmp_path, monkeypatch):
    target = tmp_path / "elsewhere.pem"
    target.write_text("precious")
    (tmp_path / KEY_NAME).symlink_to(target)
    (tmp_path / CERT_NAME).symlink_to("nowhere")
    replace = os.replace

    def refusing(source, name):
        if Path(name).name == CERT_NAME and not Path(source).is_symlink():
            raise OSError(errno.EBUSY, "Device or resource busy")  # as where the file itself is mounted
        replace(source, name)
    monkeypatch.setattr(os, "replace", refusing)
    with pytest.raises(NotWritten, match="busy"):
        cert.write(tmp_path, *NEW, force=True)
    assert files_in(tmp_path) == ["elsewhere.pem", CERT_NAME, KEY_NAME]
    assert os.readlink(tmp_path / KEY_NAME) == str(target) and os.readlink(tmp_path / CERT_NAME) == "nowhere"
    assert target.read_text() == "precious"


@pytest.mark.parametrize("name", [CERT_NAME, KEY_NAME])
def test_a_folder_is_not_replaced_even_with_force(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "precious").touch()
    with pytest.raises(NotWritten, match="is a folder"):
        cert.write(tmp_path, *NEW, force=True)
    assert files_in(tmp_path) == [name] and (tmp_path / name / "precious").exists()


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_a_file_that_comes_up_meanwhile_is_kept(tmp_path, monkeypatch, links):
    link = os.link

    def late(source, target, **more):
        if Path(target).name == CERT_NAME:
            Path(target).write_text("somebody else's")
        if not links:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        link(source, target, **more)
    monkeypatch.setattr(os, "link", late)
    with pytest.raises(NotWritten, match="File exists"):
        cert.write(tmp_path, *NEW)
    assert pair_in(tmp_path) == (b"somebody else's", None) and files_in(tmp_path) == [CERT_NAME]


class Failing:
    """The n-th of the calls that change a folder does not succeed."""

    CALLS = ("link", "rename", "replace", "fchmod", "fsync")

    def __init__(self, monkeypatch, number, links):
        self.left, self.failed, self._links = number, None, links
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name, call):
        def wrapped(*words, **more):
            if name == "link" and not self._links:
                raise PermissionError(errno.EPERM, "Operation not permitted")
            self.left -= 1
            if self.left == 0:
                self.failed = name
                raise OSError(errno.EIO, "Input/output error")
            return call(*words, **more)
        return wrapped


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize("there", [OLD, (None, b"old key"), (b"old certificate", None), (None, None)],
                         ids=["both", "key", "certificate", "none"])
@pytest.mark.parametrize("number", range(1, 14))
def test_whatever_fails_there_is_one_pair_and_no_rubbish(tmp_path, monkeypatch, there, links, number):
    for name, data in zip((CERT_NAME, KEY_NAME), there, strict=True):
        if data is not None:
            (tmp_path / name).write_bytes(data)
    with monkeypatch.context() as patch:
        failing = Failing(patch, number, links)
        try:
            cert.write(tmp_path, *NEW, force=any(there))
            expected = NEW
        except NotWritten as failure:
            assert str(tmp_path) in str(failure) and "Input/output error" in str(failure)
            expected = there
    assert pair_in(tmp_path) == expected
    assert files_in(tmp_path) == [name for name, data in zip((CERT_NAME, KEY_NAME), expected, strict=True) if data]
    if failing.failed is None:
        assert number > 6 and expected == NEW, "all the calls were made"


DYING = """
import os, sys
from pathlib import Path
from karoo import cert
folder, force = Path(sys.argv[1]), sys.argv[2] == "force"
calls = 0

def mortal(call, number):
    def wrapped(*words, **more):
        global calls
        calls += 1
        if calls == number:
            os._exit(9)
        return call(*words, **more)
    return wrapped

for number in range(1, 40):
    place = folder / str(number)
    place.mkdir()
    if force:
        cert.write(place, b"old certificate", b"old key")
    child = os.fork()
    if child == 0:
        for name in ("link", "rename", "replace", "unlink", "fchmod", "fsync", "open", "close"):
            setattr(os, name, mortal(getattr(os, name), number))
        cert.write(place, b"new certificate", b"new key", force)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        print("survived", number)
        break
"""


@pytest.mark.parametrize("force", ["", "force"])
def test_a_death_at_any_moment_leaves_no_half_file_and_no_open_key(tmp_path, force):
    done = subprocess.run([sys.executable, "-c", DYING, str(tmp_path), force], cwd=ROOT, capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.stdout.startswith("survived"), done.stderr
    died = int(done.stdout.split()[1]) - 1
    assert died >= 6
    for number in range(1, died + 1):
        place = tmp_path / str(number)
        for data, kind in zip(pair_in(place), ("certificate", "key"), strict=True):
            assert data in (f"old {kind}".encode() if force else None, f"new {kind}".encode())
        for path in place.iterdir():
            assert mode(path) == 0o600 or "key" not in path.name
    assert pair_in(tmp_path / str(died + 1)) == NEW


def test_a_folder_is_made(tmp_path):
    cert.write(tmp_path / "missing", *NEW)
    assert pair_in(tmp_path / "missing") == NEW


@pytest.mark.parametrize("folder", ["missing/sub", "file", "file/sub", "/proc"])
def test_a_folder_that_takes_no_files_is_a_clear_error(tmp_path, folder):
    (tmp_path / "file").touch()
    with pytest.raises(NotWritten, match=r"cannot write .* into") as refusal:
        cert.write(tmp_path / folder, *NEW)
    assert folder in str(refusal.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else_is_a_clear_error(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(NotWritten, match="Permission denied"):
        cert.write(tmp_path, *NEW)
    tmp_path.chmod(0o755)


def test_a_clock_that_was_never_set_makes_no_certificate(tmp_path):
    with pytest.raises(NotWritten, match="1970-01-01"):
        cert.create(str(tmp_path), ["proxy.lan"], 30, False, 100.0)
    assert files_in(tmp_path) == []


# ---------------------------------------------------------------- the command

def listener_of(text):
    """The configuration that the command told, read as YAML."""
    (listener,) = yaml.safe_load(text[text.index("listeners:"):text.index("\n\nMiners")])["listeners"]
    return listener


@needs_openssl
@pytest.mark.parametrize("name", ["plain", "with blank", "it's: #1 \"quoted\"", "büro"])
def test_the_command_makes_a_pair_and_says_how_to_use_it(karoo, tmp_path, handshake, name):
    folder = tmp_path / name
    folder.mkdir()
    program = karoo("cert", "--out", folder, "--host", "Proxy.lan", "10.0.0.5", "--host", "fd00::5", "--days", 10)
    assert program.end() == 0, program.text
    files = (folder / CERT_NAME, folder / KEY_NAME)
    assert files_in(folder) == [CERT_NAME, KEY_NAME] and mode(files[1]) == 0o600
    left = cert.expiry(files[0]) - time.time()
    assert 10 * DAY - 60 < left <= 10 * DAY
    until = datetime.fromtimestamp(cert.expiry(files[0]), timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    for words in (str(files[0]), str(files[1]), "proxy.lan, 10.0.0.5, fd00::5", until, "stratum+ssl://proxy.lan:3334",
                  cert.fingerprint(files[0].read_bytes()), "chown", "openssl s_client -connect proxy.lan:3334 -CAfile"):
        assert words in program.text
    listener = listener_of(program.text)
    assert listener == {"address": "0.0.0.0:3334", "tls": {
        "enabled": True, "cert_file": str(files[0]), "key_file": str(files[1])}}
    config.from_dict({"listeners": [listener], "upstream": {
        "host": "proxy.lan", "port": 3334, "user": "w", "tls": True,
        "fingerprint": cert.fingerprint(files[0].read_bytes())}})
    code, text = handshake((listener["tls"]["cert_file"], listener["tls"]["key_file"]), files[0],
                           "-verify_hostname", "proxy.lan")
    assert code == 0, text


@needs_openssl
def test_the_command_knows_this_machine(karoo, tmp_path, handshake):
    program = karoo("cert", "--out", tmp_path)
    assert program.end() == 0, program.text
    files = (tmp_path / CERT_NAME, tmp_path / KEY_NAME)
    names = names_in(loaded(files[0].read_bytes()))
    assert names == cert.own_hosts() and ", ".join(names) in program.text
    for words in (("-verify_hostname", "localhost"), ("-verify_ip", "127.0.0.1"), ("-verify_ip", "::1")):
        assert handshake(files, files[0], *words)[0] == 0
    assert 3649 * DAY < cert.expiry(files[0]) - time.time() <= 3650 * DAY


@pytest.mark.parametrize(("host", "shown"), [("*.farm.example", "stratum+ssl://HOST:3334"),
                                             ("fd00::5", "stratum+ssl://[fd00::5]:3334")])
def test_what_miners_connect_to_is_a_whole_address(tmp_path, host, shown):
    assert shown in cert.create(str(tmp_path), [host], 30, False, 1.8e9)


def test_the_command_replaces_with_force_only(karoo, tmp_path):
    assert karoo("cert", "--out", tmp_path).end() == 0
    first = pair_in(tmp_path)
    program = karoo("cert", "--out", tmp_path)
    assert program.end() == 69
    assert str(tmp_path / CERT_NAME) in program.text and str(tmp_path / KEY_NAME) in program.text
    assert "--force" in program.text and "Traceback" not in program.text and pair_in(tmp_path) == first
    assert karoo("cert", "--out", tmp_path, "--force").end() == 0
    assert all(old != new for old, new in zip(first, pair_in(tmp_path), strict=True))


@pytest.mark.parametrize(("words", "code", "reason"), [
    (["--host", "proxy.lan:3334"], 2, "'proxy.lan:3334' is neither"), (["--host", ""], 2, "neither"),
    (["--host"], 2, "--host"), (["--days", "0"], 2, "--days"), (["--days", "x"], 2, "--days"),
    (["--days", "7301"], 2, "1 to 7300 days, not for 7301"),
    (["--out", "/proc"], 69, "into /proc"), (["--out", "/nowhere/at/all"], 69, "into /nowhere/at/all: No such file"),
    (["--out", "a\nb"], 2, "choose another folder")])
def test_wrong_words_and_places_are_clear_errors(karoo, tmp_path, words, code, reason):
    program = karoo("cert", "--out", tmp_path, *words)
    assert program.end() == code
    assert reason in program.text and "karoo" in program.text and "Traceback" not in program.text
    assert files_in(tmp_path) == []


def test_help_tells_the_limits_that_hold(karoo):
    program = karoo("cert", "--help")
    assert program.end() == 0
    assert f"up to {cert.MOST_DAYS}" in " ".join(program.text.split()) and f"default {cert.DAYS}" in program.text
    program = karoo("--help")
    assert program.end() == 0 and "karoo cert" in program.text
