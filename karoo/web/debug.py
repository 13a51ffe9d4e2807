"""/debug/greenlets: what an operator sends along with a bug report. For requests from this machine only."""

from __future__ import annotations

import gc
import sys
import traceback
from collections import Counter

from flask import Flask, Response, abort, request
from greenlet import greenlet

from karoo.readers import objects

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
    everything = objects()
    kinds = Counter(type(one).__name__ for one in everything)
    stacks: Counter[str] = Counter()
    for one in everything:
        if isinstance(one, greenlet) and one and one.gr_frame is not None:
            stacks["".join(traceback.format_stack(one.gr_frame))] += 1
    stacks["".join(traceback.format_stack(sys._getframe()))] += 1
    lines = [f"{sum(stacks.values())} greenlets at {len(stacks)} places, {len(everything)} objects, "
             f"collections {gc.get_count()}", ""]
    lines += [f"{count:>8} {name}" for name, count in kinds.most_common(30)]
    for stack, count in stacks.most_common(MAX_STACKS):
        lines += ["", f"--- {count} greenlets", stack.rstrip()]
    return "\n".join(lines) + "\n"
