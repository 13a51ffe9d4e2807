"""The dial over TLS, to openssl's own server: which certificates count, and what is said of the others."""

import gc
import re
import shutil
import ssl
import subprocess

import gevent
import pytest
from gevent import socket
from gevent.server import StreamServer

from karoo.net import addresses, dialer, dialwords
from karoo.net.connection import Connection
from karoo.net.dialer import Destination, DialError, dial
from karoo.net.tls import ClientFiles
from tests import dialpeers
from tests.dialpeers import PATIENCE, Certificates, OpensslServer, needs_openssl, no_more_files, unused_port

WANTS = "the pool wants a certificate of its clients"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(autouse=True)
def system_store(certificates, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))


@pytest.fixture
def server():
    servers = []

    def start(*words):
        servers.append(OpensslServer(*words))
        return servers[-1]
    yield start
    for one in servers:
        one.close()


def destination(port, host="localhost", **more):
    files = {name: more.pop(name) for name in ("verify", "ca_file", "cert_file", "key_file") if name in more}
    return Destination(host, port, tls=True, files=ClientFiles(**files), **more)


def failure(*words, **more):
    with no_more_files(), pytest.raises(DialError) as caught:
        dial(destination(*words, **more), PATIENCE)
    return str(caught.value)


def turned(dialled):
    """What the server makes of a line; closes."""
    sock, layer, said = dialled
    try:
        sock.sendall(layer.encode(b"Stratum\n"))
        with gevent.Timeout(PATIENCE):
            while b"\n" not in said and not layer.ended:
                data = sock.recv(4096)
                said += layer.decode(data)
                if not data:
                    break
        return layer.fault or said
    finally:
        sock.close()


def works(*words, **more):
    return turned(dial(destination(*words, **more), PATIENCE)) == b"mutartS\n"


# ------------------------------------------------------------------ accepted

@needs_openssl
@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_good_certificate_with_either_version(server, certificates, version, host):
    pool = server(certificates.good, f"-tls{version.replace('.', '_')}")
    dialled = dial(destination(pool.port, host), PATIENCE)
    assert (dialled.layer.version, turned(dialled)) == (f"TLSv{version}", b"mutartS\n")


@needs_openssl
def test_the_dot_at_the_end_of_a_name_is_for_the_dns_only(server, certificates, monkeypatch):
    pool = server(certificates.name_only, "-servername", "localhost", "-servername_fatal", "-cert2",
                  certificates.name_only, "-key2", certificates.name_only)
    monkeypatch.setattr(addresses.socket, "getaddrinfo", lambda host, *_: host == "localhost." and [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", pool.port))])
    assert works(1, "localhost.")


@needs_openssl
def test_an_authority_from_a_file_is_the_only_one(server, certificates):
    pool, other = server(certificates.foreign), server(certificates.good)
    assert works(pool.port, ca_file=str(certificates.foreign_ca))
    assert "of an unknown authority" in failure(other.port, ca_file=str(certificates.foreign_ca))


@needs_openssl
def test_the_name_may_be_another_than_the_host(server, certificates):
    pool = server(certificates.other_name, "-servername", "pool.example", "-cert2", certificates.other_name,
                  "-key2", certificates.other_name, "-servername_fatal")
    assert works(pool.port, server_name="pool.example") and works(pool.port, "127.0.0.1", server_name="pool.example")
    assert "the pool does not know the name (unrecognized name): set host or server_name" in failure(
        pool.port, server_name="pool2.example")


@needs_openssl
@pytest.mark.parametrize("kind", ["good", "other_name", "expired", "future", "foreign"])
def test_with_a_fingerprint_it_alone_counts(server, certificates, kind):
    certificate = getattr(certificates, kind)
    pool, ours = server(certificate), certificates.fingerprint(certificate)
    assert works(pool.port, fingerprint=ours)
    assert works(pool.port, fingerprint=ours, ca_file="/nowhere"), "no authority is asked"
    theirs = certificates.fingerprint(certificates.client)
    text = failure(pool.port, fingerprint=theirs)
    assert text.startswith(f"TLS handshake with localhost:{pool.port}: certificate refused: "
                           "its fingerprint is another one; ")
    assert text.endswith(f"; it is {ours[:8]}…{ours[-8:]} and not {theirs[:8]}…{theirs[-8:]}: if the pool confirms "
                         f"that it has a new one, set fingerprint: {ours}")
    assert "fingerprint" in failure(pool.port, fingerprint=theirs, verify=False)


@needs_openssl
@pytest.mark.parametrize("kind", ["other_name", "expired", "future", "foreign"])
def test_without_a_check_every_certificate_is_accepted(server, certificates, kind):
    assert works(server(getattr(certificates, kind)).port, verify=False)


# ------------------------------------------------------------------ refused

@needs_openssl
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize(("kind", "host", "reason"), [
    ("other_name", "localhost", "for another name (Hostname mismatch, certificate is not valid for 'localhost'): "
                                "set server_name to a name that it is for"),
    ("name_only", "127.0.0.1", "for another name (IP address mismatch, certificate is not valid for '127.0.0.1'): "
                               "set server_name to a name that it is for"),
    ("expired", "localhost", "expired (certificate has expired): the pool has to renew it, unless the clock of this "
                             "machine is wrong"),
    ("future", "localhost", "not yet valid (certificate is not yet valid): is the clock of this machine right?"),
    ("foreign", "localhost", "of an unknown authority (unable to get local issuer certificate): if it is the pool's, "
                             "set fingerprint to its SHA-256, or ca_file to a file with its authority")])
def test_a_certificate_is_refused(server, certificates, version, kind, host, reason):
    pool = server(getattr(certificates, kind), version)
    assert failure(pool.port, host) == f"TLS handshake with {host}:{pool.port}: certificate refused: {reason}"


@needs_openssl
def test_a_bad_certificate_at_one_address_leaves_the_others(server, certificates, monkeypatch):
    """Of many machines behind a name one may have missed a renewal. The next has to prove itself as well."""
    bad, good = server(certificates.expired), server(certificates.good)
    places = [("127.0.0.1", pool.port) for pool in (bad, good)]
    monkeypatch.setattr(addresses.socket, "getaddrinfo", lambda *_: [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in places])
    assert works(1)
    places.pop()
    with unused_port() as nobody:
        places.append(nobody.getsockname())
        assert failure(1).startswith("TLS handshake with localhost:1: certificate refused: expired"), \
            "that is what is to be mended, not the address behind it"


@needs_openssl
def test_refused_handshakes_leave_no_descriptor(server, certificates):
    expired, strict = server(certificates.expired), server(certificates.good, "-tls1_2", "-Verify", "1")
    gc.disable()  # which would clear up behind us
    try:
        for port, more in ((expired.port, {}), (expired.port, {"fingerprint": "ab" * 32}), (strict.port, {})):
            failure(port, **more)  # what is opened once and kept
            with no_more_files():
                for _ in range(50):
                    failure(port, **more)
    finally:
        gc.enable()


@needs_openssl
def test_a_pool_whose_tls_is_too_old(server, certificates):
    pool = server(certificates.good, "-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0")
    assert "the pool's TLS is older than 1.2 (protocol version): it has to be renewed there" in failure(pool.port)


# ------------------------------------------------------------------ files

@needs_openssl
def test_files_that_are_renewed_count_from_the_next_dial_on(server, certificates, tmp_path):
    pool, copy = server(certificates.good), tmp_path / "ca.pem"
    shutil.copy(certificates.foreign_ca, copy)
    assert "of an unknown authority" in failure(pool.port, ca_file=str(copy))
    shutil.copy(certificates.ca, copy)
    assert works(pool.port, ca_file=str(copy))
    copy.write_text("nothing")
    assert str(copy) in failure(pool.port, ca_file=str(copy))


def test_unchanged_files_are_read_once(certificates, monkeypatch):
    made = []
    context = dialer.client_context

    def count(files):
        made.append(files)
        return context(files)
    monkeypatch.setattr(dialer, "client_context", count)
    monkeypatch.setattr(dialer, "_contexts", {})
    for _ in range(5):
        failure(1, "127.0.0.1", ca_file=str(certificates.ca))
        failure(1, "127.0.0.1")
    assert len(made) == 2
    for number in range(100):
        dialer._contexts[ClientFiles(ca_file=str(number))] = None, None
    failure(1, "127.0.0.1", cert_file=certificates.client, fingerprint="ab" * 32)
    assert len(dialer._contexts) == 1, "old ones, of before a reload, do not add up"


@pytest.mark.parametrize("option", ["ca_file", "cert_file", "key_file"])
@pytest.mark.parametrize("kind", ["missing", "nonsense"])
def test_a_file_that_cannot_be_used_is_named(certificates, tmp_path, option, kind):
    path = tmp_path / "some.pem"
    if kind == "nonsense":
        path.write_text("no PEM")
    files = {"cert_file": certificates.client} if option == "key_file" else {}
    text = failure(1, "127.0.0.1", **files, **{option: str(path)})
    assert text.startswith("TLS handshake with 127.0.0.1:1: ") and str(path) in text
    assert kind != "missing" or text.endswith(f"{path}: No such file or directory")


# ------------------------------------------------------------------ certificates of clients

@needs_openssl
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_pool_that_wants_a_certificate_gets_it(server, certificates, version):
    pool = server(certificates.good, version, "-Verify", "1", "-CAfile", certificates.ca, "-verify_return_error")
    assert works(pool.port, cert_file=certificates.client)
    assert works(pool.port, cert_file=certificates.client, key_file=certificates.client,
                 fingerprint=certificates.fingerprint(certificates.good))


@needs_openssl
def test_a_pool_that_misses_a_certificate_says_so_in_the_handshake_of_tls_1_2(server, certificates):
    pool = server(certificates.good, "-tls1_2", "-Verify", "1")
    assert failure(pool.port).endswith("the pool refuses the handshake (handshake failure): if it wants a certificate "
                                       "of its clients, set cert_file and key_file")
    strict = server(certificates.good, "-tls1_2", "-Verify", "1", "-CAfile", certificates.foreign_ca,
                    "-verify_return_error")
    assert failure(strict.port, cert_file=certificates.client).endswith(
        "the pool refuses the certificate in cert_file (unknown ca): ask there which ones it takes")


@needs_openssl
def test_a_pool_that_misses_a_certificate_says_so_behind_the_handshake_of_tls_1_3(server, certificates):
    """The handshake is over for a client before the server has looked: the layer hears it with the first bytes."""
    pool = server(certificates.good, "-tls1_3", "-Verify", "1")
    fault = turned(dial(destination(pool.port), PATIENCE))
    assert dialwords.tls_fault(fault) == f"{WANTS} (certificate required): set cert_file and key_file"
    strict = server(certificates.good, "-tls1_3", "-Verify", "1", "-CAfile", certificates.foreign_ca,
                    "-verify_return_error")
    fault = turned(dial(destination(strict.port, cert_file=certificates.client), PATIENCE))
    assert dialwords.tls_fault(fault, own_certificate=True) == (
        "the pool refuses the certificate in cert_file (unknown ca): ask there which ones it takes")


@needs_openssl
def test_the_operator_is_told_of_it_in_any_case(site, server, certificates):
    pool = server(certificates.good, "-tls1_3", "-Verify", "1")
    proxy = site.proxy(pool, site.pool(), upstream={"host": "localhost", "tls": True, "backoff_min_ms": 60_000,
                                                    "backoff_max_ms": 60_000})
    site.miner(proxy)
    assert any(loss.startswith(WANTS) for loss in proxy.snapshot()["upstream_losses"])


@pytest.mark.parametrize(("fault", "own", "words"), [
    ("TLSV13_ALERT_CERTIFICATE_REQUIRED", False, f"{WANTS} (certificate required): "),
    ("tls: tlsv13 alert certificate required", False, f"{WANTS} (certificate required): "),
    ("SSLV3_ALERT_BAD_CERTIFICATE", False, f"{WANTS} (bad certificate): "),  # what Go says of none
    ("SSLV3_ALERT_BAD_CERTIFICATE", True, "the pool refuses the certificate in cert_file (bad certificate): "),
    ("SSLV3_ALERT_HANDSHAKE_FAILURE", True, "the pool refuses the handshake (handshake failure): does it take "),
    ("TLSV1_ALERT_PROTOCOL_VERSION", True, "the pool's TLS is older than 1.2 (protocol version): "),
    ("UNSUPPORTED_PROTOCOL", True, "the pool's TLS is older than 1.2 (unsupported protocol): "),
    ("TLSV1_UNRECOGNIZED_NAME", False, "the pool does not know the name (unrecognized name): "),
    ("RECORD_LAYER_FAILURE", False, "the pool's answer is not TLS (record layer failure): "),
    ("DECRYPTION_FAILED_OR_BAD_RECORD_MAC", False, "TLS: decryption failed or bad record mac")])
def test_faults_in_words(fault, own, words):
    assert dialwords.tls_fault(fault, own).startswith(words)


# ------------------------------------------------------------------ what comes with the handshake

@pytest.mark.parametrize(("said", "leaves"), [(b"first\nsecond\n", False), (b"x" * 40_000 + b"\n", False),
                                              (b"last\n", True)])
def test_what_the_pool_says_in_one_piece_with_the_handshake_is_not_lost(certificates, said, leaves):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # where the last word of the handshake is the server's
    context.load_cert_chain(certificates.good)

    def serve(sock, _address):
        ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(theirs, ours, server_side=True)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(ours.read())
                theirs.write(sock.recv(4096))
        tls.write(said)
        if leaves:
            with pytest.raises(ssl.SSLWantReadError):
                tls.unwrap()
        sock.sendall(ours.read())
        while sock.recv(4096):
            pass
        sock.close()

    pool = StreamServer(("127.0.0.1", 0), serve)
    pool.start()
    try:
        sock, layer, early = dial(destination(pool.server_port), PATIENCE)
        assert said.startswith(early) and (early or len(said) > 16_384), "a whole record, if there was one"
        with sock, gevent.Timeout(PATIENCE):
            while len(early) < len(said):
                early += layer.decode(sock.recv(4096))
        assert early == said and layer.ended == leaves
    finally:
        pool.stop()


@needs_openssl
def test_a_pool_that_wants_new_keys_loses_no_line(certificates):
    """While TLS 1.2 renegotiates nothing can be written: it waits."""
    server = subprocess.Popen([dialpeers.OPENSSL, "s_server", "-accept", "127.0.0.1:0", "-cert", certificates.good,
                               "-key", certificates.good, "-tls1_2"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    conn = None
    try:
        with gevent.Timeout(PATIENCE):
            while not (line := server.stdout.readline()).startswith(b"ACCEPT "):
                assert line
            port = int(line.rpartition(b":")[2])
            sock, layer, early = dial(Destination("127.0.0.1", port, True, ClientFiles(ca_file=str(certificates.ca))),
                                      PATIENCE)
            conn = Connection(sock, layer=layer, early=early)
            reader = gevent.spawn(conn.read_line)
            for number in range(200):
                if number % 50 == 25:
                    server.stdin.write(b"R\n")
                    server.stdin.flush()
                conn.push(b"share %d\n" % number)
                gevent.sleep(0.001)
            found = []
            while not found or found[-1] != 199:
                line = server.stdout.readline()
                assert line, found
                found += [int(word) for word in re.findall(rb"share (\d+)$", line.strip())]
        assert found == list(range(200))
        reader.kill()
    finally:
        if conn is not None:
            conn.close()
        server.kill()
        server.wait()
        server.stdin.close()
        server.stdout.close()
