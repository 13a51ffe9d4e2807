"""The log: floods of like lines are cut short and counted, passwords never show."""

import io
import json
import logging

import pytest

from karoo import log as logs
from karoo.logflood import BURST, MOST_KINDS, RATE, TELL_EVERY, FloodLimit


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def record(template="from %s", *args, level=logging.INFO, name="karoo.x"):
    return logging.LogRecord(name, level, "", 0, template, args, None)


@pytest.fixture
def clock():
    return Clock()


def test_a_flood_of_like_lines_is_shown_in_part_and_counted(clock):
    limit = FloodLimit(clock)
    shown = sum(limit.shows(record("from %s", number)) for number in range(1000))
    assert shown == BURST and not list(limit.counts()), "the count is told later"
    assert limit.shows(record("another %s", 1)) and limit.shows(record("from %s", 1, level=logging.WARNING))
    clock.now += TELL_EVERY
    told = list(limit.counts())
    assert [one.getMessage() for one in told] == [f"{1000 - BURST} more lines like this are not shown: from %s"]
    assert not list(limit.counts()), "each is told once"
    assert sum(limit.shows(record("from %s", number)) for number in range(1000)) == TELL_EVERY * RATE


def test_what_peers_say_makes_no_kinds_of_lines_and_tables_stay_bounded(clock):
    limit = FloodLimit(clock)
    for number in range(3 * MOST_KINDS):
        limit.shows(record(f"a template made of {number}"))
    assert len(limit._kinds) <= MOST_KINDS


def test_debug_lines_and_reports_are_never_limited(clock):
    limit = FloodLimit(clock)
    assert all(limit.shows(record(level=logging.DEBUG)) for _ in range(10 * BURST))
    report = record("report: %s", "rig7")
    report.report = {"worker": "rig7"}
    assert all(limit.shows(report) for _ in range(10 * BURST))


@pytest.fixture
def root():
    """The root logger, put back as it was."""
    logger = logging.getLogger()
    handlers, level = list(logger.handlers), logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_flood_in_the_real_log(root, form, monkeypatch):
    stream, now = io.StringIO(), Clock()
    monkeypatch.setattr(logs.time, "monotonic", now)
    logs.setup("info", form, stream)
    for number in range(500):
        logging.getLogger("karoo.door").info("%s turned away", f"10.0.0.{number}\x1b[2J")
    now.now += TELL_EVERY
    logging.getLogger("karoo.other").info("something else")
    lines = stream.getvalue().splitlines()
    assert len(lines) == BURST + 2 and "\x1b" not in stream.getvalue()
    words = [json.loads(line)["message"] if form == "json" else line for line in lines[-2:]]
    assert words[0].endswith("300 more lines like this are not shown: %s turned away")
    assert words[1].endswith("something else")


def test_at_the_level_debug_every_line_is_shown(root):
    stream = io.StringIO()
    logs.setup("debug", "text", stream)
    for _ in range(2 * BURST):
        logging.getLogger("karoo.door").info("again")
    assert len(stream.getvalue().splitlines()) == 2 * BURST


@pytest.mark.parametrize("line", [
    b'{"id":1,"method":"mining.authorize","params":["u","s3cret"]}',
    b'{"id":1,"method":"mining.auth\\u006frize","params":["u","s3cret"]}',
    b'{"id":1,"method":"mining.\\u0061uthorize","params":{"p":"s3cret"}}',
    b'{"id":1,"method":"mining.authorize","params":[],"x":"s3cret"',
    b'["authorize", "s3cret"]', b'{"params":["u","s3cret"],"method":"x.authorize"}\xff'])
def test_a_message_is_shown_without_its_password(line):
    assert "s3cret" not in logs.wire(line)


def test_other_messages_are_shown_as_they_came():
    line = b'{"id":1,"method":"mining.submit","params":["u","1"]}\n'
    assert logs.wire(line) == line.decode().rstrip()
    assert json.loads(logs.wire(b'{"id":"\\u00e9","method":"mining.ping"}'))["id"] == "é"


def lines_of(stream):
    """The objects of a JSON log."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]
