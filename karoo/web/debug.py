"""/debug/greenlets: what an operator sends along with a bug report. For requests from this machine only."""

from __future__ import annotations

import gc
import sys
import traceback
from collections import Counter

from flask import Flask, Response, abort, request
from greenlet import greenlet

MAX_STACKS = 200


def add_debug_page(app: Flask) -> None:
    """Add the page to an application."""
    @app.get("/debug/greenlets")
    def greenlets() -> Response:
        if request.remote_addr not in ("127.0.0.1", "::1"):
            abort(403)
        return Response(debug_text(), mimetype="text/plain; charset=utf-8")


def debug_text() -> str:
    """Counts of objects, and where every greenlet stands."""
    frozen = gc.get_freeze_count()
    if frozen:  # else what the proxy keeps out of the collector's sight is not among them
        gc.unfreeze()
    objects = gc.get_objects()
    if frozen:
        gc.collect(0)  # what is garbage now would be so for ever
        gc.freeze()
    kinds = Counter(type(one).__name__ for one in objects)
    stacks: Counter[str] = Counter()
    for one in objects:
        if isinstance(one, greenlet) and one and one.gr_frame is not None:
            stacks["".join(traceback.format_stack(one.gr_frame))] += 1
    stacks["".join(traceback.format_stack(sys._getframe()))] += 1
    lines = [f"{sum(stacks.values())} greenlets at {len(stacks)} places, {len(objects)} objects, "
             f"collections {gc.get_count()}", ""]
    lines += [f"{count:>8} {name}" for name, count in kinds.most_common(30)]
    for stack, count in stacks.most_common(MAX_STACKS):
        lines += ["", f"--- {count} greenlets", stack.rstrip()]
    return "\n".join(lines) + "\n"
