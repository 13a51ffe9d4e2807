"""What commands print."""

from __future__ import annotations

import os
import sys


class NotShown(Exception):
    """Standard output does not take what is printed; the text says why, and is empty where who read it has enough, as
    in `karoo ctl workers | head`."""


def show(text: str) -> None:
    """Print lines, whatever the terminal can show of them. Raises NotShown."""
    try:
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except OSError as failure:
        # What is still buffered must not fail once more at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        why = "" if isinstance(failure, BrokenPipeError) else failure.strerror or str(failure)
        raise NotShown(why) from None
