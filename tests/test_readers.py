"""Who looks at pages waits in one line, and shares go on meanwhile: turns of the loop are counted, not seconds."""

import gc
import http.client
import sys
from types import SimpleNamespace

import gevent
import pytest

from karoo import line as line_module
from karoo import readers
from karoo.accounting import summary
from karoo.accounting.account import Accounts
from karoo.proxy import workersview
from karoo.proxy.session import Session
from karoo.proxy.workersview import SESSION_SORTS, SORTS, WorkersView, pick_sessions
from karoo.web import asked
from karoo.web.status import Status
from tests.site import EASY

MANY = 10_000
CALLS = 2500  # of functions between two turns of the loop: half a millisecond; each thing of many takes two at least


class Turns:
    """Counts the loop's looks at its sockets. ``most`` is how many functions were called between two of them, by the
    greenlet that made it: what holds the loop, told without a clock."""

    def __init__(self):
        self.count = self.most = self._calls = 0
        self._watcher = gevent.get_hub().loop.check()

    def __enter__(self):
        self._watcher.start(self._look)
        sys.setprofile(self._called)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)
        self._watcher.stop()
        self._watcher.close()

    def _look(self):
        self.count += 1
        self._calls = 0

    def _called(self, _frame, event, _what):
        if event in ("call", "c_call"):
            self._calls += 1
            self.most = max(self.most, self._calls)


@pytest.fixture
def turns():
    with Turns() as turns:
        yield turns


def together(*work):
    """What each of some functions gives, run in a greenlet each."""
    greenlets = [gevent.spawn(*one) for one in work]
    gevent.joinall(greenlets, timeout=30, raise_error=True)
    assert all(one.ready() for one in greenlets), "somebody waits for ever"
    return [one.value for one in greenlets]


# ---------------------------------------------------------------- the line

def test_each_turn_of_the_loop_has_one_slice_of_one_reader(turns):
    slices = []

    def read(name):
        for _ in readers.paced(range(6), 1):
            slices.append((turns.count, name))
    together(*((read, name) for name in "abc"))
    later = [one for one in slices if one[0] != slices[0][0]]  # each begins without being in the line
    assert len({at for at, _ in later}) == len(later) >= 15
    assert [name for _, name in later] == list("abc" * 5), "first come, first served"


def test_who_leaves_the_line_does_not_hold_it_up():
    first, second, third = readers_in_line = [gevent.spawn(readers.turn) for _ in range(3)]
    gevent.sleep(0)
    second.kill()  # it waits
    first.kill()  # it has its turn
    third.get(timeout=5)
    gevent.spawn(readers.turn).get(timeout=5)
    assert all(one.dead for one in readers_in_line)


def test_who_goes_ahead_is_before_those_who_wait_and_behind_those_who_went_ahead_before():
    line, order = line_module.Line(), []

    def take(name, ahead):
        line.turn(ahead)
        order.append(name)
    greenlets = []
    for name, ahead in (("first", False), ("a", False), ("b", False), ("x", True), ("y", True)):
        greenlets.append(gevent.spawn(take, name, ahead))
        gevent.sleep(0)
    gevent.joinall(greenlets, timeout=5, raise_error=True)
    assert order == ["first", "x", "y", "a", "b"]
    gevent.spawn(line.turn).get(timeout=5)


@pytest.mark.parametrize("ended", range(4))
def test_whoever_is_ended_in_a_line_it_goes_on(ended):
    """Waiting, having its turn, or just about to have it."""
    line, order = line_module.Line(), []
    greenlets = [gevent.spawn(lambda n=n: (line.turn(n % 2 == 1), order.append(n))) for n in range(4)]
    gevent.sleep(0)
    line._pass_on()  # as if the first had had its turn: the next has it, and does not run yet
    greenlets[ended].kill()
    gevent.joinall(greenlets, timeout=5)
    assert set(order) == set(range(4)) - {ended}
    gevent.spawn(line.turn).get(timeout=5)


def test_readers_leave_time_to_the_loop(monkeypatch):
    """Else it never sleeps, and the system has it wait behind other programs."""
    rests, clock = [], iter(step / 10 * line_module.WORK for step in range(1000))
    monkeypatch.setattr(line_module, "thread_time", lambda: next(clock))
    monkeypatch.setattr(line_module, "pause", lambda: rests.append(0.0))
    monkeypatch.setattr(line_module, "gevent", SimpleNamespace(sleep=rests.append))
    line = line_module.Line()
    for _ in range(100):
        line.turn()
    assert 8 <= rests.count(line_module.REST) <= 10 and rests.count(0.0) + rests.count(line_module.REST) == 100


def test_requests_at_once_are_answered_in_turn(site, page, turns, monkeypatch):
    proxy = site.proxy(site.pool())
    server = page(proxy)
    answered = []
    monkeypatch.setattr(proxy.view, "not_ready", lambda: answered.append(turns.count) or "")

    def ask():
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("GET", "/readyz")
        assert connection.getresponse().status == 200
        connection.close()
    together(*[(ask,)] * 30)
    assert len(answered) == len(set(answered)) == 30


# ---------------------------------------------------------------- ten thousand workers

class OneOfMany:
    """As much of a session as pages look at."""

    snapshot = Session.snapshot

    def __init__(self, number, account):
        self.number = number
        self.accepted = self.rejected = number % 7
        self.agent, self.prefix, self.mask, self.takes_extranonce = "test/1", b"", 0, False
        self.upstream_user, self.gone, self.route = "w", False, None
        self.conn = SimpleNamespace(peer=f"10.0.0.1:{number}", opened_at=0.0, last_heard=0.0, backlog_bytes=number)
        self.tuner = SimpleNamespace(difficulty=float(number))
        self.house = SimpleNamespace(entrance=":3333")
        self.workers = {account.name: SimpleNamespace(account=account)}

    worker_name = property(lambda self: next(iter(self.workers)))


@pytest.fixture(scope="module")
def crowd():
    """Accounts with shares of MANY workers, and a session of each."""
    accounts = Accounts(0.0, 1_700_000_000.0)
    sessions = {}
    for number in range(MANY):
        account = accounts.join(f"rig{number * 7919 % MANY}", 1.0)
        accounts.answered_here(account, 1.0 + number % 13, 2.0)
        sessions[number] = OneOfMany(number, account)
    for _ in accounts.fold(1_700_000_000.0, 1_700_000_060.0, 1_700_000_000.0):
        pass
    return accounts, sessions


@pytest.fixture
def view(crowd):
    return WorkersView(*crowd)


@pytest.mark.parametrize("sort", SORTS)
def test_a_page_of_many_workers_is_made_in_slices(view, turns, sort):
    total, rows = view.page(sort, True, "", "", MANY - 300, 100)
    assert (total, len(rows)) == (MANY, 100)
    assert turns.most < CALLS < MANY < turns.count * CALLS


@pytest.mark.parametrize(("text", "state", "found"), [("nobody has this", "", 0), ("RIG77", "", 111), ("", "past", 0)])
def test_a_search_among_many_workers_is_made_in_slices(view, turns, text, state, found):
    assert view.page("name", False, text, state, 0, 100)[0] == found
    assert turns.most < CALLS


@pytest.mark.parametrize("sort", SESSION_SORTS)
def test_a_page_of_many_sessions_is_made_in_slices(crowd, turns, sort):
    total, picked = pick_sessions(crowd[1], sort, False, "", "", 9900, 100)
    rows = list(picked)
    assert (total, len(rows)) == (MANY, 100)
    total, picked = pick_sessions(crowd[1], sort, False, "nobody has this", "", 0, 100)
    assert (total, list(picked)) == (0, [])
    assert turns.most < CALLS


def test_what_is_summed_over_many_is_summed_in_slices(view, turns):
    assert sum(view.states().values()) == MANY
    named, rest = view.strongest(500)
    assert len(named) == 500 and rest["accepted"] == MANY - 500
    assert turns.most < CALLS


def test_news_of_many_are_summed_in_slices():
    accounts = Accounts(0.0, 0.0)
    for number in range(MANY):
        accounts.answered_here(accounts.join(f"rig{number}", 1.0), 1.0, 2.0)
    with Turns() as turns:
        assert summary.totals(accounts, 3.0, readers.paced)["accepted"] == MANY
    assert turns.most < MANY + CALLS, "the parts are listed in one go, so that they are of one moment"
    assert turns.count > 50


def test_a_status_of_many_is_built_and_sent_in_slices(site):
    proxy = site.proxy(site.pool())
    clients = [{"diff": 1.0, "ip": "10.0.0.1:1", "agent": "x" * 300}] * MANY
    status = Status(proxy.snapshot, lambda: iter(clients), lambda: iter(clients), lambda: proxy.settings)
    with Turns() as turns:
        sizes, sent_in = [], set()
        for piece in status.pieces():
            sizes.append(len(piece))
            sent_in.add(turns.count)
    assert turns.most < CALLS
    assert sum(sizes) > 2 * MANY * 300 and max(sizes) < 100_000
    assert len(sent_in) > len(sizes) - 10, "but for what stands around the lists, a turn for each"


def test_rows_are_written_as_json_in_slices(turns):
    row = {"name": "</script>", "trend": [1.5e12] * 24}
    assert asked.listed(asked.Page(100, 0), 500, [row] * 100).get_json() == {
        "total": 500, "limit": 100, "offset": 0, "items": [row] * 100}
    assert turns.count >= 4, "a turn for every 25"
    assert asked.listed(asked.Page(100, 0), 0, []).get_json()["items"] == []


def test_pages_are_made_one_after_the_other(view, monkeypatch):
    """Each holds a megabyte meanwhile."""
    walks, most = [], []
    pick = workersview.page

    def watched(*arguments):
        walks.append(1)
        most.append(len(walks))
        try:
            return pick(*arguments)
        finally:
            walks.pop()
    monkeypatch.setattr(workersview, "page", watched)
    together(*((view.page, sort, False, "", "", 0, 10) for sort in SORTS))
    assert most == [1] * len(SORTS)


def test_who_asks_while_the_states_are_counted_waits_for_the_new_ones(view):
    assert [sum(states.values()) for states in together(*[(view.states,)] * 3)] == [MANY] * 3


def test_a_page_leaves_the_collector_of_garbage_alone(view):
    """Ten thousand of what it counts would have it begin ten times, and every few seconds look through the process."""
    view.states()
    begun = []

    def note(phase, _):
        begun.append(phase)
    thresholds = gc.get_threshold()
    gc.collect()
    gc.set_threshold(1000, 1000, 1000)
    gc.callbacks.append(note)
    try:
        view.page("hashrate_1h", True, "", "", 0, 100)
        view._gathered_at = 0.0
        view.states()
    finally:
        gc.callbacks.remove(note)
        gc.set_threshold(*thresholds)
    assert begun.count("start") <= 3


def test_a_worker_with_several_sessions_has_all_of_them(crowd):
    accounts, sessions = crowd
    account = accounts.workers["rig5"]
    more = {MANY + number: OneOfMany(MANY + number, account) for number in range(3)}
    view = WorkersView(accounts, {**sessions, **more})
    found = view.sessions_of("rig5")
    assert len(found) == 4 and found[1:] == list(more.values()) and found[0].worker_name == "rig5"
    assert view.row(account, 1_700_000_000.0)["difficulty"] == MANY + 2
    assert len(view.sessions_of("rig6")) == 1 and view.sessions_of("nobody") == []


def test_a_share_is_answered_while_pages_are_made(site, view):
    """End to end: the proxy's loop is this one."""
    proxy = site.proxy(site.pool(), vardiff={"start_diff": EASY, "min_diff": 1e-12})
    miner = site.miner(proxy)
    share = miner.find_share()
    made = []

    def submit():
        assert miner.submit(share) is True
        assert len(made) < len(SORTS), "the pages were not under way any more"
    together((submit,), *((lambda sort=sort: made.append(view.page(sort, False, "", "", 0, 100)),) for sort in SORTS))
    assert len(made) == len(SORTS)
