"""The laws of the house: which part may import which. Walked in the sources, so that nothing need be loaded."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "karoo"

# The parts of the standard library that have no socket, no clock, no file and no log in them.
PURE = {"__future__", "abc", "array", "base64", "binascii", "bisect", "collections", "copy", "dataclasses", "enum",
        "fractions", "functools", "hashlib", "heapq", "ipaddress", "itertools", "json", "math", "operator", "random",
        "re", "string", "struct", "types", "typing", "unicodedata"}
# `random` and `hashlib` reach for the system's entropy; what they are given decides, and that is law enough.


def modules_of(root):
    """Every module under a package as {dotted name: source text}."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = (root.name, *path.relative_to(root).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


MODULES = modules_of(ROOT)


def imports_of(name, source, modules, packages):
    """What a module imports, wherever in it: dotted names, of modules where they are known, else as written.

    A relative import counts as the absolute one, `import_module("x")` and `__import__("x")` as `import x`; one
    whose name is computed is named `<computed>`, which no law allows.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = name.split(".") if name in packages else name.split(".")[:-1]
                here = here[:len(here) - node.level + 1]
                base = ".".join([*here, base] if base else here)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.add(whole if whole in modules else base)
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                told = node.args[0] if node.args else None
                found.add(told.value if isinstance(told, ast.Constant) else "<computed>")
    return found


def inside(module, package):
    return module == package or module.startswith(f"{package}.")


class Imports:
    """Who imports whom, straight or by way of others (the packages above an imported module are imported too)."""

    def __init__(self, modules):
        self.modules = modules
        packages = {name for name in modules if any(other.startswith(f"{name}.") for other in modules)}
        self.direct = {name: imports_of(name, source, modules, packages) for name, source in modules.items()}

    def reached(self, name):
        """Every module of ours that comes along with this one, itself not counted."""
        todo, done = set(self.direct[name]), set()
        while todo:
            module = todo.pop()
            for end in range(1, module.count(".") + 2):
                part = ".".join(module.split(".")[:end])
                if part in self.modules and part not in done:
                    done.add(part)
                    todo |= self.direct[part]
        return done - {name}

    def breaches_of_purity(self, package, allowed):
        """Imports in a pure package of anything but the allowed packages of ours and the pure standard library."""
        return [f"{name} imports {module}" for name in self.modules if inside(name, package)
                for module in sorted(self.direct[name])
                if not any(inside(module, ours) for ours in allowed) and module.split(".")[0] not in PURE]

    def breaches(self, package, forbidden):
        """Ways from a package to one of the forbidden ones, by however many steps."""
        return [f"{name} reaches {module}" for name in self.modules if inside(name, package)
                for module in sorted(self.reached(name)) if any(inside(module, far) for far in forbidden)]

    def outsiders(self, package, friends):
        """Modules that import a package and are none of its friends."""
        return [f"{name} imports {module}" for name in self.modules if not any(inside(name, one) for one in friends)
                for module in sorted(self.direct[name]) if inside(module, package)]


def laws(imports):
    """Every breach of every law, in words."""
    return [
        *imports.breaches_of_purity("karoo.stratum", ["karoo.stratum"]),
        *imports.breaches_of_purity("karoo.policy", ["karoo.policy", "karoo.stratum"]),
        *imports.breaches("karoo.net", ["karoo.stratum", "karoo.proxy", "karoo.policy"]),
        *imports.breaches("karoo.proxy.session", ["karoo.proxy.upstream"]),
        *imports.breaches("karoo.proxy.upstream", ["karoo.proxy.session"]),
        *imports.breaches("karoo.web", ["karoo.proxy", "karoo.accounting", "karoo.metrics"]),
        *imports.outsiders("karoo.sim", ["karoo.sim", "karoo.cli", "karoo.demo"]),
    ]


def test_the_house_keeps_its_laws():
    assert laws(Imports(MODULES)) == []


def test_the_walk_finds_the_house():
    """A law over no module would always hold."""
    for part in ("stratum", "policy", "net", "proxy", "web", "sim"):
        assert sum(inside(name, f"karoo.{part}") for name in MODULES) > 1, part
    assert {"karoo.proxy.session", "karoo.proxy.upstream", "karoo.cli", "karoo.demo"} <= MODULES.keys()
    imports = Imports(MODULES)
    assert "karoo.stratum.messages" in imports.direct["karoo.proxy.session"]
    assert "karoo.sim.options" in imports.direct["karoo.cli"], "imports inside functions count"


def test_the_allowed_part_of_the_standard_library_is_the_standard_library():
    assert PURE - sys.stdlib_module_names == set()
    assert not PURE & {"socket", "ssl", "select", "time", "datetime", "logging", "asyncio", "threading", "subprocess",
                       "os", "io", "sys", "pathlib", "secrets", "signal", "multiprocessing", "tempfile", "importlib"}


def house(**sources):
    """A made-up house that keeps every law, but for what is said here: `policy_x` is karoo/policy/x.py."""
    modules = {name: "" for name in MODULES if name.count(".") < 2}
    modules |= {f"karoo.{part}": "" for part in ("stratum.a", "policy.a", "net.a", "web.a", "sim.a", "proxy.session",
                                                 "proxy.upstream", "proxy.between", "metrics", "units")}
    return Imports(modules | {f"karoo.{name.replace('_', '.')}": source for name, source in sources.items()})


def test_a_lawful_house_is_not_blamed():
    assert laws(house(
        stratum_a="from __future__ import annotations\nimport json, re\nfrom collections.abc import Callable",
        policy_a="from karoo.stratum import a\nfrom . import a as me\nimport random",
        net_a="import socket, time\nfrom karoo import units\nimport gevent",
        proxy_session="from karoo.stratum import a\nfrom karoo.proxy import between",
        proxy_upstream="from karoo.proxy.between import thing",
        web_a="from karoo import config, log, units\nfrom karoo.net.a import b",
        cli="def run():\n    from karoo.sim import a",
        demo="import karoo.sim.a",
    )) == []


@pytest.mark.parametrize(("module", "source", "blamed"), [
    ("stratum_a", "import socket", "karoo.stratum.a imports socket"),
    ("stratum_a", "import json, time", "karoo.stratum.a imports time"),
    ("stratum_a", "from datetime import datetime", "karoo.stratum.a imports datetime"),
    ("stratum_a", "import logging.handlers", "karoo.stratum.a imports logging.handlers"),
    ("stratum_a", "import gevent", "karoo.stratum.a imports gevent"),
    ("stratum_a", "def f():\n    if True:\n        import os.path", "karoo.stratum.a imports os.path"),
    ("stratum_a", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from io import BytesIO",
     "karoo.stratum.a imports io"),
    ("stratum_a", "__import__('threading')", "karoo.stratum.a imports threading"),
    ("stratum_a", "import json\njson.importlib.import_module('sub' + 'process')", "karoo.stratum.a imports <computed>"),
    ("stratum_a", "from karoo.policy import a", "karoo.stratum.a imports karoo.policy.a"),
    ("stratum_a", "from ..policy.a import b", "karoo.stratum.a imports karoo.policy.a"),
    ("stratum_a", "from karoo import units", "karoo.stratum.a imports karoo.units"),
    ("policy_a", "from karoo.net.a import b", "karoo.policy.a imports karoo.net.a"),
    ("policy_a", "from asyncio import sleep", "karoo.policy.a imports asyncio"),
    ("policy", "import time", "karoo.policy imports time"),
    ("net_a", "from karoo.stratum.a import b", "karoo.net.a reaches karoo.stratum.a"),
    ("net_a", "from karoo import policy", "karoo.net.a reaches karoo.policy"),
    ("net_a", "import karoo.proxy.between", "karoo.net.a reaches karoo.proxy.between"),
    ("proxy_session", "from karoo.proxy import upstream", "karoo.proxy.session reaches karoo.proxy.upstream"),
    ("proxy_session", "from .upstream import Upstream", "karoo.proxy.session reaches karoo.proxy.upstream"),
    ("proxy_upstream", "from karoo.proxy.session import Session", "karoo.proxy.upstream reaches karoo.proxy.session"),
    ("web_a", "from karoo.proxy.between import x", "karoo.web.a reaches karoo.proxy.between"),
    ("web_a", "def f():\n    from karoo import metrics", "karoo.web.a reaches karoo.metrics"),
    ("web_a", "from karoo.accounting import Account", "karoo.web.a reaches karoo.accounting"),
    ("log", "import karoo.sim.a", "karoo.log imports karoo.sim.a"),
    ("proxy_between", "from ..sim import a", "karoo.proxy.between imports karoo.sim.a"),
])
def test_the_walk_sees_each_breach(module, source, blamed):
    assert blamed in laws(house(**{module: source}))


def test_the_walk_sees_a_breach_by_way_of_another_module():
    found = laws(house(proxy_session="from karoo.proxy import between", proxy_between="from . import upstream",
                       web_a="from karoo import units", units="import karoo.metrics"))
    assert found == ["karoo.proxy.session reaches karoo.proxy.upstream", "karoo.web.a reaches karoo.metrics"]
