"""A real HAProxy for tests, before proxies whose listeners want a PROXY header."""

import os
import shutil
import socket as stdlib_socket
import subprocess

import gevent
import pytest
from gevent import socket

from karoo import config
from karoo.proxy.proxy import Proxy

HAPROXY = shutil.which("haproxy", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
needs_haproxy = pytest.mark.skipif(  # by hand only: where everything must hold, it is missed
    HAPROXY is None and not os.environ.get("CI"), reason="haproxy is missing: .ci/debian haproxy haproxy")

LOOPBACK, LOOPBACK6, MAPPED = "127.0.0.1", "::1", "::ffff:127.0.0.1"
LEFT_SECONDS = 10

_START = """\
global
    stats socket fd@{stats}
    unix-bind mode 600
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
    timeout tunnel 1m
"""
_LINK = """\
frontend in_{name}
    {mode}
    bind fd@{descriptor} {bind}
    default_backend out_{name}
backend out_{name}
    {mode}
    server proxy 127.0.0.1:{port} {server}
"""


def proxy_of(site, pool, listeners, **sections):
    """A running proxy with these listeners; the site ends it."""
    proxy = Proxy(config.from_dict({
        "listeners": listeners, "accounting": {"database": ""}, "log": {"report_every_seconds": 0},
        "upstream": {"host": LOOPBACK, "port": pool.port, "user": "wallet", "backoff_min_ms": 20,
                     "backoff_max_ms": 100, "handshake_ms": 2000}, **sections}))
    proxy.start()
    site.proxies.append(proxy)
    return proxy


class Balancer:
    """`haproxy` with so many links, each a frontend and its one server. Started by `start`, ended by `stop`.

    It gets its listening sockets from here, so that no port has to be guessed and none is waited for.
    """

    def __init__(self, folder):
        self._folder, self._socks, self._links = folder, [], []
        self._stats = self._listening(LOOPBACK)
        self._stats_place = self._stats.getsockname()
        self._process = None
        self.said = ""

    def _listening(self, host):
        """A listening socket; `host` may be the path of one in the file system."""
        if "/" in host:
            sock = stdlib_socket.socket(stdlib_socket.AF_UNIX)
            sock.bind(host)
        else:
            sock = stdlib_socket.socket(stdlib_socket.AF_INET6 if ":" in host else stdlib_socket.AF_INET)
            if host == MAPPED:
                sock.setsockopt(stdlib_socket.IPPROTO_IPV6, stdlib_socket.IPV6_V6ONLY, 0)
            sock.bind((host, 0))
        sock.listen(100)
        self._socks.append(sock)
        return sock

    def link(self, port, server="", *, bind="", mode="tcp", host=LOOPBACK):
        """From now on (before the start) miners may connect to the port that is returned, as `bind` says, and are
        taken to the proxy's port as `server` says, both in HAProxy's words. No port where `host` is a path."""
        sock = self._listening(host)
        self._links.append(_LINK.format(name=len(self._links), mode=f"mode {mode}", descriptor=sock.fileno(), bind=bind,
                                        port=port, server=server))
        return None if "/" in host else sock.getsockname()[1]

    def start(self):
        path = self._folder / "haproxy.cfg"
        path.write_text(_START.format(stats=self._stats.fileno()) + "".join(self._links))
        self._process = subprocess.Popen([HAPROXY, "-db", "-f", str(path)], stdin=subprocess.DEVNULL,
                                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                         pass_fds=[sock.fileno() for sock in self._socks])
        self._reader = gevent.spawn(self._read)
        for sock in self._socks:  # else clients would hang in their queues once it has ended
            sock.close()
        return self

    def _read(self):
        for line in self._process.stdout:
            self.said += line

    def states(self):
        """UP, DOWN or `no check` of each link's server, with what the last check found, such as L4OK."""
        with gevent.Timeout(10):
            sock = socket.create_connection(self._stats_place)
            sock.sendall(b"show stat\n")
            parts = []
            while data := sock.recv(65536):
                parts.append(data)
            sock.close()
        first, *rows = b"".join(parts).decode().splitlines()
        names = first.removeprefix("# ").split(",")
        found = [dict(zip(names, row.split(","), strict=False)) for row in rows if row]
        return [(row["status"], row["check_status"].removeprefix("* ")) for row in found if row["svname"] == "proxy"]

    def stop(self):
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(LEFT_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process is not None:
            self._reader.join(LEFT_SECONDS)
            self._process.stdout.close()
            self._process = None
        for sock in self._socks:
            sock.close()
