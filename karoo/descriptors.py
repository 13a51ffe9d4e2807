"""The limit of open files: raised as far as the system lets us, and what it leaves for miners."""

from __future__ import annotations

import logging
import os
import resource

log = logging.getLogger("karoo")

RESERVED = 128  # for pools, pages, the accounts, logs, and connections that are just turned away


def raise_limit() -> None:
    """Use all the descriptors that the system lets this process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as failure:  # a container may forbid what it promises
            log.warning("the limit of open files stays %d: raising it to %d failed: %s", soft, hard, failure)


def room() -> int | None:
    """How many miners the limit leaves room for, each of which takes one; None for any number."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else max(1, soft - RESERVED)


def used() -> tuple[int, int | None]:
    """Files that this process has open, and how many it may (None: any number)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = None if soft == resource.RLIM_INFINITY else soft
    try:
        # Linux tells the number from 6.2 on (https://git.kernel.org/linus/f1f1f2569901). To list 10,000 takes 6 ms.
        return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd")), limit
    except OSError:  # no Linux
        return 0, limit
