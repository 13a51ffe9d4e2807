"""The page in a real browser, over a proxy with miners at work."""

import pytest
from flask import Response

from karoo.web.live import Live
from tests.browser import Browser, needs_browser
from tests.site import EASY, POOL_DIFFICULTY

pytestmark = needs_browser

HOSTILE = "<img src=x onerror=document.title='owned'>"


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


def rows(browser):
    return browser.script("return [...document.querySelectorAll('table#workers tbody tr[data-worker]')]"
                          ".map(row => row.dataset.worker)")


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
    _, server, miners = farm("rig", http={"read_token": "a-token-to-read-with"})
    mine(miners["rig"])
    browser.open(server, ready=False)
    assert browser.script("return document.body.dataset.ready") is None
    browser.command("Network.enable")
    browser.command("Network.setExtraHTTPHeaders", headers={"Authorization": "Bearer a-token-to-read-with"})
    browser.open(server)
    browser.wait(lambda: browser.text("[data-field=accepted]") == "1", "the share on the page")
    browser.complaints()  # of the first try
