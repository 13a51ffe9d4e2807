"""Whom a dial may meet: real programs (openssl, microsocks), certificates of all kinds, peers that say too little."""

import datetime
import hashlib
import os
import shutil
import socket as stdlib_socket
import ssl
import subprocess
import time
from contextlib import contextmanager

import gevent
import pytest
import trustme
from gevent import socket
from gevent.server import StreamServer

PATIENCE = 10.0
OPENSSL, MICROSOCKS = shutil.which("openssl"), shutil.which("microsocks")
needs_openssl = pytest.mark.skipif(  # by hand only: where everything must hold, it is missed
    OPENSSL is None and not os.environ.get("CI"), reason="openssl is missing: .ci/debian openssl openssl")
needs_microsocks = pytest.mark.skipif(
    MICROSOCKS is None and not os.environ.get("CI"), reason="microsocks is missing: .ci/debian microsocks microsocks")


class Certificates:
    """Files in PEM, each with a key and its certificate: ``good`` is for localhost, 127.0.0.1 and ::1. ``ca`` has the
    authority of all but ``foreign``, which is of the authority in ``foreign_ca``."""

    def __init__(self, folder):
        authority, other = trustme.CA(), trustme.CA()
        now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
        self._folder = folder
        self.ca, self.foreign_ca = folder / "ca.pem", folder / "foreign-ca.pem"
        authority.cert_pem.write_to_path(self.ca)
        other.cert_pem.write_to_path(self.foreign_ca)
        self.good = self._write("good", authority.issue_cert("localhost", "127.0.0.1", "::1"))
        self.name_only = self._write("name-only", authority.issue_cert("localhost"))
        self.other_name = self._write("other-name", authority.issue_cert("pool.example"))
        self.expired = self._write("expired", authority.issue_cert("localhost", not_after=now - day))
        self.future = self._write("future", authority.issue_cert(
            "localhost", not_before=now + day, not_after=now + 2 * day))
        self.foreign = self._write("foreign", other.issue_cert("localhost", "127.0.0.1"))
        self.client = self._write("client", authority.issue_cert("proxy.example"))

    def _write(self, name, certificate):
        path = self._folder / f"{name}.pem"
        certificate.private_key_and_cert_chain_pem.write_to_path(path)
        return str(path)

    @staticmethod
    def fingerprint(path):
        """64 hex digits."""
        with open(path) as file:
            text = file.read()
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERTIFICATE"):])).hexdigest()


class OpensslServer:
    """`openssl s_server`, which answers each line turned round."""

    def __init__(self, certificate, *words):
        self._process = subprocess.Popen(
            [OPENSSL, "s_server", "-accept", "127.0.0.1:0", "-cert", certificate, "-key", certificate, "-rev", *words],
            text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.text = ""
        self._started = gevent.event.Event()
        self._reader = gevent.spawn(self._read)
        if not self._started.wait(PATIENCE):
            self.close()
            raise AssertionError(self.text)

    def _read(self):
        for line in self._process.stdout:
            self.text += line
            if line.startswith("ACCEPT"):
                self.port = int(line.rpartition(":")[2])
                self._started.set()

    def close(self):
        self._process.kill()
        self._process.wait()
        self._reader.join(PATIENCE)
        self._process.stdout.close()


class Microsocks:
    """The SOCKS5 server of that name."""

    def __init__(self, *words):
        with stdlib_socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self._process = subprocess.Popen([MICROSOCKS, "-i", "127.0.0.1", "-p", str(self.port), *words],
                                         stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _wait(self):
        until = time.monotonic() + PATIENCE
        while True:
            try:
                with socket.socket() as sock:
                    sock.connect(("127.0.0.1", self.port))
                return
            except ConnectionRefusedError:
                assert self._process.poll() is None and time.monotonic() < until
                gevent.sleep(0.01)

    def close(self):
        self._process.kill()
        self._process.wait()


class Scripted:
    """Takes connections, says something at the start and behind each packet, and stays until the peer leaves."""

    def __init__(self, *says, leaves=False, host="127.0.0.1"):
        self._says, self._leaves = says, leaves
        self.heard = []
        self.served = 0
        self._server = StreamServer((host, 0), self._serve)
        self._server.start()
        self.port = self._server.server_port

    def _serve(self, sock, _address):
        self.served += 1
        try:
            for said in self._says:
                sock.sendall(said)
                if said is not self._says[-1] or not self._leaves:
                    self.heard.append(sock.recv(4096))
            while not self._leaves and sock.recv(4096):
                pass
        except OSError:
            pass  # the dialer left
        finally:
            sock.close()

    def close(self):
        self._server.stop()


class Echo(Scripted):
    """A pool that says back what it hears."""

    def _serve(self, sock, _address):
        self.served += 1
        while data := sock.recv(4096):
            sock.sendall(data)
        sock.close()


class BlackHole:
    """A port whose queue is full: the kernel swallows what would open a connection."""

    def __init__(self, host="127.0.0.1"):
        family = stdlib_socket.AF_INET6 if ":" in host else stdlib_socket.AF_INET
        self._listener = stdlib_socket.socket(family)
        self._listener.bind((host, 0))
        self._listener.listen(0)
        self.port = self._listener.getsockname()[1]
        self._filling = []
        for _ in range(16):
            one = socket.socket(family)
            self._filling.append(one)
            try:
                with gevent.Timeout(0.1):
                    one.connect((host, self.port))
            except gevent.Timeout:
                break
        else:
            raise AssertionError("the queue does not fill")

    def close(self):
        for one in (self._listener, *self._filling):
            one.close()


def unused_port(host="127.0.0.1"):
    """A bound socket that does not listen: nobody answers on its port while it is open."""
    one = stdlib_socket.socket(stdlib_socket.AF_INET6 if ":" in host else stdlib_socket.AF_INET)
    one.bind((host, 0))
    return one


def open_files():
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def no_more_files(patience=PATIENCE):
    """In the end as few files are open as in the beginning; peers of this process may need a moment for theirs."""
    before = open_files()
    yield
    until = time.monotonic() + patience
    while open_files() > before:
        assert time.monotonic() < until, f"{open_files()} files are open, and {before} were before"
        gevent.sleep(0.01)
