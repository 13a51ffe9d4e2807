"""What can be wrong with a ledger's file, in words that help."""

from __future__ import annotations

import os
import sqlite3

APPLICATION = 0x4B61726F  # tells this kind of file from any other database (PRAGMA application_id)
BUSY = 5.0  # seconds that another program may keep the file locked


class LedgerError(Exception):
    """The file cannot be used; the text names it, the cause and the cure. `damaged`: what is in it is of no use, and
    `set_aside` makes room for a new one."""

    def __init__(self, path: str, text: str, damaged: bool = False) -> None:
        super().__init__(f"{path}: {text}")
        self.path = path
        self.damaged = damaged


def check_place(path: str, new: bool) -> None:
    """Say plainly what SQLite would call "unable to open database file"."""
    directory = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(directory):
        raise LedgerError(path, f"the directory {directory} does not exist; make it, or name another file")
    if os.path.isdir(path):
        raise LedgerError(path, "is a directory; name a file in it")
    if not os.path.exists(path):
        if not new:
            raise LedgerError(path, "there is no such file; the proxy makes it when it starts: is this the right name?")
        if not os.access(directory, os.W_OK | os.X_OK):
            raise LedgerError(path, f"the directory {directory} may not be written; "
                                    "give it to the user that Karoo runs as")
    elif not os.access(path, os.R_OK):
        raise LedgerError(path, "may not be read; give it to the user that Karoo runs as")


# What SQLite says, and what it means: a part of its text, our sentence, whether the file is of no use.
_MEANINGS = (
    ("not a database", "is damaged, or no database at all; move it away, and a new one is begun", True),
    ("malformed", "is damaged; move it away, and a new one is begun", True),
    ("is full", "the disk is full; make room on it", False),
    ("readonly", "may not be written; give it and its directory to the user that Karoo runs as", False),
    ("unable to open", "cannot be opened; give it and its directory to the user that Karoo runs as", False),
    ("locked", f"another program has kept it locked for {BUSY:g} s; end that program", False),
    ("disk I/O", "the disk failed; see the system's log", False),
)


def explained(path: str, error: sqlite3.Error, opened: bool = True) -> LedgerError:
    """SQLite's error in words that help. (Its codes are not to be had in Python 3.10.)

    What cannot even be `opened` as ours and does not look like ours is another program's file, and not damaged.
    """
    text = str(error)
    for part, meaning, damaged in _MEANINGS:
        if part in text:
            if damaged and not opened and not is_ours(path):
                meaning, damaged = "is no database of Karoo's; name another file for the accounts", False
            return LedgerError(path, f"{meaning} ({text})", damaged)
    return LedgerError(path, text)


def is_ours(path: str) -> bool:
    """Whether a file begins as our databases do, so that it may be moved away when it is damaged.

    https://www.sqlite.org/fileformat.html: the header's text, and the application id in its bytes 68 to 71.
    """
    try:
        with open(path, "rb") as file:
            header = file.read(72)
    except OSError:
        return False
    return header[:16] == b"SQLite format 3\0" and header[68:72] == APPLICATION.to_bytes(4, "big")
