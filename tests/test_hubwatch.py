"""The watchdog of the event loop: what blocks it is shown, counted, and told past it when it hangs."""

import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import gevent
import pytest
from gevent import monkey

from karoo import hubwatch
from karoo import log as logs
from karoo.hubwatch import HubWatch
from tests.test_log import lines_of, root

__all__ = ["root"]  # a fixture

really_sleep = monkey.get_original("time", "sleep")
SECONDS = 20


def wait_until(holds, what):
    with gevent.Timeout(SECONDS, AssertionError(f"not within {SECONDS} s: {what}")):
        while not holds():
            gevent.sleep(0.01)


@pytest.fixture
def stream(root):
    stream = io.StringIO()
    logs.setup("info", "json", stream)
    return stream


@pytest.fixture
def watch():
    made = []

    def make(limit_ms, **options):
        made.append(HubWatch(**options))
        made[-1].start(limit_ms)
        return made[-1]
    yield make
    for one in made:
        one.stop()


def threads():
    """Of the system's, by their numbers."""
    return set(os.listdir("/proc/self/task"))


def a_very_slow_function(seconds):
    really_sleep(seconds)


def a_function_that_computes(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def block_in_greenlet(function, seconds):
    gevent.spawn(function, seconds).join()


def test_a_block_is_reported_once_with_its_stack_and_length(watch, stream):
    one = watch(100)
    block_in_greenlet(a_very_slow_function, 0.6)
    wait_until(lambda: one.blocks, "the block is counted")
    wait_until(lambda: lines_of(stream), "the block is logged")
    lines = lines_of(stream)
    assert len(lines) == 1 and lines[0]["level"] == "warning" and lines[0]["logger"] == "karoo.hubwatch"
    assert "in a_very_slow_function" in lines[0]["stack"] and "really_sleep(seconds)" in lines[0]["stack"]
    assert lines[0]["stack"].splitlines()[-2].endswith("in a_very_slow_function"), "the innermost comes last"
    told, busy = map(float, re.search(r"for ([0-9.]+) s, for ([0-9.]+) s of which", lines[0]["message"]).groups())
    assert 0.6 - one._watch._period - 0.05 < told == pytest.approx(one.longest, abs=0.01) and busy < 0.3
    assert one.blocks == 1 and one.total == one.longest


def test_who_computes_is_told_from_who_waits(watch, stream):
    watch(100)
    block_in_greenlet(a_function_that_computes, 0.6)
    wait_until(lambda: lines_of(stream), "the block is logged")
    (line,) = lines_of(stream)
    assert "in a_function_that_computes" in line["stack"]
    told, busy = map(float, re.search(r"for ([0-9.]+) s, for ([0-9.]+) s of which", line["message"]).groups())
    assert 0 < busy <= told


def test_a_block_in_the_loop_itself_is_seen_too(watch, stream):
    watch(100)
    gevent.get_hub().loop.run_callback(a_very_slow_function, 0.5)
    wait_until(lambda: lines_of(stream), "the block is logged")
    assert "in a_very_slow_function" in lines_of(stream)[0]["stack"]


def test_few_reports_come_and_the_rest_is_counted(watch, stream):
    one = watch(50)
    for number in range(1, 4):
        block_in_greenlet(a_very_slow_function, 0.4)
        wait_until(lambda number=number: one.blocks == number, f"block {number}")
    assert one.total > one.longest
    one._reported_at -= hubwatch.REPORT_EVERY
    block_in_greenlet(a_very_slow_function, 0.4)
    wait_until(lambda: len(lines_of(stream)) == 2, "the second report")
    first, second = (line["message"] for line in lines_of(stream))
    assert "more times" not in first and "2 more times since the last such line" in second


def test_a_loop_that_turns_is_not_reported(watch, stream):
    one, ticks = watch(400), []
    original = one._watch._tick
    one._watch._timer.callback = lambda: (ticks.append(1), original())
    wait_until(lambda: len(ticks) >= 10, "ten ticks")
    assert not one.blocks and not lines_of(stream)


def test_a_hang_is_told_past_the_loop_to_standard_error_and_to_the_file(watch, root, tmp_path, capfd):
    path = tmp_path / "karoo.log"
    logs.setup_from(options(file=str(path)))
    watch(50, hangs_after=0.3)
    seen = []

    def hang():
        end = time.monotonic() + SECONDS
        while "hangs" not in (text := path.read_text()) and time.monotonic() < end:
            really_sleep(0.01)
        seen.append(text)
    gevent.spawn(hang).join()
    assert "in hang" in seen[0] and "the program hangs here:\n    File " in seen[0], "before the loop turned again"
    assert "in hang" in capfd.readouterr().err
    wait_until(lambda: "it was here:" in path.read_text(), "how long it took in all")
    assert path.read_text().count("hangs") == 1


def options(**values):
    from karoo.config import Log
    return Log(**values)


def test_a_hang_in_the_log_itself_comes_out(watch, root, capfd):
    """The thread takes none of the log's locks."""
    stream = io.StringIO()
    logs.setup("info", "text", stream)
    watch(50, hangs_after=0.2)
    handler = root.handlers[-1]

    class Slow:
        def take_lost(self):
            return 0

        def write(self, line):
            end = time.monotonic() + SECONDS
            while "hangs" not in stream.getvalue() and time.monotonic() < end:
                really_sleep(0.01)

        def urgent(self, line):
            stream.write(line.decode())

        def close(self, successor=None):
            pass
    handler.output = Slow()
    logging.getLogger("karoo.x").info("a line that the disk does not take")
    assert "in write" in stream.getvalue()


def test_the_watcher_is_a_real_thread_and_ends(watch):
    before, frames = threads(), set(sys._current_frames())
    one = watch(500)
    wait_until(lambda: len(threads() - before) == 1, "a thread of the system's")
    wait_until(lambda: len(set(sys._current_frames()) - frames) == 1, "which Python knows")
    one.stop()
    wait_until(lambda: not threads() - before, "it ends")
    assert not one.running


def test_the_limit_changes_while_it_runs(watch, stream):
    before = threads()
    one = watch(0)
    assert not one.running and not threads() - before
    one.start(100)
    assert one.running
    former = one._watch
    one.start(100)
    assert one._watch is former, "nothing changed"
    one.start(60_000)
    block_in_greenlet(a_very_slow_function, 0.4)
    one.start(100)
    assert not one.blocks
    block_in_greenlet(a_very_slow_function, 0.4)
    wait_until(lambda: one.blocks == 1, "the limit is the new one")
    one.start(0)
    wait_until(lambda: not threads() - before, "no thread stays")
    block_in_greenlet(a_very_slow_function, 0.3)
    assert one.blocks == 1 and one.longest > 0


def test_many_changes_leave_no_threads_and_no_descriptors(watch):
    before, open_before = threads(), len(os.listdir("/proc/self/fd"))
    one = watch(500)
    for number in range(100):
        one.start(100 + number)
    one.stop()
    one.stop()
    wait_until(lambda: not threads() - before, "no thread stays")
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_it_keeps_no_program_from_its_end():
    """A loop that has nothing to do ends, and so does the process, while it is watched."""
    code = ("from gevent import monkey; monkey.patch_all()\nimport gevent\nfrom karoo.hubwatch import HubWatch\n"
            "watch = HubWatch()\nwatch.start(100)\nassert gevent.wait(timeout=None)\nprint('over')")
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, timeout=60, text=True,
                          capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, "over\n"), done.stderr


def test_a_process_that_was_stopped_is_reported_without_a_culprit():
    code = ("from gevent import monkey; monkey.patch_all()\nimport gevent, os\nfrom karoo import log\n"
            "from karoo.hubwatch import HubWatch\nlog.setup('info', 'json')\nwatch = HubWatch()\nwatch.start(300)\n"
            "print('on', flush=True)\n"
            "while not watch.blocks: gevent.sleep(0.01)\ngevent.sleep(0.01)\nwatch.stop()\n")
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout.readline() == "on\n"
        process.send_signal(signal.SIGSTOP)
        gevent.sleep(1.0)  # the time that is reported
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    line = json.loads(err)
    assert float(re.search(r"for ([0-9.]+) s", line["message"])[1]) > 0.5
    assert float(re.search(r"for ([0-9.]+) s of which", line["message"])[1]) < 0.3


def test_a_tick_costs_nothing_to_speak_of(watch):
    one = watch(500)
    tick, count = one._watch._tick, 2000
    begun = time.thread_time()
    for _ in range(count):
        tick()
    assert (time.thread_time() - begun) / count < 100e-6, "8 a second: less than a thousandth of a core"
