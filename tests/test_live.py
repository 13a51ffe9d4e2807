"""/live: everything first, then what changes, to every page at its own pace."""

import copy
import json
import logging
from contextlib import ExitStack
from time import monotonic

import gevent
import pytest
from flask import Flask
from gevent import socket
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from karoo.net.listener import listening_socket
from karoo.net.wsframes import Limits
from karoo.web import live as live_module
from karoo.web.live import Live, diff
from karoo.web.server import WebServer


def merge(state, delta):
    """As the page does it."""
    for key, value in delta.items():
        if isinstance(value, dict) and isinstance(state.get(key), dict):
            merge(state[key], value)
        else:
            state[key] = copy.deepcopy(value)
    return state


# Differences

plain = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False, allow_infinity=False) | st.text()
names = st.sampled_from("abcd") | st.text(max_size=3)
trees = st.recursive(plain | st.lists(plain, max_size=2), lambda inner: st.dictionaries(names, inner, max_size=4))
states = st.dictionaries(names, trees, max_size=4)


def keeps_all_keys(old, new):
    return old.keys() <= new.keys() and all(keeps_all_keys(old[key], new[key]) for key in old
                                            if isinstance(old[key], dict) and isinstance(new[key], dict))


def exactly(state):
    return json.dumps(state, sort_keys=True)


@given(states, states)
def test_merging_a_difference_gives_the_new_state(old, new):
    delta = diff(old, new)
    if delta is None:
        assert not keeps_all_keys(old, new)
    else:
        assert exactly(merge(copy.deepcopy(old), delta)) == exactly(new)


@given(states, st.data())
def test_a_state_that_only_gains_keys_always_has_a_difference(old, data):
    gained = data.draw(states)
    new = merge(copy.deepcopy(old), gained)
    delta = diff(old, new)
    assert exactly(merge(copy.deepcopy(old), delta)) == exactly(new)
    assert diff(new, copy.deepcopy(new)) == {}


def test_only_what_changed_is_in_a_difference():
    old = {"same": {"x": 1}, "pool": {"state": "up", "user": "w"}, "n": 1, "kind": 1, "gone": {"x": 1}, "list": [1]}
    new = {"same": {"x": 1}, "pool": {"state": "down", "user": "w"}, "n": 2, "kind": True, "gone": None, "list": [1],
           "more": {"y": {}}}
    assert diff(old, new) == {"pool": {"state": "down"}, "n": 2, "kind": True, "gone": None, "more": {"y": {}}}
    assert diff({"a": {"b": 1}}, {"a": {}}) is None and diff({"a": 1}, {}) is None


# Over the wire

class House:
    """A proxy that a test changes."""

    def __init__(self, monkeypatch, tick=0.02, **limits):
        monkeypatch.setattr(live_module, "TICK_SECONDS", tick)
        monkeypatch.setattr(live_module, "LIMITS", Limits(binary=False, max_frame=1024, **limits))
        self.state = {"last_event_id": 0, "n": 0, "pool": {"state": "up"}, "rejected_by_reason": {}}
        self.events = []
        self.summaries = self.asked = 0
        self.live = Live(self.summary, self.events_after)
        app = Flask("test")
        app.add_url_rule("/live", "live", self.live.answer, websocket=True)
        self.server = WebServer(listening_socket("127.0.0.1", 0), app)
        self.server.start()

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.server.port}/live"

    def summary(self):
        self.summaries += 1
        return copy.deepcopy(self.state)

    def events_after(self, number):
        self.asked += 1
        return [event for event in self.events if event["id"] > number]

    def happen(self, text):
        self.events.append({"id": len(self.events) + 1, "text": text})
        self.state["last_event_id"] = len(self.events)

    def wait(self, predicate):
        with gevent.Timeout(5):
            while not predicate():
                gevent.sleep(0.005)


@pytest.fixture
def house(monkeypatch, caplog):
    houses = []

    def build(**options):
        houses.append(House(monkeypatch, **options))
        return houses[-1]
    with caplog.at_level(logging.WARNING):
        yield build
    for one in houses:
        one.live.stop()
        one.server.stop()
        assert one.live.clients == 0 and one.live._ticker is None


class Page:
    """An open page: its state, and the events that it saw."""

    def __init__(self, client):
        self.client, self.state, self.events, self.kinds = client, None, [], []

    def read(self):
        message = json.loads(self.client.recv(5))
        self.kinds.append(message["type"])
        if message["type"] == "full":
            assert message.keys() == {"type", "summary"}
            self.state = message["summary"]
        else:
            merge(self.state, message["summary"])
            self.events += message["events"]
        return message

    def until(self, predicate):
        with gevent.Timeout(10):
            while not predicate():
                self.read()


def test_a_page_is_told_everything_and_then_what_changes(house, caplog):
    one = house()
    one.happen("before anybody looked")
    with connect(one.url) as client:
        page = Page(client)
        assert page.read() == {"type": "full", "summary": one.state}
        one.state["n"] = 1
        one.state["pool"]["state"] = None
        one.state["rejected_by_reason"]["</script>\ud83d\0'\""] = 2
        one.happen("seen")
        page.until(lambda: page.events)
        assert page.state == one.state
        page.read()
        assert page.events == [{"id": 2, "text": "seen"}] and set(page.kinds[1:]) == {"delta"}
        assert page.read() == {"type": "delta", "summary": {}, "events": []}
    assert not caplog.records


def test_an_event_that_comes_while_the_summary_is_made_is_told_once_and_not_lost(house):
    one = house()
    with connect(one.url) as client:
        page = Page(client)
        page.read()
        one.events.append({"id": 1, "text": "the summary does not know of it yet"})
        for _ in range(3):
            page.read()
        assert page.events == []
        one.state["last_event_id"] = 1
        page.until(lambda: page.events)
        for _ in range(3):
            page.read()
        assert [event["id"] for event in page.events] == [1]


def test_a_key_that_vanished_is_told_by_telling_everything(house):
    one = house()
    with connect(one.url) as client:
        page = Page(client)
        page.read()
        del one.state["n"]
        page.until(lambda: "n" not in page.state)
        assert page.kinds[-1] == "full" and "delta" in page.read().values()


def test_all_pages_cost_one_question_a_tick_and_nobody_costs_none(house):
    one = house()
    assert one.summaries == 0
    with ExitStack() as stack:
        pages = [Page(stack.enter_context(connect(one.url))) for _ in range(8)]
        for page in pages:
            page.until(lambda page=page: len(page.kinds) == 5)
            assert page.kinds == ["full"] + ["delta"] * 4
        asked = one.summaries
        one.state["n"] = 7
        for page in pages:
            page.until(lambda page=page: page.state["n"] == 7)
            assert page.state == one.state
        received = max(len(page.kinds) for page in pages)
        assert asked < 8 * 5 and received <= one.summaries
    one.wait(lambda: one.live._ticker is None)
    summaries, asked = one.summaries, one.asked
    gevent.sleep(0.1)  # nothing happens that could be waited for
    assert (one.summaries, one.asked, one.live.clients) == (summaries, asked, 0)
    with connect(one.url) as client:
        assert Page(client).read()["type"] == "full"


def test_a_page_that_does_not_read_is_dropped_and_the_others_do_not_notice(house):
    one = house(write_seconds=0.5)
    with connect(one.url) as client, socket.create_connection(("127.0.0.1", one.server.port)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                     b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        page = Page(client)
        page.read()
        one.wait(lambda: one.live.clients == 2)
        longest, began, number = 0.0, monotonic(), 0
        while one.live.clients == 2:
            assert monotonic() - began < 10
            number += 1
            one.state["n"] = f"{number}{'x' * 200_000}"
            before = monotonic()
            page.until(lambda: page.state["n"] == one.state["n"])
            longest = max(longest, monotonic() - before)
        assert monotonic() - began >= 0.5 and longest < 0.4
        assert page.kinds.count("full") == 1


def test_a_page_that_fell_behind_is_told_everything_again(house):
    one = house(max_backlog=1 << 24)
    with connect(one.url, max_size=None, max_queue=1) as client:
        page = Page(client)
        page.read()
        (state,) = one.live._clients
        for number in range(1000):  # until nothing more goes into the sockets' own buffers
            if state.behind:
                break
            one.state["n"] = f"{number}{'x' * 500_000}"
            gevent.sleep(0.03)
        page.until(lambda: page.kinds.count("full") == 2)
        page.until(lambda: page.state == one.state)
        assert not state.behind


def test_there_is_a_bound_to_pages(house, monkeypatch):
    monkeypatch.setattr(live_module, "MAX_CLIENTS", 3)
    one = house()
    with ExitStack() as stack:
        pages = [Page(stack.enter_context(connect(one.url))) for _ in range(3)]
        for page in pages:
            page.read()
        with connect(one.url) as further, pytest.raises(ConnectionClosed) as closed:
            further.recv(5)
        assert closed.value.rcvd.code == 1013 and one.live.clients == 3
        pages[0].client.close()
        one.wait(lambda: one.live.clients == 2)
        assert Page(stack.enter_context(connect(one.url))).read()["type"] == "full"


def test_a_page_that_says_something_is_closed(house):
    one = house()
    with connect(one.url) as client:
        client.send("hello")
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                client.recv(5)
        assert closed.value.rcvd.code == 1008


def test_stopping_closes_every_page_at_once_and_whoever_comes_later(house):
    one = house(tick=60)
    with connect(one.url) as first, connect(one.url) as second:
        for client in (first, second):
            assert Page(client).read()["type"] == "full"
        began = monotonic()
        one.live.stop()
        for client in (first, second):
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(5)
            assert closed.value.rcvd.code == 1001
        assert monotonic() - began < 1
        with connect(one.url) as late, pytest.raises(ConnectionClosed) as closed:
            late.recv(5)
        assert closed.value.rcvd.code == 1001
        one.wait(lambda: one.live.clients == 0)


def test_a_bug_in_the_figures_closes_the_pages_and_is_logged(house, caplog):
    one = house()
    with connect(one.url) as client:
        page = Page(client)
        page.read()
        one.state["n"] = float("nan")
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                page.read()
        assert closed.value.rcvd.code == 1011
    one.wait(lambda: one.live.clients == 0)
    assert [record.exc_info[0] for record in caplog.records] == [OverflowError]
    one.state["n"] = 1
    with connect(one.url) as client:
        assert Page(client).read()["summary"]["n"] == 1
