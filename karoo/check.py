"""`karoo check`: are the files of a configuration what they should be? With `--connect`, what `karoo doctor` does about
the pools."""

from __future__ import annotations

from karoo import config
from karoo.doctor import pools, poolwords, words
from karoo.doctor.examine import DEADLINE
from karoo.doctor.findings import Section
from karoo.proxy.waysin import check_pools, securities


def load_files(settings: config.Config) -> None:
    """Look whether the files that the configuration names hold what they should. Raises TlsError."""
    securities(settings)
    check_pools(settings)


def check_pool(pool: config.Upstream, algorithm: str, report: list[str]) -> bool:
    """Connect to a pool up to its first job; lines for people go to `report`. Whether miners could work there."""
    facts = pools.look(pool, DEADLINE)
    section = Section("pool", poolwords.title(pool, facts.user))
    poolwords.tell(section, facts, algorithm, 1)
    report += words.section_lines(section)
    return section.well
