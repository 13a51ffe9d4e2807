"""Where every greenlet and thread of the process stands, found in slices."""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from typing import Any

from gevent import monkey
from greenlet import getcurrent, greenlet

from karoo.readers import objects, turn

OBJECTS, STACKS = 5000, 5  # in a slice: half a millisecond
MOST = 200  # different places

_thread_id = monkey.get_original("_thread", "get_ident")


def stacks() -> list[dict[str, Any]]:
    """``kind`` (greenlet or thread), ``count`` of those at the same place, ``stack`` as in a traceback; the most
    frequent first, threads last. No values are in it."""
    found: Counter[str] = Counter()
    for number, one in enumerate(_greenlets(), 1):
        if one.gr_frame is not None:
            found["".join(traceback.format_stack(one.gr_frame))] += 1
        if number % STACKS == 0:
            turn()
    own = getcurrent()
    found["".join(traceback.format_stack(sys._getframe()))] += own is not None
    rows = [{"kind": "greenlet", "count": count, "stack": stack.rstrip()} for stack, count in found.most_common(MOST)]
    loop = _thread_id()
    for thread, frame in sys._current_frames().items():
        if thread != loop:
            rows.append({"kind": "thread", "count": 1, "stack": "".join(traceback.format_stack(frame)).rstrip()})
    return rows


def _greenlets() -> list[greenlet]:
    """Those that have begun, but for the running one."""
    everything, found = objects(), []
    while everything:
        found += [one for one in everything[-OBJECTS:] if isinstance(one, greenlet) and one.gr_frame is not None]
        del everything[-OBJECTS:]
        turn()
    return found
