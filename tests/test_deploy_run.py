"""What deploy/ and scripts/install put on a host, run for real: under supervisord, as confined as under systemd, behind
HAProxy, with logrotate; installed, brought up to date, taken away."""

import contextlib
import csv
import fcntl
import io
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic

import gevent
import pytest
import yaml
from gevent import socket

from karoo.sim.scripted import ScriptedMiner
from tests.deploysupervisor import Supervisor, open_files_limit
from tests.haproxy import HAPROXY, LOOPBACK, Balancer, needs_haproxy, proxy_of
from tests.site import EASY
from tests.test_deploy import ANALYZE, DEPLOY, LOGROTATE, ROOT, needs, run, text, well

PYTHON = os.path.realpath(sys.executable)
VARDIFF = {"enabled": True, "start_diff": EASY, "min_diff": EASY, "max_diff": 1}
TREE = ["opt/karoo/scripts/karoo", "opt/karoo/karoo/cli.py", "etc/karoo/karoo.yaml", "usr/local/bin/karoo",
        "etc/supervisor/conf.d/karoo.conf", "etc/logrotate.d/karoo", "var/lib/karoo", "var/log/karoo", "run/karoo"]


@pytest.fixture(scope="module")
def place():
    """A folder with a short path: sockets are in it."""
    with tempfile.TemporaryDirectory(prefix="k") as folder:
        yield Path(folder).resolve()


def install(prefix, *words, source=ROOT, service="supervisord", **environ):
    kind = ["--service", service] if service else []
    return run(source / "scripts/install", "--prefix", prefix, *kind, *words,
               env={**os.environ, "KAROO_PYTHON": PYTHON, **environ}, cwd="/")


def uninstall(prefix, *words, source=ROOT):
    return run(source / "scripts/uninstall", "--prefix", prefix, *words, cwd="/")


@pytest.fixture(scope="module")
def installed(place):
    """Where scripts/install put it, with supervisord."""
    said = well(install(place / "r"))
    assert "installed: karoo" in said and "supervisorctl update" in said
    return place / "r"


# ---------------------------------------------------------------- scripts/install, scripts/uninstall

def test_what_is_installed(installed):
    assert [path for path in TREE if not (installed / path).exists()] == []
    home = installed / "opt/karoo"
    for kept_out in (".git", "tests", ".ci", "requirements-dev.txt"):
        assert not (home / kept_out).exists()
    assert well(run(installed / "usr/local/bin/karoo", "--version", cwd="/")).startswith("karoo ")
    assert list(home.glob("karoo/__pycache__/cli.*.pyc")), "compiled: its user may write nothing there"
    modes = {path: (installed / path).stat().st_mode & 0o777 for path in TREE}
    assert (modes["etc/karoo/karoo.yaml"], modes["etc/supervisor/conf.d/karoo.conf"]) == (0o640, 0o600)
    assert modes["var/lib/karoo"] == modes["var/log/karoo"] == modes["run/karoo"] == 0o750
    assert not (installed / "var/log/supervisor").stat().st_mode & 0o022, "a log of root's, where nobody else may write"
    written = "".join((installed / path).read_text() for path in TREE if (installed / path).is_file() and "etc" in path)
    places = "(?:opt|etc|var/lib|var/log|run)/karoo|var/log/supervisor"
    assert not re.findall(rf"(?<!{installed})/(?:{places})\b", written), "all are moved"
    assert well(install(installed)).count("up to date") == 1


def test_the_configuration_is_never_overwritten_and_a_new_program_replaces_the_old(installed, tmp_path):
    """Also when an earlier call was killed halfway, and not when the new one cannot be set up."""
    home, mine = installed / "opt/karoo", installed / "etc/karoo/karoo.yaml"
    source = tmp_path / "new"
    shutil.copytree(home, source, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.so", "*.egg-info"))
    before = mine.read_text()
    mine.write_text(before + "# mine\n")
    try:
        (source / "requirements.txt").write_text("no such requirement at all\n")
        failed = install(installed, source=source)
        assert failed.returncode == 1 and "nothing was changed" in failed.stderr
        assert well(run(home / "scripts/karoo", "--version", cwd="/")) and not stray(installed)
        assert "up to date" in well(install(installed)), "the old one is back, as it was"

        for half in (home, home.parent / ".karoo.new", None):
            home.rename(home.parent / ".karoo.old")
            if half:
                half.mkdir()
                (half / ".installed").write_text("incomplete\n")
            assert "up to date" in well(install(installed)) and not stray(installed), "what was half done is gone"

        shutil.copy(ROOT / "requirements.txt", source)
        with open(source / "README.md", "a") as readme:
            readme.write("A newer one.\n")
        assert "putting the program into" in well(install(installed, source=source))
        assert (home / "README.md").read_text().endswith("A newer one.\n")
        assert mine.read_text() == before + "# mine\n"
        refused = run(home / "scripts/install", "--prefix", installed, cwd="/")
        assert refused.returncode == 1 and "is the installed one" in refused.stderr
    finally:
        mine.write_text(before)


def stray(place):
    """What is beside the program."""
    return [path for path in (place / "opt").iterdir() if path.name != "karoo"]


def test_a_dry_run_changes_nothing(tmp_path):
    said = well(install(tmp_path / "x", "--dry-run"))
    assert not (tmp_path / "x").exists()
    assert "would put the program into" in said and said.count("would write") == 3


@pytest.mark.parametrize(("script", "words", "code", "text"), [
    ("install", ["--sevice", "none"], 2, "unknown: --sevice"),
    ("install", ["--prefix"], 2, "--prefix needs a word"),
    ("install", ["--prefix", "/"], 1, "without --prefix"),
    ("install", ["--prefix", "/tmp/a b"], 1, "letters, digits"),
    ("install", ["--prefix", "/tmp/nowhere", "--service", "upstart"], 2, "upstart is neither"),
    ("uninstall", ["--prefix"], 2, "--prefix needs a word"),
    ("uninstall", ["--all"], 2, "unknown: --all"),
])
def test_words_that_are_not_understood(script, words, code, text):
    done = run(ROOT / "scripts" / script, *words)
    assert done.returncode == code and text in done.stderr and not Path("/tmp/nowhere").exists()


def test_what_somebody_else_put_there_stays(tmp_path):
    home = tmp_path / "opt/karoo"
    home.mkdir(parents=True)
    (home / "mine").write_text("")
    for script in (install, uninstall):
        done = script(tmp_path)
        assert done.returncode == 1 and "was not made by" in done.stderr
    assert [path.name for path in home.iterdir()] == ["mine"]


@pytest.fixture
def source(tmp_path):
    """The project with a stand-in for the program."""
    source = tmp_path / "source"
    for part in re.search(r"parts='(.*)'", (ROOT / "scripts/_host.sh").read_text())[1].split():
        there = source / part
        if (ROOT / part).is_dir() and part not in ("karoo", "docs"):
            shutil.copytree(ROOT / part, there)
        elif part in ("karoo", "docs"):
            there.mkdir(parents=True)
            (there / "__init__.py").write_text("")
        else:
            there.write_text("")
    (source / "scripts/karoo").write_text('#!/bin/sh\nhere=${0%/*}/..\nmkdir -p "$here/.venv/bin"\n'
                                          f'ln -sf {PYTHON} "$here/.venv/bin/python"\necho karoo 1\n')
    return source


def commands(folder, **scripts):
    """PATH with commands that are found first."""
    folder.mkdir()
    for name, does in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{does}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_what_the_operator_changed_or_took_away_stays_so_at_an_upgrade(source, tmp_path):
    there = tmp_path / "r"
    well(install(there, source=source))
    rotation, snippet = there / "etc/logrotate.d/karoo", there / "etc/supervisor/conf.d/karoo.conf"
    for path in ("logrotate/karoo", "supervisord/karoo.conf"):
        with open(source / "deploy" / path, "a") as file:
            file.write("# newer\n")
    well(install(there, source=source))
    assert "# newer" in rotation.read_text() and "# newer" in snippet.read_text(), "nobody had touched them"
    snippet.write_text(snippet.read_text().replace("startretries=20", "startretries=3"))
    rotation.unlink()
    for path in ("logrotate/karoo", "supervisord/karoo.conf"):
        with open(source / "deploy" / path, "a") as file:
            file.write("# newest\n")
    for _ in range(2):
        said = well(install(there, source=source))
        assert f"{snippet} was changed, and stays" in said and f"{rotation} was taken away, and stays" in said
        assert not rotation.exists() and "startretries=3\n" in snippet.read_text()
    shutil.copy(there / "opt/karoo/deploy/logrotate/karoo", rotation)
    rotation.write_text(rotation.read_text().replace("rotate 14", "rotate 5"))
    assert f"{rotation} was changed, and stays" in well(install(there, source=source))
    assert "rotate 5\n" in rotation.read_text()


def test_an_upgrade_remembers_the_service(source, tmp_path):
    there = tmp_path / "r"
    first = well(install(there, source=source, service="none"))
    assert "no file for logrotate" in first and not (there / "etc/logrotate.d").exists(), "it would fail each day"
    well(install(there, source=source, service="supervisord"))
    assert (there / "etc/logrotate.d/karoo").exists()
    (source / "README.md").write_text("A newer one.\n")
    for _ in range(2):
        said = well(install(there, source=source, service=""))
        assert "supervisorctl update" in said and not (there / "etc/systemd").exists()
    said = well(install(there, source=source, service="systemd"))
    assert "supervisord has a program karoo as well" in said and "systemctl enable --now karoo" in said
    assert "systemd has a service karoo as well" in well(install(there, source=source))


def test_the_check_that_is_advised_has_the_secrets(source, tmp_path):
    there = tmp_path / "r"
    assert f"answer?  {there}/opt/karoo/scripts/karoo check" in well(install(there, source=source))
    mine = there / "etc/karoo/karoo.yaml"
    mine.write_text(mine.read_text().replace("pass: x ", "pass: ${POOL_PASS} "))
    assert f"answer?  sh -c 'set -a; . {there}/etc/karoo/secrets.env; exec " in well(install(there, source=source))


def test_one_call_at_a_time(source, tmp_path):
    there = tmp_path / "r"
    (there / "opt").mkdir(parents=True)
    held = os.open(there / "opt", os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        for script in (install, uninstall):
            done = script(there, source=source)
            assert done.returncode == 1 and "is at work" in done.stderr
    finally:
        os.close(held)
    assert [path.name for path in there.rglob("*")] == ["opt"]
    well(install(there, source=source))


def test_a_program_that_cannot_be_copied_leaves_the_old_one(source, tmp_path):
    there = tmp_path / "r"
    well(install(there, source=source))
    (source / "README.md").write_text("A newer one.\n")
    assert install(there, source=source, PATH=commands(tmp_path / "bin", cp="exit 1")).returncode == 1
    assert (there / "opt/karoo/README.md").read_text() == "" and not stray(there)
    assert "putting the program into" in well(install(there, source=source))


def test_the_user_comes_after_the_program_and_into_a_group_that_is_there(source, tmp_path):
    """What would be done on this host. A group with members outlives its user, as userdel has it."""
    tools = {"id": '[ "$1" = -u ] && echo 0', "useradd": "exit 1", "userdel": "exit 1"}
    new = commands(tmp_path / "new", getent="exit 2", **tools)
    again = commands(tmp_path / "again", getent='echo "$2:x:999:anna,bob"', **tools)
    for path, word in ((new, "--user-group"), (again, "--gid=karoo")):
        env = {**os.environ, "PATH": path}
        said = well(run(source / "scripts/install", "--dry-run", "--service", "none", env=env, cwd="/"))
        assert f"would run: useradd --system {word} " in said
        assert said.index("would put the program") < said.index("useradd"), "it may fail, and nothing was changed then"
    said = well(run(source / "scripts/uninstall", "--purge", "--dry-run", env=env, cwd="/"))
    assert "the group karoo stays, as it has members: anna,bob" in said


def test_taken_away(source, tmp_path):
    """Configuration and accounts stay, until --purge; and twice is no mistake."""
    there = tmp_path / "r"
    well(install(there, source=source))
    snippet, rotation = there / "etc/supervisor/conf.d/karoo.conf", there / "etc/logrotate.d/karoo"
    snippet.write_text(snippet.read_text().replace("startretries=20", "startretries=3"))
    rotation.write_text(rotation.read_text().replace("rotate 14", "rotate 5"))
    (there / "var/lib/karoo/karoo.db").write_text("accounts")
    (there / "var/log/supervisor/karoo.log.1").write_text("what supervisord kept")
    said = well(uninstall(there, "--dry-run", source=source))
    assert "would run: rm -rf" in said and snippet.exists() and (there / "opt/karoo").exists()
    for _ in range(2):
        assert "kept:" in well(uninstall(there, source=source))
        assert [path for path in TREE if (there / path).exists()] == [
            "etc/karoo/karoo.yaml", "var/lib/karoo", "var/log/karoo"]
    assert "startretries=3\n" in (there / "etc/karoo/supervisord.conf.kept").read_text()
    assert "rotate 5\n" in (there / "etc/karoo/logrotate.conf.kept").read_text()
    assert (there / "var/lib/karoo/karoo.db").exists() and (there / "var/log/supervisor/karoo.log.1").exists()
    for _ in range(2):
        well(uninstall(there, "--purge", source=source))
        assert not there.exists(), "and no empty folders"


def test_taken_away_while_nobody_changed_anything(source, tmp_path):
    there = tmp_path / "r"
    well(install(there, source=source))
    (there / "srv/mine").mkdir(parents=True)
    well(uninstall(there, source=source))
    assert [path.name for path in (there / "etc/karoo").iterdir()] == ["karoo.yaml"]
    well(uninstall(there, "--purge", source=source))
    assert sorted(path.name for path in there.rglob("*")) == ["mine", "srv"], "what is not its own stays"


# ---------------------------------------------------------------- under supervisord

@pytest.fixture
def supervised(installed, place, site):
    """Writes a configuration like the installed one, and starts supervisord over the installed program file, some of
    its words replaced. ``accounts`` is what the workers have."""
    started = []
    for folder in ("var/lib/karoo", "var/log/karoo", "var/log/supervisor", "run/karoo"):
        for path in (installed / folder).iterdir():
            path.unlink()
    mine = installed / "etc/karoo/karoo.yaml"
    before, pool = mine.read_text(), site.pool()

    def configure(**sections):
        values = yaml.safe_load(before)
        values["proxy"]["listen"] = values["http"]["listen"] = "127.0.0.1:0"
        values["upstream"] = {"host": "127.0.0.1", "port": pool.port, "user": "wallet", "pass": "${POOL_PASS}"}
        values["accounting"]["flush_seconds"] = 0.5
        values["vardiff"] = VARDIFF
        for name, section in sections.items():
            values[name] = {**values.get(name, {}), **section}
        mine.write_text(yaml.safe_dump(values))

    def start(*replaced):
        folder = place / "s"
        folder.mkdir(exist_ok=True)
        said = (installed / "etc/supervisor/conf.d/karoo.conf").read_text()
        said = said.replace(';environment=POOL_PASS="...",KAROO_READ_TOKEN="..."', 'environment=POOL_PASS="x"')
        for old, new in replaced:
            assert old in said
            said = said.replace(old, new)
        (folder / "karoo.conf").write_text(said)
        minfds = int(re.search(r"^; +minfds=(\d+)$", said, re.MULTILINE)[1])
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # not even root may raise it everywhere
        start.minfds = minfds if hard == resource.RLIM_INFINITY else min(minfds, hard)
        started.append(Supervisor(folder, folder / "karoo.conf", start.minfds))
        return started[-1].start()

    configure()
    start.configure, start.pool = configure, pool
    start.log = installed / "var/log/supervisor/karoo.log"
    yield start
    for one in started:
        one.stop()
    mine.write_text(before)
    shutil.rmtree(place / "s", ignore_errors=True)


def accounts(installed):
    """What `karoo report` tells: {worker: shares accepted}."""
    said = well(run(installed / "usr/local/bin/karoo", "report", "--database", installed / "var/lib/karoo/karoo.db",
                    "--csv", cwd="/"))
    return {row["worker"]: int(row["accepted"]) for row in csv.DictReader(io.StringIO(said))}


def mine_a_share(port, user="user.rig"):
    """A miner that has one share accepted; it stays."""
    miner = ScriptedMiner()
    miner.start("127.0.0.1", int(port), user=user)
    miner.user = user
    assert miner.submit(miner.find_share()) is True
    return miner


LISTENS = r"miners may connect to \S+:(\d+)"


def test_it_is_killed_and_comes_back_is_reloaded_and_stopped(supervised, installed):
    supervisor = supervised()
    port = supervisor.wait_text(supervised.log, LISTENS)[1]
    supervisor.wait_state("RUNNING")
    first = supervisor.pid
    assert Path(f"/proc/{first}/exe").resolve().name.startswith("python"), "no shell between, which keeps signals"
    assert open_files_limit(first) >= supervised.minfds
    with contextlib.closing(mine_a_share(port)):
        supervisor.wait(lambda: (installed / "var/lib/karoo/karoo.db").exists() and accounts(installed), "the accounts")
        seen = len(supervised.log.read_text())
        os.kill(first, signal.SIGKILL)
    port = supervisor.wait_text(supervised.log, LISTENS, seen)[1]
    supervisor.wait_state("RUNNING")
    second = supervisor.pid
    assert second != first and "karoo (terminated by SIGKILL; not expected)" in supervisor.log
    with contextlib.closing(mine_a_share(port)) as miner:
        supervised.configure(upstream={"password": "no such option"})
        assert "signalled" in supervisor.ctl("signal", "HUP", "karoo")
        supervisor.wait_text(supervised.log, "upstream.password")
        supervised.configure(vardiff={**VARDIFF, "target_seconds": 7})
        supervisor.ctl("signal", "HUP", "karoo")
        supervisor.wait_text(supervised.log, "target_seconds.*7|7.*target_seconds")
        assert supervisor.pid == second
        assert miner.submit(miner.find_share()) is True, "whoever is connected stays"
        seen = len(supervised.log.read_text())
        supervisor.ctl("stop", "karoo")
    assert supervisor.state == "STOPPED" and "stopped: karoo (exit status 0)" in supervisor.log
    assert "stopping" in supervised.log.read_text()[seen:]
    assert accounts(installed) == {"rig": 3}, "none is lost"


def test_a_faulty_configuration_is_not_tried_for_ever(supervised):
    supervised.configure(proxy={"lisen": "127.0.0.1:0"})
    supervisor = supervised(("startretries=20", "startretries=2"))
    supervisor.wait_state("FATAL", "EXITED")
    assert supervisor.log.count("exit status 78") in (1, 3)  # on a slow machine it had been RUNNING
    assert "did you mean" in supervised.log.read_text()
    supervised.configure()
    assert "karoo: started" in supervisor.ctl("start", "karoo"), "and mended it starts"


@needs(LOGROTATE, "logrotate", "logrotate")
def test_logrotate_puts_its_log_aside(supervised, installed, tmp_path):
    """By supervisorctl, as systemd is not there to be asked: both are found in PATH, as on a host."""
    log = installed / "var/log/karoo/karoo.log"
    supervised.configure(log={"file": str(log)}, upstream={"backoff_max_ms": 50, "backoff_min_ms": 50})
    supervisor = supervised()
    port = supervisor.wait_text(log, LISTENS)[1]
    supervisor.wait_state("RUNNING")
    path = commands(tmp_path / "bin", systemctl="exit 3",
                    supervisorctl=f'exec {sys.executable} -m supervisor.supervisorctl -c {supervisor.conf} "$@"')
    conf = installed / "etc/logrotate.d/karoo"
    words = [LOGROTATE, "-v", "-f", "-s", tmp_path / "state", conf]
    env = {**os.environ, "PATH": path}
    for number in (1, 2):
        before = log.read_text()
        well(run(*words, env=env))
        with contextlib.closing(mine_a_share(port, f"user.rig{number}")):
            supervisor.wait_text(log, f"rig{number}")
        assert f"rig{number}" not in before
    assert log.stat().st_mode & 0o777 == 0o640
    assert {path.name for path in log.parent.glob("karoo.log.*")} == {"karoo.log.1", "karoo.log.2.gz"}
    assert "rig1" in (log.parent / "karoo.log.1").read_text()


# ---------------------------------------------------------------- as confined as by karoo.service

PROBE = """
import mmap, os, socket
for does in (lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC), lambda: os.chroot("/"),
             lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW), lambda: os.nice(1)):
    try:
        does()
    except OSError as failure:
        print(type(failure).__name__)
"""


def reload_by(unit, folder, pid):
    """What ExecReload= of a unit does in its confinement, where the control socket is `s` in a folder."""
    command = re.search(r"^ExecReload=/bin/sh -c '(.*)'$", unit.read_text(), re.MULTILINE)[1].replace("$$", "$")
    for old, new in (("test -S /run/karoo/karoo.sock", f"test -S {folder}/s"),
                     ("/opt/karoo/scripts/karoo ctl", f"{sys.executable} -m karoo ctl --socket {folder}/s")):
        assert old in command
        command = command.replace(old, new)
    return run(sys.executable, ROOT / "tests/deploysandbox.py", unit, "/bin/sh", "-c", command, cwd=ROOT,
               env={**os.environ, "MAINPID": str(pid)})


@needs(ANALYZE, "systemd-analyze", "systemd")
def test_it_runs_as_confined_as_its_unit_has_it(site, tmp_path):
    """With the system calls, the address families and the memory that the unit leaves: names looked up, shares checked
    in C, accounts and certificates of TLS, a reload."""
    unit, confined = DEPLOY / "systemd/karoo.service", [sys.executable, ROOT / "tests/deploysandbox.py"]
    assert well(run(*confined, unit, sys.executable, "-c", PROBE)).split() == [
        "PermissionError", "PermissionError", "OSError", "PermissionError"], "it does confine"
    well(run(sys.executable, "-m", "karoo", "cert", "--out", tmp_path, "--host", "127.0.0.1", cwd=ROOT))
    pool, path = site.pool(), tmp_path / "karoo.yaml"
    path.write_text(yaml.safe_dump({
        "listeners": [{"name": "plain", "address": "127.0.0.1:0"}, {
            "name": "tls", "address": "127.0.0.2:0",
            "tls": {"enabled": True, "cert_file": "karoo-cert.pem", "key_file": "karoo-key.pem"}}],
        "upstream": {"host": "localhost", "port": pool.port, "user": "wallet"}, "http": {"listen": "127.0.0.1:0"},
        "vardiff": VARDIFF, "control": {"socket": "s"}}))
    said = tmp_path / "log"
    with open(said, "w") as log:
        daemon = subprocess.Popen([*confined, unit, sys.executable, "-m", "karoo", "run", "-c", path], cwd=ROOT,
                                  stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        def heard(pattern, number=1):
            with gevent.Timeout(30, AssertionError(f"no {pattern} in {said.read_text()}")):
                while len(found := re.findall(pattern, said.read_text())) < number:
                    assert daemon.poll() is None, said.read_text()
                    gevent.sleep(0.02)
            return found
        port = heard(LISTENS, 2)[0]
        (page,) = heard(r"status page on http://127.0.0.1:(\d+)/")
        with contextlib.closing(mine_a_share(port)):
            with socket.create_connection(("127.0.0.1", int(page)), 5) as sock:
                sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                parts = b""
                while data := sock.recv(65536):
                    parts += data
            assert b"process_open_fds" in parts and b"process_start_time_seconds" in parts
            path.write_text(path.read_text() + "ratelimit: {bad_sessions: 5}\n")
            assert reload_by(unit, tmp_path, daemon.pid).returncode == 0
            heard("bad_sessions")
            right = path.read_text()
            path.write_text(right + "no_such_section: {}\n")
            refused = reload_by(unit, tmp_path, daemon.pid)
            assert refused.returncode == 1 and "no_such_section" in refused.stderr, "systemctl reload says so"
            path.write_text(right + "log: {keep_files: 4}\n")
            (tmp_path / "s").unlink()
            assert reload_by(unit, tmp_path, daemon.pid).returncode == 0
            heard("keep_files")
        daemon.terminate()
        assert daemon.wait(30) == 0, said.read_text()
    finally:
        if daemon.poll() is None:
            daemon.kill()
            daemon.wait()
    told = said.read_text()
    assert "in C" in told or "KAROO_PURE_PYTHON" in os.environ
    assert "Traceback" not in told and "ermission denied" not in told and "not permitted" not in told, told


# ---------------------------------------------------------------- behind HAProxy

STATS = "stats socket /run/haproxy/admin.sock"


class Front(Balancer):
    """HAProxy with deploy/haproxy/haproxy.cfg, its ports and its instances replaced."""

    def start(self, instances):
        """``instances``: (port for miners, page's port) of a and b. Sets ``port``, where miners connect."""
        front, front_tls = (self._listening(LOOPBACK) for _ in range(2))
        self.port = front.getsockname()[1]
        said = text("haproxy/haproxy.cfg")
        for old, new in ((":::3333 v4v6", f"fd@{front.fileno()}"), (":::3334 v4v6", f"fd@{front_tls.fileno()}")):
            assert said.count(f"bind {old} ") == 1
            said = said.replace(f"bind {old} ", f"bind {new} ")
        for (name, host), (miners, page) in zip(
                (("a", "10.0.0.11"), ("b", "10.0.0.12")), instances, strict=True):
            for line, more in ((f"server {name} {host}:3333", f" port {page}"), (f"server {name} {host}:3334", "")):
                assert said.count(line) == 1
                said = said.replace(line, f"server {name} 127.0.0.1:{miners}{more}")
        said = said.replace("inter 2s", "inter 50ms").replace("maxconn 40000", "maxconn 400")
        assert f"    {STATS} mode 660 level admin\n" in said
        said = said.replace(STATS, f"stats socket fd@{self._stats.fileno()}")
        path = self._folder / "haproxy.cfg"
        path.write_text(said)
        self._process = subprocess.Popen([HAPROXY, "-db", "-f", str(path)], stdin=subprocess.DEVNULL,
                                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                         pass_fds=[sock.fileno() for sock in self._socks])
        self._reader = gevent.spawn(self._read)
        for sock in self._socks:
            sock.close()
        return self


@needs_haproxy
def test_haproxy_takes_its_configuration():
    assert "WARNING" not in well(run(HAPROXY, "-c", "-f", DEPLOY / "haproxy/haproxy.cfg"))


def test_haproxy_waits_longer_than_karoo_and_knows_its_ports():
    from karoo import config
    one = config.loads(text("haproxy/karoo.yaml"), {"KAROO_READ_TOKEN": "a-secret-of-some-length"})
    said = text("haproxy/haproxy.cfg")
    for side in ("client", "server"):
        minutes = int(re.search(rf"timeout {side} (\d+)m$", said, re.MULTILINE)[1])
        assert minutes * 60_000 > one.proxy.authorized_idle_ms
    ports = [listener.address.rpartition(":")[2] for listener in one.listeners]
    assert re.findall(r"bind :::(\d+) ", said) == ports
    assert re.findall(r"server \w 10\.0\.0\.1[12]:(\d+)", said) == [at for at in ports for _ in "ab"]
    assert set(re.findall(r"check port (\d+)", said)) == {one.http.listen.rpartition(":")[2]}
    assert said.count("send-proxy-v2") == 3 and all(listener.proxy_protocol for listener in one.listeners)


@needs_haproxy
def test_miners_are_shared_out_and_move_when_an_instance_goes(site, page, tmp_path):
    pool = site.pool()
    listener = {"address": "127.0.0.1:0", "proxy_protocol": [LOOPBACK]}
    proxies = [proxy_of(site, pool, [listener], vardiff=VARDIFF, ratelimit={"enabled": True}) for _ in "ab"]
    pages = [page(proxy) for proxy in proxies]
    front = Front(tmp_path)
    try:
        front.start([(proxy.listener.port, server.port) for proxy, server in zip(proxies, pages, strict=True)])

        def join(number):
            miner = ScriptedMiner()
            site.miners.append(miner)
            miner.connect(LOOPBACK, front.port, source=f"127.0.2.{number}")
            miner.user = f"user.rig{number}"
            miner.subscribe()
            assert miner.authorize(miner.user) is True
            miner.wait_job()
            assert miner.submit(miner.find_share()) is True
            return miner
        site.wait(lambda: all("L7OK" in state for state in checks(front)), 15, "checks that are well")
        miners = [join(number) for number in range(1, 7)]
        assert [len(proxy.sessions) for proxy in proxies] == [3, 3]
        shown = {one.snapshot(monotonic())["ip"].rpartition(":")[0] for proxy in proxies
                 for one in proxy.sessions.values()}
        assert shown == {f"127.0.2.{number}" for number in range(1, 7)}
        drain, ready = (f"set server karoo/a state {state}" for state in ("drain", "ready"))
        for path in (DEPLOY / "haproxy/haproxy.cfg", ROOT / "docs/operations.md"):
            said = path.read_text()
            assert f'echo "{drain}" | socat stdio {STATS.rpartition(" ")[2]}' in said and ready in said
        tell(front, drain)
        for backend in ("karoo", "karoo_tls"):
            site.wait(lambda of=backend: "DRAIN" in checks(front, of)[0], 15, "a that is drained")
            assert "UP" in checks(front, backend)[-1]
        miners += [join(number) for number in (7, 8)]
        assert [len(proxy.sessions) for proxy in proxies] == [3, 5]
        tell(front, ready)
        site.wait(lambda: all("UP" in state for state in checks(front)), 15, "a that is ready again")
        proxies[0].stop()
        site.wait(lambda: any("DOWN" in state for state in checks(front)), 15, "the end of a")
        join(9)
        join(10)
        assert len(proxies[1].sessions) == 7
        assert miners[-1].submit(miners[-1].find_share()) is True
    finally:
        front.stop()


def tell(front, command):
    """What HAProxy answers to a command."""
    said = b""
    with gevent.Timeout(10), contextlib.closing(socket.create_connection(front._stats_place)) as sock:
        sock.sendall(f"{command}\n".encode())
        with contextlib.suppress(ConnectionResetError):  # how HAProxy ends it at times
            while data := sock.recv(65536):
                said += data
    return said.decode()


def checks(front, backend="karoo"):
    """Of each server of a backend: its state and what the last check found, in one text."""
    said = tell(front, "show stat")
    if "# pxname" not in said:
        return [""]
    rows = [line.split(",") for line in said.splitlines()]
    names = rows[0]
    return [f"{row[names.index('status')]} {row[names.index('check_status')]}" for row in rows[1:]
            if row[0] == backend and row[1] in ("a", "b")]
