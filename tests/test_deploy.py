"""deploy/: its files agree with each other and with the program, and what can run here runs."""

import configparser
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from karoo import __version__, cert, cli, config
from karoo.configaddresses import parse_address, passed_name
from karoo.ctl import client
from tests.deploydocker import carry_out, context, in_exec_form, instructions, stages

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
SECRETS = {name: f"a-secret-that-nobody-guesses-{name}" for name in ("KAROO_POOL_PASS", "KAROO_READ_TOKEN")}
EXAMPLES = ["karoo.yaml", "docker/etc/karoo.yaml", "kubernetes/karoo.yaml", "haproxy/karoo.yaml"]
NOT_AGAIN = {cli.EX_USAGE, cli.EX_CONFIG}  # exit codes after which no restart helps
PROGRAM, CONFIG, STATE, RUN, LOGS = "/opt/karoo", "/etc/karoo", "/var/lib/karoo", "/run/karoo", "/var/log/karoo"
COMMAND = f"{PROGRAM}/scripts/karoo run -c {CONFIG}/karoo.yaml"
SHELLCHECK, PROMTOOL = shutil.which("shellcheck"), shutil.which("promtool")
KUBECTL = shutil.which("kubectl")
ANALYZE, LOGROTATE = shutil.which("systemd-analyze"), shutil.which("logrotate", path=f"{os.environ['PATH']}:/usr/sbin")


def needs(command, name, package):
    """A mark for tests that need a command; where everything must hold, it is missed."""
    return pytest.mark.skipif(command is None and not os.environ.get("CI"),
                              reason=f"{name} is missing: .ci/debian --only {name} {package}")


def text(path):
    return (DEPLOY / path).read_text()


def settings(path):
    return config.loads(text(path), SECRETS)


def documents(path):
    return [one for one in yaml.safe_load_all(text(path)) if one]


def port(address):
    return parse_address(address).port


def run(*words, **options):
    return subprocess.run([str(word) for word in words], check=False, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=600, **options)


def well(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def unit(name):
    """A unit: {section: {name: [values]}}."""
    found = {}
    for line in text(f"systemd/{name}").splitlines():
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), {})
        elif line and line[0] not in "#;":
            key, value = line.split("=", 1)
            section.setdefault(key, []).append(value)
    return found


def program():
    """[program:karoo] of supervisord's file."""
    parser = configparser.RawConfigParser(inline_comment_prefixes=(" ;",))
    parser.read_string(text("supervisord/karoo.conf"))
    return parser["program:karoo"]


# ---------------------------------------------------------------- the configurations

@pytest.mark.parametrize("path", EXAMPLES)
def test_a_configuration_is_right(path, tmp_path):
    folder = shutil.copytree((DEPLOY / path).parent, tmp_path / "copy")
    cert.write(folder, *cert.make(["proxy.example.org"], 30, 1_800_000_000))
    said = well(run(sys.executable, "-m", "karoo", "check", "-c", folder / Path(path).name, cwd=ROOT,
                    env={**os.environ, **SECRETS}))
    assert said.endswith("karoo.yaml: the configuration is right\n"), "no notes of options without effect"


@pytest.mark.parametrize("path", EXAMPLES)
def test_places_and_ports_are_the_same_everywhere(path):
    one = settings(path)
    assert port(one.listeners[0].address if one.listeners else one.proxy.listen) == 3333
    assert port(one.http.listen) == 8080
    assert one.http.read_token or one.http.listen.startswith("127.0.0.1:"), "nobody reads it unasked"
    assert one.accounting.database == f"{STATE}/karoo.db"
    assert one.control.socket == f"{RUN}/karoo.sock" and one.control.socket in client.USUAL
    assert one.log.file == ""


def test_a_secret_that_is_missing_is_no_empty_one():
    for path in ("docker/etc/karoo.yaml", "kubernetes/karoo.yaml"):
        with pytest.raises(config.ConfigError, match="KAROO_READ_TOKEN"):
            config.loads(text(path), {})


def to_fill_in(path):
    """The names of an example of secrets. As it is it sets none: an empty token would open the page to all."""
    lines = text(path).splitlines()
    assert not [line for line in lines if line[:1] != "#"]
    return {found[1] for line in lines if (found := re.fullmatch(r"#(\w+)=", line))}


def drain_of(path):
    return settings(path).proxy.drain_seconds


# ---------------------------------------------------------------- supervisord, systemd, logrotate

def test_supervisord_agrees_with_the_program():
    one = program()
    assert one["command"] == COMMAND and one["user"] == "karoo" and one["directory"] == STATE
    assert {int(code) for code in one["exitcodes"].split(",")} == {cli.EX_OK, *NOT_AGAIN}
    assert one["autorestart"] == "unexpected" and one["stopsignal"] == "TERM"
    assert int(one["stopwaitsecs"]) > drain_of("karoo.yaml") + 5
    assert one["stdout_logfile"] == "/var/log/supervisor/karoo.log"
    assert text("supervisord/tmpfiles.conf").splitlines()[-1] == f"d {RUN} 0750 karoo karoo"


def test_units_agree_with_the_program():
    service, stratum = unit("karoo.service")["Service"], unit("karoo.socket")["Socket"]
    assert service["ExecStart"] == [COMMAND]
    assert {int(code) for code in service["RestartPreventExitStatus"][0].split()} == NOT_AGAIN
    assert service["Restart"] == ["on-failure"] and service["Type"] == ["notify"]
    assert int(service["TimeoutStopSec"][0]) > drain_of("karoo.yaml") + 5
    assert int(service["WatchdogSec"][0]) > 10
    for name, place in (("State", STATE), ("Runtime", RUN), ("Logs", LOGS)):
        assert service[f"{name}Directory"] == [Path(place).name]
    assert service["WorkingDirectory"] == [STATE] and service["EnvironmentFile"] == [f"-{CONFIG}/secrets.env"]
    assert service["User"] == service["Group"] == ["karoo"]
    assert stratum["ListenStream"] == ["3333"] and stratum["Service"] == ["karoo.service"]
    named = re.search(r"systemd:\w+", text("karoo.yaml"))[0]
    assert [passed_name(named)] == stratum["FileDescriptorName"] and named in text("systemd/karoo.socket")


def test_a_check_by_hand_has_the_secrets_of_the_service(tmp_path):
    """The commands that are advised, as they stand there; systemd takes what is in single quotes as a shell does."""
    sets = "set -a; . /etc/karoo/secrets.env; exec karoo check"
    secret = 'va$l  u\\e "#x; `id`'
    (tmp_path / "secrets.env").write_text(f"POOL_PASS='{secret}'\n")
    (tmp_path / "karoo").write_text(f"#!/bin/sh\ntest \"$POOL_PASS\" = '{secret}' || exit 9\n"
                                    f'exec {sys.executable} -m karoo "$@"\n')
    (tmp_path / "karoo").chmod(0o755)
    (tmp_path / "karoo.yaml").write_text(text("karoo.yaml").replace("pass: x ", "pass: ${POOL_PASS} "))
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for path in ("README.md", "karoo.yaml"):
        (command,) = re.findall(rf"sh -c '({re.escape(sets)} .*)'$", text(path), re.MULTILINE)
        command = command.replace(CONFIG, str(tmp_path)).replace("--connect ", "")
        assert "the configuration is right" in well(run("/bin/sh", "-c", command, cwd=ROOT, env=env))
    assert "NAME='value'" in text("README.md") and "NAME='value'" in text("systemd/karoo.service")


def test_crashes_are_tried_again_for_ever_and_a_faulty_configuration_behind_the_socket_is_not():
    """systemd counts both; neither RestartSec nor RestartPreventExitStatus holds where a miner has it started."""
    limit, service = unit("karoo.service")["Unit"], unit("karoo.service")["Service"]
    seconds, starts = int(limit["StartLimitIntervalSec"][0]), int(limit["StartLimitBurst"][0])
    assert seconds / int(service["RestartSec"][0]) + 3 < starts, "crashes, and somebody who tries by hand meanwhile"
    assert seconds / starts >= 3, "a program that takes so long to say that its configuration is faulty"
    again = re.search(r"^# (systemctl reset-failed .*)$", text("systemd/karoo.service"), re.MULTILINE)[1]
    assert again in text("README.md"), "how to go on"


def test_the_socket_takes_the_port_over_from_the_service():
    said = text("systemd/karoo.socket")
    steps = "systemctl stop karoo.service; systemctl enable --now karoo.socket; systemctl start karoo.service"
    assert f"#     {steps}\n" in said and f"`{steps}`" in text("README.md")
    for path in (DEPLOY / "systemd/karoo.socket", DEPLOY / "README.md", ROOT / "docs/operations.md"):
        assert "systemctl stop karoo.socket karoo.service" in path.read_text(), "else the next miner starts it again"


@pytest.fixture
def units(tmp_path):
    """Copies of the units whose program is there."""
    for name in ("karoo.service", "karoo.socket"):
        said = text(f"systemd/{name}").replace(PROGRAM, str(ROOT))
        (tmp_path / name).write_text(said)
    return tmp_path


@needs(ANALYZE, "systemd-analyze", "systemd")
def test_systemd_takes_the_units(units):
    assert well(run(ANALYZE, "verify", units / "karoo.service", units / "karoo.socket")) == ""


@needs(ANALYZE, "systemd-analyze", "systemd")
def test_the_service_is_well_confined(units):
    said = well(run(ANALYZE, "security", "--offline=true", "--threshold=15", "--no-pager", units / "karoo.service"))
    score = float(re.search(r"exposure level for karoo.service: ([\d.]+)", said)[1])
    assert score <= 1.5


def test_logrotate_is_about_the_log_of_the_examples():
    said = text("logrotate/karoo")
    assert re.search(r"^(/\S+) \{", said, re.MULTILINE)[1] == f"{LOGS}/karoo.log"
    for path in ("karoo.yaml", "README.md"):
        assert f"{LOGS}/karoo.log" in text(path)
    assert "create 0640 karoo karoo\n" in said and "delaycompress" in said and said.count("USR1") == 2


@needs(LOGROTATE, "logrotate", "logrotate")
def test_logrotate_takes_its_file(tmp_path):
    me = run("id", "-un").stdout.strip(), run("id", "-gn").stdout.strip()
    said = text("logrotate/karoo").replace("karoo karoo\n", "{} {}\n".format(*me)).replace(LOGS, str(tmp_path))
    (tmp_path / "karoo.log").write_text("a line\n")
    (tmp_path / "conf").write_text(said)
    (tmp_path / "conf").chmod(0o644)
    told = well(run(LOGROTATE, "-d", "-s", tmp_path / "state", tmp_path / "conf"))
    assert "error" not in told and "considering log" in told


# ---------------------------------------------------------------- Docker

@pytest.fixture(scope="module")
def dockerfile():
    return stages(instructions(text("docker/Dockerfile")))


@pytest.fixture(scope="module")
def image(dockerfile, tmp_path_factory):
    """/opt/karoo as the first stage leaves it."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "context").mkdir()
    context(ROOT, folder / "context")
    return carry_out(dockerfile[0][2], folder / "context", folder)


def test_the_image_holds_what_runs_and_no_more(image):
    assert well(run(image / "bin/karoo", "--version", cwd="/")) == f"karoo {__version__}\n"
    env = {"PATH": "/usr/bin:/bin", **SECRETS}
    well(run(image / "bin/karoo", "check", "-c", DEPLOY / "docker/etc/karoo.yaml", cwd="/", env=env))
    engine = "import karoo.speed, karoo._speed; print(karoo._speed.__file__)"
    assert str(image) in well(run(image / "bin/python", "-I", "-c", engine, cwd="/"))
    files = [path.relative_to(image) for path in image.rglob("*") if path.is_file()]
    assert any(path.match("karoo/web/static/*") for path in files) and any(path.match("*.html") for path in files)
    for path in files:
        assert path.suffix not in {".c", ".h", ".hpp", ".pyi", ".pyx", ".pxd", ".a", ".o", ".S"}, path
        assert not {"tests", "pip", "setuptools", "include"} & set(path.parts), path
        assert path.name not in {"gcc", "cc", "pip", "pip3"}, path
    assert sum((image / path).stat().st_size for path in files) < 90e6


def test_the_context_holds_no_secrets_and_no_rubbish(tmp_path):
    context(ROOT, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "requirements.txt", "setup.py", "pyproject.toml", "README.md", "LICENSE", "karoo"}
    assert (tmp_path / "karoo/_speed.c").exists() and (tmp_path / "karoo/web/static").is_dir()
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pyc", ".so", ".db", ".env")]


def test_the_dockerfile(dockerfile):
    (first, name, build), (second, _, steps) = dockerfile
    tag = dict(instructions(text("docker/Dockerfile")))["ARG"].removeprefix("PYTHON=")
    assert first == second == "python:${PYTHON}" and re.fullmatch(r"3\.\d+-slim-\w+", tag), "pinned, and the same twice"
    lowest, highest = re.search(r"Python (3\.\d+) to (3\.\d+)", (ROOT / "requirements.txt").read_text()).groups()
    minor = [int(one.split(".")[1].split("-")[0]) for one in (lowest, tag, highest)]
    assert minor == sorted(minor), "it is one that the pins are for"
    one = dict(steps)
    assert [rest for word, rest in steps if word == "COPY"] == [f"--from={name} {PROGRAM} {PROGRAM}"]
    assert not any("apt-get" in rest for word, rest in steps), "the compiler stays behind"
    assert any("gcc" in rest for word, rest in build)
    user, _, group = one["USER"].partition(":")
    assert f"--gid {group} " in one["RUN"] and f"--uid {user} " in one["RUN"] and int(user) > 0
    assert f"{STATE} {RUN}" in one["RUN"] and one["WORKDIR"] == one["VOLUME"] == STATE
    assert in_exec_form(one["ENTRYPOINT"]) == [f"{PROGRAM}/bin/karoo"], "no shell between, which keeps signals"
    assert in_exec_form(one["CMD"]) == COMMAND.split()[1:]
    assert one["STOPSIGNAL"] == "SIGTERM" and one["EXPOSE"].split() == ["3333", "8080"]
    assert steps.index(("USER", one["USER"])) > [word for word, _ in steps].index("RUN")


def test_the_image_runs_and_its_health_is_checked(dockerfile, tmp_path, image):
    """Well where the page answers, not where it does not; by the image's own Python. Nothing is written into it."""
    one = dict(dockerfile[1][2])
    options, _, words = one["HEALTHCHECK"].partition("CMD ")
    assert "--timeout=" in options and "timeout=4" in words
    words = [word.replace(PROGRAM, str(image)) for word in in_exec_form(words)]
    assert f":{port(settings('docker/etc/karoo.yaml').http.listen)}/healthz" in words[-1]
    values = {"proxy": {"listen": "127.0.0.1:0"}, "http": {"listen": "127.0.0.1:0"}, "control": {"socket": ""},
              "accounting": {"database": ""}, "upstream": {"host": "127.0.0.1", "port": 1, "user": "w"}}
    (tmp_path / "karoo.yaml").write_text(json.dumps(values))
    env = dict(pair.split("=", 1) for pair in one["ENV"].split())
    before = sorted(image.rglob("*"))
    start = in_exec_form(one["ENTRYPOINT"])[0].replace(PROGRAM, str(image))
    with subprocess.Popen([start, "run", "-c", tmp_path / "karoo.yaml"], env=env, text=True, cwd=tmp_path,
                          stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as daemon:
        try:
            found = None
            while found is None:
                line = daemon.stderr.readline()
                assert line, "it ended"
                found = re.search(r"status page on http://127.0.0.1:(\d+)/", line)
            words[-1] = words[-1].replace(":8080/", f":{found[1]}/")
            assert well(run(*words)) == ""
            daemon.send_signal(getattr(signal, one["STOPSIGNAL"]))
            daemon.stderr.read()
            assert daemon.wait(30) == 0
        finally:
            daemon.kill()
    assert run(*words).returncode != 0
    assert sorted(image.rglob("*")) == before


@pytest.fixture
def compose():
    return yaml.safe_load(text("docker/compose.yaml"))


def mounts(service):
    """{place in the container: what is mounted there}."""
    return {one.split(":")[1]: one.split(":")[0] for one in service["volumes"]}


def test_compose_mounts_what_is_there(compose):
    for name, service in compose["services"].items():
        for place, what in mounts(service).items():
            if what.startswith("."):
                assert (DEPLOY / "docker" / what).exists(), (name, what)
            else:
                assert what in compose["volumes"], (name, what)
            assert place.startswith("/")
        for other in service.get("depends_on", []):
            assert other in compose["services"]
        assert service["cap_drop"] == ["ALL"] and "no-new-privileges:true" in service["security_opt"]
        for published in service["ports"]:
            assert published == "3333:3333" or published.startswith("127.0.0.1:"), "only miners come from elsewhere"
        assert "build" in service or not service["image"].endswith((":latest", name)), "pinned"
    used = {what for service in compose["services"].values() for what in mounts(service).values()}
    assert set(compose["volumes"]) == {what for what in used if not what.startswith(".")}


def test_compose_runs_the_image_as_it_is_meant_to(compose, dockerfile):
    one, image = compose["services"]["karoo"], dict(dockerfile[1][2])
    assert (DEPLOY / "docker" / one["build"]["context"]).resolve() == ROOT
    assert (ROOT / one["build"]["dockerfile"]).exists()
    assert one["read_only"] is True and mounts(one) == {CONFIG: "./etc", STATE: "accounts"}
    user = image["USER"].split(":")[0]
    assert f"{RUN}:uid={user},gid={user},mode=0750" in one["tmpfs"]
    assert [two.split(":")[-1] for two in one["ports"]] == image["EXPOSE"].split()
    assert int(one["stop_grace_period"].rstrip("s")) > drain_of("docker/etc/karoo.yaml") + 5
    named = set(re.findall(r"\$\{(\w+)\}", text("docker/etc/karoo.yaml")))
    assert set(one["environment"]) == named == set(SECRETS)
    wanted = set(re.findall(r"\$\{(\w+):\?", text("docker/compose.yaml")))
    assert wanted == to_fill_in("docker/env.example")
    assert "/.env" in text("docker/.gitignore")


def test_the_container_without_compose_is_the_same(compose):
    """The commands of the page, in the same folder as those before."""
    block = text("README.md").split("Without compose")[1].split("\n\n")[1].replace("\\\n", " ")
    build, start = (shlex.split(line) for line in block.splitlines())
    one = compose["services"]["karoo"]
    assert build[:5] == ["docker", "build", "-t", one["image"], "-f"] and build[6:] == [one["build"]["context"]]
    assert (DEPLOY / "docker" / build[5]).resolve() == ROOT / one["build"]["dockerfile"]
    assert start[:3] == ["docker", "run", "-d"] and start[-1] == one["image"]
    found = {}
    for word, value in itertools.pairwise(start):
        found.setdefault(word, []).append(value)
    assert found["-p"] == one["ports"] and found["--tmpfs"] == one["tmpfs"]
    assert found["-v"] == [place.replace("./", "$PWD/") for place in sorted(one["volumes"], reverse=True)]
    assert found["--env-file"] == [".env"] and set(one["environment"]) < to_fill_in("docker/env.example")
    assert "--read-only" in start and found["--cap-drop"] == one["cap_drop"]
    assert found["--ulimit"] == [f"nofile={one['ulimits']['nofile']}"] and found["--restart"] == [one["restart"]]
    assert f"{found['--stop-timeout'][0]}s" == one["stop_grace_period"]


def test_compose_copies_nothing_into_a_container_that_is_read_only(compose):
    """Secrets and configs that are no file of this host it would have to copy: `docker compose up` ends there."""
    for name, service in compose["services"].items():
        for kind in ("secrets", "configs"):
            for used in service.get(kind, []) if service.get("read_only") else []:
                assert "file" in compose[kind][used if isinstance(used, str) else used["source"]], (name, used)


def test_prometheus_finds_the_token_where_its_container_writes_it(compose, tmp_path):
    """By the container's own command, with another program at its end."""
    one = compose["services"]["prometheus"]
    (job,) = yaml.safe_load(text("docker/prometheus.yml"))["scrape_configs"]
    path = Path(job["authorization"]["credentials_file"])
    (memory,) = one["tmpfs"]
    assert memory == f"{path.parent}:uid=65534,gid=65534,mode=0700", "it runs as nobody"
    assert list(one["environment"]) == ["KAROO_READ_TOKEN"]
    words = [word.replace("$$", "$").replace(f"{path.parent}/", f"{tmp_path}/") for word in one["entrypoint"]]
    assert one["command"][0] == "/bin/prometheus" and set(mounts(one)) >= {
        word.partition("=")[2] for word in one["command"][1:]}
    token = "a token's \\n $HOME %s"
    said = well(run(*words, "/bin/sh", "-c", "echo $$ $*", *one["command"], env={"KAROO_READ_TOKEN": token}))
    assert said.split()[1:] == one["command"][1:]
    assert (tmp_path / path.name).read_text() == token and (tmp_path / path.name).stat().st_mode & 0o777 == 0o600
    assert run(*words, "true", env={}).returncode != 0, "no token, no start"


def test_prometheus_and_grafana_find_each_other(compose):
    services = compose["services"]
    scrape = yaml.safe_load(text("docker/prometheus.yml"))
    (job,) = scrape["scrape_configs"]
    host, _, at = job["static_configs"][0]["targets"][0].partition(":")
    assert host in services and int(at) == port(settings("docker/etc/karoo.yaml").http.listen)
    assert job["job_name"] == yaml.safe_load(text("prometheus/prometheus.yml"))["scrape_configs"][0]["job_name"]
    at = mounts(services["prometheus"])
    assert at["/etc/prometheus/prometheus.yml"] == "./prometheus.yml"
    assert [at[rules] for rules in scrape["rule_files"]] == ["../prometheus/alerts.yml"]
    (source,) = yaml.safe_load(text("docker/grafana/datasource.yaml"))["datasources"]
    host, _, at = source["url"].removeprefix("http://").partition(":")
    assert host in services and services[host]["ports"][0].endswith(f":{at}")
    (provider,) = yaml.safe_load(text("docker/grafana/dashboards.yaml"))["providers"]
    grafana = services["grafana"]
    shown = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(shown).parent == Path(provider["options"]["path"])
    assert mounts(grafana)[shown] == "../grafana/karoo.json"
    dashboard = json.loads(text("grafana/karoo.json"))
    assert not dashboard["__inputs"], "nobody is there to fill them in"
    assert dashboard["templating"]["list"][0]["query"] == source["type"] and source["isDefault"]


@needs(PROMTOOL, "promtool", "prometheus")
def test_prometheus_takes_its_configuration(tmp_path):
    said = text("docker/prometheus.yml").replace("/etc/prometheus/", f"{DEPLOY / 'prometheus'}/")
    (tmp_path / "prometheus.yml").write_text(said.replace("/run/karoo/", f"{tmp_path}/"))
    (tmp_path / "read_token").write_text("x" * 20)
    well(run(PROMTOOL, "check", "config", tmp_path / "prometheus.yml"))


# ---------------------------------------------------------------- Kubernetes

@pytest.fixture
def cluster():
    """{(kind, name): manifest} of the kustomization's resources."""
    (one,) = documents("kubernetes/kustomization.yaml")
    found = [manifest for path in one["resources"] for manifest in documents(f"kubernetes/{path}")]
    assert len({(manifest["kind"], manifest["metadata"]["name"]) for manifest in found}) == len(found)
    return {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in found}


@pytest.fixture
def kustomization():
    (one,) = documents("kubernetes/kustomization.yaml")
    return one


@pytest.fixture
def pod(cluster):
    return cluster["Deployment", "karoo"]["spec"]["template"]["spec"]


def test_all_manifests_are_named_and_belong_together(cluster, kustomization):
    there = {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")}
    assert there == {*kustomization["resources"], "kustomization.yaml", "karoo.yaml"}
    assert ("Namespace", kustomization["namespace"]) in cluster
    label = {"app.kubernetes.io/name": "karoo"}
    deployment = cluster["Deployment", "karoo"]["spec"]
    assert deployment["selector"]["matchLabels"] == label == deployment["template"]["metadata"]["labels"]
    for (kind, _), manifest in cluster.items():
        assert manifest["metadata"]["labels"].items() >= label.items()
        assert "namespace" not in manifest["metadata"], "the kustomization says it"
        if kind == "Service":
            assert manifest["spec"]["selector"] == label
        if kind in ("NetworkPolicy", "PodDisruptionBudget"):
            selector = manifest["spec"].get("podSelector") or manifest["spec"]["selector"]
            assert selector == {"matchLabels": label}
    assert kustomization["generatorOptions"]["labels"] == label
    (image,) = kustomization["images"]
    assert image["newTag"] == __version__, "deploy/kubernetes/kustomization.yaml: the tag follows the version"


@pytest.fixture
def build(tmp_path):
    """What kubectl makes of a folder beside a copy of the cluster's, with the secrets as they are in the example."""
    if KUBECTL is None:
        pytest.skip("kubectl is missing")
    copy = shutil.copytree(DEPLOY / "kubernetes", tmp_path / "kubernetes")
    shutil.copy(copy / "secret.env.example", copy / "secret.env")

    def manifests(folder):
        done = run(KUBECTL, "kustomize", tmp_path / folder)
        assert done.returncode == 0, done.stderr
        return [one for one in yaml.safe_load_all(done.stdout) if one]
    return manifests


def another():
    """The kustomization of another instance that the comment advises."""
    said = text("kubernetes/kustomization.yaml").split("kustomization.yaml alone:\n")[1].splitlines()
    return "\n".join(line[5:] for line in said if line.startswith("#     ")) + "\n"


def test_a_secret_that_is_not_filled_in_is_not_there(build):
    (secret,) = [one for one in build("kubernetes") if one["kind"] == "Secret"]
    assert not secret.get("data"), "and so the program says that it is not set"


def test_two_instances_have_nothing_in_common(cluster, kustomization):
    """A namespace each: selectors find nothing beyond, as long as no manifest names one."""
    one = yaml.safe_load(another())
    assert one["namespace"] not in ("", kustomization["namespace"]) and one["resources"] == ["../kubernetes"]
    assert set(one) == {"apiVersion", "kind", "namespace", "resources"}
    assert {kind for kind, _ in cluster} == {"Namespace", "PersistentVolumeClaim", "Deployment", "Service",
                                             "NetworkPolicy", "PodDisruptionBudget"}, "but for the first all are in one"


def test_two_instances_as_kubectl_makes_them(build, tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/kustomization.yaml").write_text(another())
    places = []
    for folder in ("kubernetes", "b"):
        found = build(folder)
        places.append({one["metadata"].get("namespace", one["metadata"]["name"]) for one in found})
        assert {one["kind"] for one in found} >= {"Namespace", "ConfigMap", "Secret", "Service", "NetworkPolicy"}
    assert places == [{"karoo"}, {"karoo-b"}]


def test_one_instance_owns_its_accounts(cluster):
    spec = cluster["Deployment", "karoo"]["spec"]
    assert spec["replicas"] == 1 and spec["strategy"] == {"type": "Recreate"}
    assert cluster["PersistentVolumeClaim", "karoo-accounts"]["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert cluster["PodDisruptionBudget", "karoo"]["spec"]["maxUnavailable"] == 0


def test_the_pod_mounts_what_there_is(cluster, kustomization, pod):
    (one,) = pod["containers"]
    assert one["image"] == kustomization["images"][0]["name"] and one["args"] == COMMAND.split()[1:]
    places = {mount["name"]: mount for mount in one["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert set(places) == set(volumes)
    assert {name: mount["mountPath"] for name, mount in places.items()} == {
        "config": CONFIG, "accounts": STATE, "run": RUN, "tmp": "/tmp"}
    assert not any("subPath" in mount for mount in places.values()), "it would never change"
    (generated,) = kustomization["configMapGenerator"]
    assert volumes["config"]["configMap"]["name"] == generated["name"] and generated["files"] == ["karoo.yaml"]
    assert ("PersistentVolumeClaim", volumes["accounts"]["persistentVolumeClaim"]["claimName"]) in cluster
    (secret,) = kustomization["secretGenerator"]
    assert [source["secretRef"]["name"] for source in one["envFrom"]] == [secret["name"]]
    named = set(re.findall(r"\$\{(\w+)\}", text("kubernetes/karoo.yaml")))
    assert to_fill_in("kubernetes/secret.env.example") == named == set(SECRETS)
    assert secret["envs"] == ["secret.env"] and "/secret.env" in text("kubernetes/.gitignore")


def test_the_pod_is_confined_and_has_time_to_end(pod, dockerfile):
    (one,) = pod["containers"]
    user = int(dict(dockerfile[1][2])["USER"].split(":")[0])
    context = pod["securityContext"]
    assert context["runAsNonRoot"] and context["runAsUser"] == context["runAsGroup"] == context["fsGroup"] == user
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    own = one["securityContext"]
    assert own["readOnlyRootFilesystem"] and own["allowPrivilegeEscalation"] is False
    assert own["capabilities"] == {"drop": ["ALL"]}
    before = int(re.search(r"sleep\((\d+)\)", one["lifecycle"]["preStop"]["exec"]["command"][-1])[1])
    assert pod["terminationGracePeriodSeconds"] > before + drain_of("kubernetes/karoo.yaml") + 5
    assert one["lifecycle"]["preStop"]["exec"]["command"][0] == f"{PROGRAM}/bin/python"
    assert one["resources"]["limits"].keys() == {"memory"}


def test_probes_services_and_policy_are_about_its_ports(cluster, pod):
    one = settings("kubernetes/karoo.yaml")
    (container,) = pod["containers"]
    ports = {named["name"]: named["containerPort"] for named in container["ports"]}
    assert ports == {"stratum": port(one.proxy.listen), "page": port(one.http.listen)}
    for probe, path in (("startup", "/healthz"), ("liveness", "/healthz"), ("readiness", "/readyz")):
        assert container[f"{probe}Probe"]["httpGet"] == {"path": path, "port": "page"}
    stratum, page = cluster["Service", "karoo-stratum"]["spec"], cluster["Service", "karoo-page"]["spec"]
    assert stratum["type"] == "LoadBalancer" and stratum["externalTrafficPolicy"] == "Local"
    assert page["type"] == "ClusterIP"
    for service, name in ((stratum, "stratum"), (page, "page")):
        assert [(at["name"], at["port"], at["targetPort"]) for at in service["ports"]] == [(name, ports[name], name)]
    policy = cluster["NetworkPolicy", "karoo"]["spec"]
    miners, readers = policy["ingress"]
    assert "from" not in miners and [at["port"] for at in miners["ports"]] == ["stratum"]
    assert readers["from"] and [at["port"] for at in readers["ports"]] == ["page"]
    out = {at["port"] for rule in policy["egress"] for at in rule["ports"]}
    assert out == {53, *(pool.place.port for pool in one.pools)}, "every pool, and names"


# ---------------------------------------------------------------- scripts, and the page about all that

@needs(SHELLCHECK, "shellcheck", "shellcheck")
def test_the_scripts_are_clean():
    assert well(run(SHELLCHECK, "-x", "scripts/install", "scripts/uninstall", "scripts/_host.sh", cwd=ROOT)) == ""


def test_the_readme_tells_of_every_folder_and_its_links_lead_somewhere():
    said = text("README.md")
    for path in DEPLOY.iterdir():
        assert path.is_file() or f"]({path.name})" in said, path.name
    for target in re.findall(r"\]\(([^)\s]+)\)", said):
        assert (DEPLOY / target).exists(), target
    for code in (cli.EX_OK, *NOT_AGAIN):
        assert str(code) in re.search(r"exit codes ([\d, ]+\d)", said)[1].split(", ")
