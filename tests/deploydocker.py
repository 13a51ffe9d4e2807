"""Reads a Dockerfile and carries out the steps of its first stage in a folder, as no image can be built in a test."""

import fnmatch
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

NEEDS_ROOT = ("apt-get ",)  # installs Debian's packages: whoever tests has them


def instructions(text):
    """[(word, rest)] of a Dockerfile, lines that go on put together."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [tuple(one.split(None, 1)) for one in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()]


def stages(found):
    """[(base, name, [(word, rest)])] of instructions."""
    parts = []
    for word, rest in found:
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            parts.append((base, name, []))
        elif parts:
            parts[-1][2].append((word, rest))
    return parts


def ignored(path, rules):
    """Whether .dockerignore leaves a file out: the last rule that fits it or a folder of its counts."""
    left_out = False
    for rule in rules:
        pattern = rule.lstrip("!")
        places = [str(one) for one in (path, *path.parents) if str(one) != "."]
        if pattern.startswith("**/"):
            fits = any(fnmatch.fnmatch(Path(one).name, pattern[3:]) for one in places)
        else:
            fits = any(fnmatch.fnmatch(one, pattern) for one in places)
        if fits:
            left_out = not rule.startswith("!")
    return left_out


def context(root, folder):
    """Copy to a folder what docker would be sent of a project."""
    rules = [line for line in (root / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    tops = [path for path in root.iterdir() if not path.name.startswith(".venv")]
    for top in tops:
        for path in [top] if top.is_file() else top.rglob("*") if not ignored(Path(top.name), rules) else ():
            inside = path.relative_to(root)
            if path.is_file() and not ignored(inside, rules):
                (folder / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, folder / inside)


def carry_out(steps, source, folder):
    """Do WORKDIR, COPY and RUN with the root of all paths moved to a folder; returns where /opt/karoo is then."""
    place, opt = folder, folder / "opt/karoo"
    opt.parent.mkdir()
    for word, rest in steps:
        if word == "WORKDIR":
            place = folder / rest.lstrip("/")
            place.mkdir(parents=True)
        elif word == "COPY":
            *froms, to = rest.split()
            for name in froms:
                target = place / to if not to.endswith("/") else place / to / name
                if (source / name).is_dir():
                    shutil.copytree(source / name, target)
                else:
                    shutil.copy2(source / name, target)
        elif word == "RUN":
            if rest.startswith(NEEDS_ROOT):
                continue
            command = rest.replace("/opt/karoo", str(opt)).replace("--no-cache-dir ", "")
            command = re.sub(r"^python ", f"{Path(sys.executable).resolve()} ", command)
            done = subprocess.run(["/bin/sh", "-c", command], check=False, cwd=place, capture_output=True, text=True,
                                  stdin=subprocess.DEVNULL, timeout=600)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        else:
            raise AssertionError(f"a step of the first stage that is not carried out here: {word}")
    return opt


def in_exec_form(rest):
    """The words of an instruction that starts no shell."""
    return json.loads(rest)
