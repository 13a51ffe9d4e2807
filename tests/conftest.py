"""gevent patches the standard library before any test module loads."""

from gevent import monkey

monkey.patch_all()

import os  # noqa: E402
import signal  # noqa: E402

import pytest  # noqa: E402  (after the patching)
from hypothesis import settings  # noqa: E402

from karoo import service  # noqa: E402
from karoo.net.listener import listening_socket  # noqa: E402
from karoo.policy.vardiff import Vardiff  # noqa: E402
from karoo.reload import Reloader  # noqa: E402
from karoo.web.server import WebServer  # noqa: E402
from tests.programs import Program  # noqa: E402
from tests.site import Site  # noqa: E402

settings.register_profile("karoo", deadline=None)  # a slow machine is no fault of the code
settings.load_profile("karoo")


@pytest.fixture(autouse=True)
def constant_difficulty(request, monkeypatch):
    """Difficulties stay where a test sets them, but for the tests of vardiff itself."""
    if request.module.__name__ != "tests.test_vardiff":
        monkeypatch.setattr(Vardiff, "look", lambda self, difficulty, target: None)


@pytest.fixture
def karoo():
    programs = []

    def start(*words):
        programs.append(Program(*words))
        return programs[-1]
    yield start
    for program in programs:
        if program.process.poll() is None:
            os.killpg(program.process.pid, signal.SIGKILL)
            program.process.wait()
        program._reader.join(10)
        program.process.stdout.close()


@pytest.fixture
def site():
    """Pools, a proxy and miners, made on demand and taken down after the test; no bug may have been logged."""
    site = Site()
    try:
        yield site
        site.check()
    finally:
        site.close()


@pytest.fixture
def page():
    """Starts a web server over a proxy, with all that it shows."""
    parts = []

    def start(proxy, path=None):
        app, live = service.web_of(proxy, Reloader(proxy, path))
        server = WebServer(listening_socket("127.0.0.1", 0), app)
        server.start()
        parts.append((server, live))
        return server
    yield start
    for server, live in parts:
        live.stop()
        server.stop()
