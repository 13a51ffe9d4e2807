"""The documentation: its examples are configurations, its links lead somewhere."""

import re
import textwrap
from pathlib import Path

import pytest
import yaml

from karoo.config import loads

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")),
         *sorted((ROOT / "examples").glob("*/README.md"))]
SECTIONS = {"proxy", "listeners", "upstream", "backups", "http", "metrics", "vardiff", "shares", "ratelimit", "compat",
            "accounting", "log"}
BLOCK = re.compile(r"^( *)```yaml\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
               for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif "://" not in target:
            assert (page.parent / target.partition("#")[0]).exists(), target
