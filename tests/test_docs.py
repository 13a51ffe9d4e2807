"""The documentation: its examples are configurations, its links lead somewhere, what it names is there."""

import argparse
import ast
import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from contextlib import closing
from functools import cache
from pathlib import Path

import pytest
import yaml

from karoo import cli
from karoo.accounting.deltas import Deltas
from karoo.accounting.ledger import Ledger, open_reader
from karoo.config import Config, loads, passes_users_on, remarks
from karoo.configdoc import reference
from karoo.configschema import Section, members, walk
from karoo.policy.workers import WorkerNames
from karoo.reload import differences, live
from karoo.stratum import messages

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "deploy" / "README.md", *sorted((ROOT / "docs").glob("*.md")),
         *sorted((ROOT / "examples").glob("*/README.md"))]
SECTIONS = {member.name for member in members(Config)}
BLOCK = re.compile(r"^( *)```yaml[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
EXAMPLES = [(page, text) for page in PAGES for _, block in BLOCK.findall(page.read_text())
            if SECTIONS & yaml.safe_load(text := textwrap.dedent(block)).keys()]


@pytest.mark.parametrize(("page", "block"), EXAMPLES, ids=[f"{page.name}-{n}" for n, (page, _) in enumerate(EXAMPLES)])
def test_an_example_is_a_configuration(page, block):
    if "upstream" not in yaml.safe_load(block):
        block += "\nupstream: {host: pool.example.org, user: wallet}\n"
    secrets = {name: f"a secret that nobody guesses: {name}".replace(" ", "-")
               for name in re.findall(r"\$\{(\w+)\}", block)}
    loads(block, secrets)


def test_there_are_examples():
    assert len(EXAMPLES) > 7


@cache
def anchors(page):
    """What a link to a page may point at."""
    text = page.read_text()
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles} | {
        *re.findall(r'<a id="([^"]+)">', text)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), target


def test_every_page_is_linked():
    """A page that no other one leads to is found by nobody."""
    linked = {(page.parent / path).resolve() for page in PAGES
              for path in re.findall(r"\]\(([^)\s#]+)[^)]*\)", page.read_text()) if "://" not in path}
    assert {page for page in PAGES if page.parent.name == "docs"} <= linked


# ---------------------------------------------------------------- the reference

def test_the_reference_is_made_from_the_options():
    written = (ROOT / "docs" / "configuration.md").read_text()
    assert written == reference(), "python -m karoo.configdoc --markdown > docs/configuration.md"


def options_of(cls, path):
    """Every option and section below, by its path."""
    for member in members(cls):
        yield (where := f"{path}{member.name}")
        if isinstance(member, Section):
            yield from options_of(member.cls, f"{where}.")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_that_are_named_are_there(page):
    """Names such as `vardiff.min_diff`; lists may have an index."""
    files = {f"{name}.{kind}" for name in SECTIONS for kind in ("md", "py")}
    known = {*options_of(Config, ""), *files}
    for name in re.findall(rf"`((?:{'|'.join(SECTIONS)})(?:\[\d*\])?(?:\.[a-z_]+)+)[`:]", page.read_text()):
        assert re.sub(r"\[\d*\]", "", name) in known, name


# ---------------------------------------------------------------- what a reload does

def changed(options, path):
    """The same options with another value at a path."""
    name, _, rest = path.partition(".")
    member = next(one for one in members(type(options)) if one.name == name)
    value = getattr(options, member.attribute)
    if rest:
        new = (changed(value[0], rest),) if member.many else changed(value, rest)
    else:
        new = "something else"
    return dataclasses.replace(options, **{member.attribute: new})


def test_what_waits_for_a_restart_is_named():
    settings = loads("listeners: [{name: a, address: ':1'}]\nupstream: {name: b, host: pool.example.org, user: wallet}")
    paths = {re.sub(r"\[0\]", "", path) for path, _, _ in walk(settings)}
    waiting = {path for path in paths if differences(live(settings, new := changed(settings, path)), new)}
    bullet, = re.findall(r"^- \*\*After a restart\*\*:(.*?)\n\n", (ROOT / "docs" / "operations.md").read_text(),
                         re.MULTILINE | re.DOTALL)
    assert set(re.findall("`([^`]+)`", bullet)) == waiting


# ---------------------------------------------------------------- what files of the original Karoo leave out

MIGRATION = (ROOT / "docs" / "migration.md").read_text()
LEFT_OUT = re.findall(r"^\| (`[^|]*`) \| [^|]* \| ([^|]*) \| [^|]* \|$",
                      MIGRATION.partition("\n| left out |")[2].partition("\n\n")[0], re.MULTILINE)


def test_what_is_left_out_means_what_the_table_says():
    settings = loads('{"upstream": {"host": "pool.example.org", "user": "wallet"}}')
    defaults = {path: value for path, _, value in walk(settings)}
    said = {name: yaml.safe_load(value) for names, here in LEFT_OUT for name, value in zip(
        re.findall(r"`([^`]+)`", names), re.findall(r"\d[\d.:]*|true|false", here), strict=True)}
    assert len(said) > 6
    assert said == {name: defaults[name] for name in said}


def test_who_is_paid_as_the_original_paid_is_what_the_page_says():
    """`local_authorize: false` pays the miners' own users, and the advice keeps the payee."""
    moved = '{"upstream": {"host": "a", "user": "wallet"%s}, "backups": [{"host": "b", "user": "wallet"%s}]%s}'
    old = loads(moved % ("", "", ', "compat": {"local_authorize": false}'))
    assert [pool.worker_names for pool in old.pools] == ["passthrough"] * 2
    assert passes_users_on(old)
    advice, = re.findall('`("worker_names": "[a-z]+")`', MIGRATION)
    advised = loads(moved % (f", {advice}", f", {advice}", ""))
    assert [WorkerNames(pool.worker_names, pool.user).upstream_user("miner.rig7") for pool in advised.pools] == [
        "wallet"] * 2
    assert not remarks(advised)


# ---------------------------------------------------------------- what the log says

GAP = "\0"  # where a text has something that differs from case to case
FORMAT = re.compile(r"%(?:\.?\d*)?[a-z%]")


@cache
def texts():
    """Every text in the program, with a gap where something is put in."""
    found = []
    for path in sorted((ROOT / "karoo").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else GAP for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return [FORMAT.sub(GAP, text) for text in found]


def is_said(quoted):
    """Whether the program has a text with all parts of the quoted one, in their order; or one for each of those that
    colons part, as a line often is what happened and why."""
    parts = [part.strip() for part in quoted.split("…") if part.strip(" :")]
    pattern = re.compile(f".*{GAP}.*".join(map(re.escape, parts)), re.DOTALL)
    if parts and any(pattern.search(text) for text in texts()):
        return True
    return ": " in quoted and all(is_said(part) for part in quoted.split(": ") if part.strip("… "))


QUOTED = [(page.name, quoted) for page in PAGES
          for table in re.findall(r"^\| the log says.*\n\| ---.*\n((?:\|.*\n)+)", page.read_text(), re.MULTILINE)
          for row in table.splitlines() for quoted in re.findall(r"`([^`]+)`", row.split(" | ")[0])]


@pytest.mark.parametrize(("page", "quoted"), QUOTED)
def test_the_log_can_say_so(page, quoted):
    assert is_said(quoted)


def test_what_the_log_cannot_say():
    assert len(QUOTED) > 40
    assert not is_said("the pool was asleep for … s")
    assert not is_said("turned off: …")


# ---------------------------------------------------------------- files and functions

FILE = re.compile(r"`((?:[\w-]+/)*_?\w+\.(?:py|c|md|json|yml|yaml))(?::([\w.]+))?`")
NAMED = [(page.name, path, name) for page in PAGES for path, name in FILE.findall(page.read_text())
         if "/" in path or name]


@pytest.mark.parametrize(("page", "path", "name"), sorted(set(NAMED)))
def test_files_and_functions_that_are_named_are_there(page, path, name):
    file = next((folder / path for folder in (ROOT / "karoo", ROOT, ROOT / "docs") if (folder / path).exists()), None)
    assert file is not None or path.startswith(("etc/", "var/", "opt/"))
    if name:
        assert name in names_in(ast.parse(file.read_text()))


def names_in(tree):
    """Functions, classes, and methods as `Class.method`."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


def test_the_walk_names_much():
    assert len([name for _, _, name in NAMED if name]) > 60


# ---------------------------------------------------------------- commands

def commands_of(parser):
    """The commands of a parser, by name."""
    return next(action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))


KAROO = commands_of(cli._parser())
CALL = re.compile(r"(?:^    |^\$ |`|/)karoo ([a-z][a-z-]*)(?: -c \S+)?(?: ([a-z][a-z-]*))?", re.MULTILINE)
CALLED = {(page.name, *words) for page in PAGES for words in CALL.findall(page.read_text())}
COMMANDS = re.compile(r"^\| command \| \|\n\| ---.*\n((?:\|.*\n)+)", re.MULTILINE)
TABLES = {("operations.md", "ctl", name)
          for table in COMMANDS.findall((ROOT / "docs" / "operations.md").read_text())
          for row in table.splitlines() for name in re.findall(r"`([a-z-]+)", row.split(" | ")[0])}


@pytest.mark.parametrize(("page", "command", "further"), sorted(CALLED | TABLES))
def test_commands_that_are_named_are_there(page, command, further):
    assert command in KAROO or command == "karoo"  # an image or a service of that name, and the program in it
    if command == "ctl" and further:
        assert further in commands_of(KAROO["ctl"])


def test_commands_are_named():
    assert {command for _, command, _ in CALLED} >= {"run", "check", "doctor", "ctl", "top", "report", "cert", "config"}
    assert len(TABLES) > 10


# ---------------------------------------------------------------- the protocol

LINES = (ROOT / "docs" / "protocol.md").read_text().partition("\n## Lines\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize(("fault", "beginning"), [
    (messages.Malformed, "- A request whose"), (messages.ProtocolError, "- What is no JSON object"),
    (None, "- An answer that nothing")])
def test_lines_that_are_shown_are_what_the_page_calls_them(fault, beginning):
    bullet, = [one for one in re.split(r"\n(?=- )", LINES.strip()) if one.startswith(beginning)]
    examples = re.findall(r"`([{\[][^`]*[}\]]|hello)`", bullet)
    assert examples
    for line in examples:
        if fault is None:
            assert isinstance(messages.parse(line.encode()), messages.Response)
        else:
            with pytest.raises(fault):
                messages.parse(line.encode())


# ---------------------------------------------------------------- operations

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def test_every_exit_code_is_told():
    codes = re.findall(r"^EX_[A-Z_, ]+ = ([\d, ]+)", "\n".join(
        path.read_text() for path in sorted((ROOT / "karoo").rglob("*.py"))), re.MULTILINE)
    table, = re.findall(r"^\| exit code .*\n\| ---.*\n((?:\|.*\n)+)", OPERATIONS, re.MULTILINE)
    told = re.findall(r"^\| (\d+) ", table, re.MULTILINE)
    assert {code for line in codes for code in re.split(", *", line.strip())} >= {"0", "1", "2", "3", "69", "70", "78"}
    assert set(told) >= {code for line in codes for code in re.split(", *", line.strip())}


HOOK, = re.findall(r"^```sh\n(#!/bin/sh\n.*?)^```", OPERATIONS, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("renewed", "copied"), [("proxy.farm.example", True), ("www.farm.example", False)])
def test_the_hook_copies_a_renewed_certificate_and_reloads(renewed, copied, tmp_path):
    lineage, place, command = (tmp_path / name for name in ("live", "karoo", "command"))
    (lineage / renewed).mkdir(parents=True)
    place.mkdir()
    for name in ("fullchain", "privkey"):
        (lineage / renewed / f"{name}.pem").write_text(f"new {name}")
    command.write_text(f"#!/bin/sh\ncat {place}/*.pem > {tmp_path}/seen; echo \"$*\" >> {tmp_path}/seen\n")
    command.chmod(0o755)
    script = HOOK.replace("-o root -g karoo ", "")
    for old, new in (("/etc/letsencrypt/live", lineage), ("/etc/karoo", place), ("/usr/local/bin/karoo", command)):
        assert old in script
        script = script.replace(old, str(new))
    subprocess.run(["sh", "-c", script], check=True, timeout=60,
                   env={**os.environ, "RENEWED_LINEAGE": str(lineage / renewed)})
    seen = tmp_path / "seen"
    assert (seen.read_text() if seen.exists() else "") == (
        "new fullchain" "new privkey" "ctl --socket /run/karoo/karoo.sock reload\n" if copied else "")
    assert {path.name: path.stat().st_mode & 0o777 for path in place.iterdir()} == (
        {"karoo-cert.pem": 0o640, "karoo-key.pem": 0o640} if copied else {})


def test_the_unit_of_a_second_instance_shares_nothing_with_the_first():
    command, = re.findall(r"^\$ (sed .* karoo\.service) >", OPERATIONS, re.MULTILINE)
    made = subprocess.run(["sh", "-c", command], check=True, timeout=60, text=True, stdout=subprocess.PIPE,
                          cwd=ROOT / "deploy" / "systemd").stdout
    assert "run -c /etc/karoo/b.yaml\n" in made
    assert "test -S /run/karoo-b/karoo.sock && exec " in made
    assert "karoo ctl --socket /run/karoo-b/karoo.sock reload;" in made
    assert "\nRuntimeDirectory=karoo-b\nRuntimeDirectoryMode=0750\n" in made
    assert "/run/karoo/" not in made
    assert "/etc/karoo/karoo.yaml" not in made


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is missing")
def test_reports_are_added_up(tmp_path):
    command, = re.findall(r"^\$ (jq .*)$", OPERATIONS, re.MULTILINE)
    for name, work in (("a", 4.0), ("b", 5.0)):
        with closing(Ledger(str(tmp_path / f"{name}.db"))) as ledger:
            ledger.write(MINUTE, {"rig7": Deltas(answered_here=1, here_work=work), name: Deltas(answered_here=2)})
    for asked in re.findall(r"^\$ karoo (report .*) > ([ab]\.json)$", OPERATIONS, re.MULTILINE):
        words = shlex.split(asked[0].replace("2026-01-31", "2023-11-14"))
        with open(tmp_path / asked[1], "w") as out:
            subprocess.run([sys.executable, "-m", "karoo", *words], check=True, timeout=60, stdout=out, cwd=tmp_path,
                           env={**os.environ, "PYTHONPATH": str(ROOT)})
    found = subprocess.run(["sh", "-c", command], check=True, timeout=60, stdout=subprocess.PIPE, cwd=tmp_path).stdout
    rows = [json.loads(row) for row in found.replace(b"}\n{", b"}\0{").split(b"\0")]
    assert {row["worker"]: (row["accepted"], row["difficulty"]) for row in rows} == {
        "rig7": (2, 9.0), "a": (2, 0.0), "b": (2, 0.0)}


# ---------------------------------------------------------------- the backup

BACKUPS = re.findall(r"^\$ (.*karoo\.db.*)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
MINUTE = 1_700_000_040  # the start of one


@pytest.mark.parametrize("command", BACKUPS, ids=lambda command: command.split()[0].rpartition("/")[2])
def test_a_backup_is_whole_while_the_proxy_writes(command, tmp_path):
    program = shlex.split(command)[0].replace("/opt/karoo", str(ROOT))
    if shutil.which(program) is None and not os.environ.get("CI"):
        pytest.skip(f"{program} is missing")
    lives, saved = tmp_path / "lives", tmp_path / "saved"
    lives.mkdir()
    saved.mkdir()
    for old, new in (("/var/lib/karoo", lives), ("/var/backups", saved), ("/opt/karoo", ROOT)):
        command = command.replace(old, str(new))
    with closing(Ledger(str(lives / "karoo.db"))) as ledger:
        for number in range(20):
            ledger.write(MINUTE + 60 * number, {"rig7": Deltas(answered_here=1, here_work=4.0)})
        subprocess.run(["sh", "-c", command], check=True, timeout=60)
        ledger.write(MINUTE + 60 * 20, {"rig7": Deltas(answered_here=1, here_work=4.0)})  # nobody stands in its way
    copy, = saved.iterdir()
    with closing(open_reader(str(copy))) as reader:
        assert reader.totals()["rig7"].accepted == 20


def test_there_are_two_ways_to_back_up():
    assert len(BACKUPS) == 2
