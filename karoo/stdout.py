"""Standard output as the commands print to it: whoever reads it may leave, and what cannot be written is no bug."""

from __future__ import annotations

import io
import os
from typing import TextIO


class NotPrinted(Exception):
    """What was to be printed cannot be written; the text says why."""


class Printed(io.TextIOWrapper):
    """Whatever the terminal can show of a text. A reader that leaves (`karoo ctl workers | head`) has the rest written
    to nowhere, so that the command ends as it would. ``write`` and ``flush`` raise NotPrinted for all other failures.
    """

    def __init__(self, stream: io.TextIOWrapper) -> None:
        super().__init__(stream.buffer, stream.encoding, "backslashreplace", line_buffering=stream.line_buffering,
                         write_through=stream.write_through)
        self._former = stream  # which would close the descriptor at its end

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as failure:
            self._lost(failure)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as failure:
            self._lost(failure)

    def _lost(self, failure: OSError) -> None:
        """What is still buffered must not fail once more at the exit."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        if not isinstance(failure, BrokenPipeError):
            raise NotPrinted(f"standard output: {failure.strerror or failure}") from failure


class Closed(io.TextIOBase):
    """In the place of one that was closed before the start (`>&-`): a command that prints nothing needs none."""

    def write(self, text: str) -> int:
        raise NotPrinted("standard output is closed")


def guarded(stream: TextIO | None) -> TextIO:
    """Standard output for the commands; a stream that is none of the system's stays as it is."""
    if stream is None:
        return Closed()  # type: ignore[return-value]
    return Printed(stream) if isinstance(stream, io.TextIOWrapper) else stream
