"""The page in a real browser, over a proxy with miners at work."""

import json
from http.client import HTTPConnection
from time import time
from urllib.parse import urlsplit

import pytest
from flask import Response

from karoo.proxy.view import NoHistory, View
from karoo.web.live import Live
from tests.browser import Browser, needs_browser
from tests.site import EASY, POOL_DIFFICULTY

pytestmark = needs_browser

HOSTILE = "<img src=x onerror=document.title='owned'>"
TOKEN = "a-token-to-read-with"
NO_CURVES = "No curves are kept: set accounting.database in the configuration."
UNKNOWN = "\N{EN DASH}"
KEEP_PLOTS = """
    const made = (window.plots = []);
    let real;
    Object.defineProperty(window, "uPlot", {
        get: () => real,
        set: (plot) => (real = new Proxy(plot, {
            construct(target, given) { made.push(new target(...given)); return made.at(-1); },
        })),
    });"""


@pytest.fixture
def browser(site, page):  # which ends after the browser
    browser = Browser(site)
    try:
        yield browser
        assert browser.complaints() == []
    finally:
        browser.close()


@pytest.fixture
def farm(site, page, tmp_path):
    """A proxy with a ledger, its page, and miners by name."""
    def start(*names, **sections):
        proxy = site.proxy(site.pool(), vardiff={"start_diff": EASY, "min_diff": 1e-12},
                           accounting={"database": str(tmp_path / "karoo.db"), "flush_seconds": 0.5}, **sections)
        return proxy, page(proxy), {name: site.miner(proxy, user=f"a.{name}") for name in names}
    return start


def mine(miner, shares=1):
    for _ in range(shares):
        assert miner.submit(miner.find_share()) is True


def rows(browser, table="workers", key="worker"):
    return browser.script("return [...document.querySelectorAll(`table#${arguments[0]} tbody tr`)]"
                          ".map(row => row.dataset[arguments[1]])", table, key)


def asked(browser):
    """The paths under api/v1/ that were asked for since the last look."""
    messages = (json.loads(entry["message"])["message"] for entry in browser.driver.get_log("performance"))
    paths = (urlsplit(message["params"]["request"]["url"]).path for message in messages
             if message["method"] == "Network.requestWillBeSent")
    return [path.partition("/api/v1/")[2] for path in paths if "/api/v1/" in path]


def test_it_is_live_and_asks_nobody_else(browser, farm):
    _, server, miners = farm("rig")
    browser.open(server)
    browser.wait(lambda: browser.script("return !!document.querySelector('[data-live=live]')"), "the WebSocket")
    assert browser.text("[data-field=accepted]") == "0"
    mine(miners["rig"])
    browser.wait(lambda: browser.text("[data-field=accepted]") == "1", "the share on the page", timeout=5)
    assert "up" in browser.text("[data-field=pool-state]").lower()
    assert browser.text("[data-field=workers-online]").startswith("1")
    assert browser.hosts() == {f"127.0.0.1:{server.port}"}


def test_without_a_websocket_it_polls(browser, farm, monkeypatch):
    monkeypatch.setattr(Live, "answer", lambda self: Response(status=404))
    _, server, miners = farm("rig")
    browser.open(server)
    browser.wait(lambda: browser.script("return !!document.querySelector('[data-live=polling]')"), "polling")
    mine(miners["rig"])
    browser.wait(lambda: browser.text("[data-field=accepted]") == "1", "the share on the page")
    assert all("/live" in complaint for complaint in browser.complaints())


def test_with_no_miner_it_says_where_to_connect(browser, farm):
    proxy, server, _ = farm()
    browser.open(server)
    assert f"stratum+tcp://127.0.0.1:{proxy.listener.port}" in browser.text("body")
    told = View(proxy).summary()["stratum"]
    guide = browser.text(".guide")
    assert told["user_form"] in guide and told["password_form"] in guide and told["worker_hint"] in guide


def test_workers_are_sorted_and_searched(browser, farm):
    _, server, miners = farm("anna", "bert", "cleo")
    mine(miners["bert"], 3)
    mine(miners["cleo"])
    browser.open(server, "#/workers")
    browser.wait(lambda: len(rows(browser)) == 3, "three workers")
    browser.click("table#workers th[data-sort=name] button")
    browser.wait(lambda: rows(browser) in (["anna", "bert", "cleo"], ["cleo", "bert", "anna"]), "the order of names")
    first = rows(browser)
    browser.click("table#workers th[data-sort=name] button")
    browser.wait(lambda: rows(browser) == first[::-1], "the other order")
    assert browser.script("return document.querySelector('th[data-sort=name]').getAttribute('aria-sort')") in (
        "ascending", "descending")
    browser.type("input#search", "BER")
    browser.wait(lambda: rows(browser) == ["bert"], "what was searched")


def test_a_worker_has_a_page_with_its_shares_explained(browser, farm):
    _, server, miners = farm("rig")
    mine(miners["rig"])
    late = miners["rig"].find_share(at_most=POOL_DIFFICULTY)
    assert miners["rig"].submit(late) is True
    assert miners["rig"].submit(late) is not True
    browser.open(server, "#/workers")
    browser.wait(lambda: rows(browser) == ["rig"], "the worker")
    browser.click("table#workers tbody tr[data-worker] a")
    browser.wait(lambda: browser.text("section#worker"), "its page")
    assert browser.script("return document.querySelector('section#worker').dataset.name") == "rig"
    browser.wait(lambda: len(browser.texts("table#shares tbody tr")) == 3, "its shares")
    assert "same share" in browser.texts("table#shares tbody tr")[0]


def test_names_are_shown_as_text(browser, farm):
    _, server, miners = farm(HOSTILE)
    mine(miners[HOSTILE])
    for route in ("", "#/workers", "#/sessions", "#/events"):
        browser.open(server, route)
        browser.wait(lambda route=route: route not in ("#/workers", "#/sessions") or HOSTILE in browser.text("main"),
                     f"the name on {route}")
        assert browser.script("return document.querySelector('main img') === null")
        assert browser.script("return document.title") != "owned"
    browser.open(server, "#/workers")
    browser.wait(lambda: rows(browser) == [HOSTILE], "the worker")
    browser.click("table#workers tbody tr[data-worker] a")
    browser.wait(lambda: browser.script("return document.querySelector('section#worker')?.dataset.name") == HOSTILE,
                 "its page")


def test_dark_where_the_system_is_dark(browser, farm):
    _, server, _ = farm("rig")
    lightness = {}
    for scheme in ("light", "dark"):
        browser.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        browser.open(server)
        colour = browser.script("return getComputedStyle(document.body).backgroundColor")
        lightness[scheme] = sum(int(part) for part in colour.split("(")[1].rstrip(")").split(",")[:3])
    assert lightness["light"] > 600 and lightness["dark"] < 200


@pytest.mark.parametrize("route", ["", "#/workers", "#/workers/rig", "#/sessions", "#/pools", "#/bans", "#/events"])
def test_it_fits_a_phone(browser, farm, route):
    _, server, miners = farm("rig", "a-rig-with-a-name-that-goes-on-and-on-and-on-and-on-and-on-and-on")
    mine(miners["rig"])
    browser.open(server, route, width=390, height=844)
    browser.wait(lambda: browser.text("main"), "something to see")
    assert browser.script("return document.documentElement.scrollWidth") <= 390


def test_it_works_under_a_prefix_and_with_a_read_token(browser, farm):
    _, server, miners = farm("rig", http={"read_token": TOKEN})
    mine(miners["rig"])
    browser.open(server, ready=False)
    assert browser.script("return document.body.dataset.ready") is None
    show_token(browser, TOKEN)
    browser.open(server)
    browser.wait(lambda: browser.text("[data-field=accepted]") == "1", "the share on the page")
    browser.complaints()  # of the first try


def show_token(browser, token):
    browser.command("Network.enable")
    browser.command("Network.setExtraHTTPHeaders", headers={"Authorization": f"Bearer {token}"})


def test_it_works_with_the_token_in_its_address(browser, farm):
    _, server, miners = farm("rig", http={"read_token": TOKEN})
    mine(miners["rig"])
    browser.driver.get(f"http://anybody:{TOKEN}@127.0.0.1:{server.port}/#/workers")
    browser.wait(lambda: rows(browser) == ["rig"], "the worker")
    browser.wait(lambda: browser.script("return !!document.querySelector('[data-live=live]')"), "the WebSocket")
    browser.click("table#workers th[data-sort=name] button")
    browser.wait(lambda: "order=desc" in browser.script("return location.hash"), "the order in the address")


def test_a_page_whose_token_is_refused_says_so_and_asks_no_more(browser, farm, monkeypatch):
    monkeypatch.setattr(Live, "answer", lambda self: Response(status=404))
    _, server, _ = farm("rig", http={"read_token": TOKEN})
    show_token(browser, TOKEN)
    browser.open(server)
    assert [status(server, TOKEN[::-1]) for _ in range(11)] == [401] * 10 + [429]
    browser.wait(lambda: browser.text("[data-notice=access]"), "the notice")
    assert browser.text("[data-notice=access]").startswith("The token is wrong or was changed")
    asked(browser)
    browser.wait(lambda: browser.script("return !!document.querySelector('[data-live=offline]')"), "that it is old")
    assert asked(browser) == []
    browser.complaints()  # of what was refused


def status(server, token):
    """Of the answer to somebody who comes with this token."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request("GET", "/api/v1/summary", headers={"Authorization": f"Bearer {token}"})
    try:
        return connection.getresponse().status
    finally:
        connection.close()


def test_the_timeline_comes_in_one_request(browser, farm, monkeypatch):
    monkeypatch.setattr(Live, "answer", lambda self: Response(status=404))
    proxy, server, _ = farm("rig")
    browser.open(server)
    browser.wait(lambda: browser.text("#timeline li"), "the timeline")
    browser.wait(lambda: browser.script("return !!document.querySelector('[data-live=polling]')"), "polling")
    browser.wait(lambda: "Start" in browser.text("#timeline"), "the first events")
    assert asked(browser).count("events") == 1
    proxy.metrics.timeline.note("full", "there is no room")
    browser.wait(lambda: "there is no room" in browser.text("#timeline"), "the new event")
    assert asked(browser).count("events") == 1
    browser.complaints()  # of the WebSocket


@pytest.mark.parametrize("route", ["", "#/pools", "#/workers/rig"])
def test_without_a_ledger_no_curve_is_asked_for(browser, site, page, route):
    proxy = site.proxy(site.pool(), vardiff={"start_diff": EASY, "min_diff": 1e-12})
    server = page(proxy)
    mine(site.miner(proxy, user="a.rig"))
    browser.open(server, route)
    browser.wait(lambda: NO_CURVES in browser.text("main"), "that there are none")
    browser.wait(lambda: browser.script("return !!document.querySelector('[data-live=live]')"), "the WebSocket")
    assert "history" not in asked(browser)


def test_a_curve_that_cannot_be_had_says_so(browser, farm, monkeypatch):
    def broken(*_):
        raise NoHistory("the disk is gone")
    monkeypatch.setattr(View, "history", broken)
    _, server, miners = farm("rig")
    mine(miners["rig"])
    browser.open(server, "#/workers/rig")
    browser.wait(lambda: [text.endswith("The disk is gone") for text in browser.texts(".chart-fault")] == [True] * 3,
                 "the reason at each curve")
    assert all("history" in complaint for complaint in browser.complaints())


def test_a_lone_point_is_seen_and_the_time_axis_begins_with_it(browser, farm, monkeypatch):
    at = int(time()) - 7200
    monkeypatch.setattr(View, "history", lambda *_: (300, [(at, 1e12)]))
    _, server, _ = farm("rig")
    browser.command("Page.addScriptToEvaluateOnNewDocument", source=KEEP_PLOTS)
    browser.open(server)
    browser.wait(lambda: browser.script("return !!window.plots[0]?.ctx"), "the curve")
    browser.wait(lambda: browser.script(
        "const plot = plots[0], [x, y] = [plot.valToPos(arguments[0], 'x', true), plot.valToPos(1e12, 'y', true)];"
        "const copy = document.createElement('canvas').getContext('2d', { willReadFrequently: true });"
        "copy.drawImage(plot.ctx.canvas, x + 2, y, 1, 1, 0, 0, 1, 1);"
        "return copy.getImageData(0, 0, 1, 1).data[3] > 200", at), "the point")
    assert browser.script("return plots[0].scales.x.min") == at


@pytest.mark.parametrize("name", [".", "..", "/lead//x", "50%+?&#", "x" * 400])
def test_every_name_has_a_page(browser, farm, name):
    _, server, miners = farm(name)
    mine(miners[name])
    browser.open(server, "#/workers", width=390, height=844)
    browser.wait(lambda: rows(browser) == [name], "the worker")
    browser.click("table#workers tbody tr[data-worker] a")
    browser.wait(lambda: len(browser.texts("table#shares tbody tr")) == 1, "its share")
    assert browser.text("h1") == name
    assert browser.script("return document.querySelector('h1').clientHeight") <= 80


def test_a_ratio_of_few_paid_shares_is_not_told(browser, farm):
    _, server, _ = farm()
    browser.open(server)
    found = browser.driver.execute_async_script("""
        const [work, tell] = arguments;
        import("./static/js/views/rates.js").then(({ Rates }) => {
            const rates = new Rates(""), spans = (rate) => ({ "1m": rate, "15m": rate, "1h": rate, "24h": rate });
            rates.show({ hashrate: spans(2 ** 32), hashrate_paid: spans(2 ** 31) }, { work, difficulty: 10 });
            tell([...rates.element.querySelectorAll("td:last-child")].map((cell) => cell.textContent));
        });""", 4000)  # of a share of difficulty 10 each 10 s, 400 in the whole: 6, 90, 360, 400
    assert [text.replace("\xa0", " ") for text in found] == [UNKNOWN, "50.0 % ± 21 %", "50.0 % ± 11 %", "50.0 % ± 10 %"]


def test_bans_are_searched_and_sorted(browser, farm):
    proxy, server, _ = farm()
    for number, reason in ((1, "junk"), (3, "a flood"), (2, "junk")):
        proxy.control.ban(f"192.0.2.{number}", seconds=600, reason=reason)
    browser.open(server, "#/bans")
    browser.wait(lambda: len(rows(browser, "bans", "ban")) == 3, "the bans")
    for order in ([1, 2, 3], [3, 2, 1]):
        browser.click("table#bans th[data-sort=address] button")
        browser.wait(lambda order=order: rows(browser, "bans", "ban") == [f"192.0.2.{number}" for number in order],
                     f"the order {order}")
    browser.type("input#search", "FLOOD")
    browser.wait(lambda: rows(browser, "bans", "ban") == ["192.0.2.3"], "what was searched")


def test_what_makes_no_sense_in_the_address_is_passed_over(browser, farm):
    _, server, miners = farm("rig")
    mine(miners["rig"])
    browser.open(server, "#/workers?offset=250.7&state=bogus&sort=bogus&order=bogus")
    browser.wait(lambda: rows(browser) == ["rig"], "the worker")


def test_on_a_phone_any_order_can_be_reversed(browser, farm):
    _, server, miners = farm("anna", "bert")
    mine(miners["bert"], 2)
    mine(miners["anna"])
    browser.open(server, "#/workers", width=390, height=844)
    browser.script("const sorter = document.querySelector('.sorter select'); sorter.value = 'accepted';"
                   "sorter.dispatchEvent(new Event('change'))")
    browser.wait(lambda: rows(browser) == ["bert", "anna"], "the most shares first")
    browser.click(".sorter button")
    browser.wait(lambda: rows(browser) == ["anna", "bert"], "the fewest first")


def test_without_a_pool_nothing_is_made_up(browser, site, page):
    pool = site.pool()
    pool.stop()
    server = page(site.proxy(pool))
    browser.open(server)
    facts = dict(zip(browser.texts(".facts.rows dt"), browser.texts(".facts.rows dd"), strict=True))
    assert facts["Difficulty"] == facts["Network difficulty"] == facts["User"] == UNKNOWN
