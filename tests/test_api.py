"""/api/v1 over a proxy with miners at work: what it tells is what the miners and the pool saw, and commands do it."""

import http.client
import json
from contextlib import closing
from urllib.parse import quote

import pytest

from karoo import timeline
from karoo.accounting import recent
from karoo.proxy import workersview
from tests.site import EASY, POOL_DIFFICULTY

TOKEN = "a-token-of-sixteen-signs"
HOSTILE = "<script>alert(1)</script>/x"


class Api:
    """Asks a server."""

    def __init__(self, server):
        self.port = server.port

    def ask(self, method, path, body=None, token=None):
        """Status and what the answer says."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            if body is not None:
                headers["Content-Type"] = "application/json"
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            return answer.status, json.loads(text) if "json" in answer.headers["Content-Type"] else text

    def get(self, path):
        status, found = self.ask("GET", f"/api/v1/{path}")
        assert status == 200, found
        return found

    def refused(self, path):
        status, found = self.ask("GET", f"/api/v1/{path}")
        assert set(found) == {"error"}
        return status, found["error"]["message"]

    def do(self, command, **members):
        return self.ask("POST", f"/api/v1/commands/{command}", members, TOKEN)


@pytest.fixture
def farm(site, page):
    """A proxy, its pool, and an Api over it."""
    def start(pools=1, **sections):
        found = [site.pool(difficulty=POOL_DIFFICULTY) for _ in range(pools)]
        sections["http"] = {"token": TOKEN, **sections.get("http", {})}
        proxy = site.proxy(*found, vardiff={"start_diff": EASY, "min_diff": 1e-12}, **sections)
        return proxy, found, Api(page(proxy))
    return start


# ---------------------------------------------------------------- what it tells

def test_a_summary_tells_what_happened(site, farm, monkeypatch):
    proxy, _, api = farm()
    empty = api.get("summary")
    assert empty["pool"]["state"] == "idle" and empty["workers"] == dict.fromkeys(workersview.STATES, 0)
    assert empty["stratum"]["addresses"] == [f"stratum+tcp://127.0.0.1:{proxy.listener.port}"]
    miner = site.miner(proxy, user="a.rig")
    assert miner.submit(miner.find_share(at_most=POOL_DIFFICULTY)) is True
    assert miner.submit(miner.find_share(POOL_DIFFICULTY)) is True
    stale = ["a.rig", "no such job", "00000000", "00000000", "00000000"]
    assert miner.answer(miner.request_async("mining.submit", stale)).error[0] == 21
    found = proxy.view.summary()
    assert (found["shares"]["accepted"], found["shares"]["rejected_by_reason"]) == (2, {"stale": 1})
    assert (found["shares"]["below_pool"], found["shares"]["pool_accepted"]) == (1, 1)
    assert found["difficulty"]["pool_accepted"] == POOL_DIFFICULTY
    pool = found["pool"]
    assert (pool["state"], pool["is_backup"], pool["difficulty"]) == ("up", False, POOL_DIFFICULTY)
    assert found["last_event_id"] == proxy.metrics.timeline.last_id > 0


def test_workers_are_sorted_searched_and_paged(site, farm):
    proxy, _, api = farm()
    miners = {name: site.miner(proxy, user=f"a.{name}") for name in ("Zoe", "anna", HOSTILE, "mid")}
    for name, shares in (("anna", 3), ("mid", 1)):
        for _ in range(shares):
            assert miners[name].submit(miners[name].find_share()) is True
    found = api.get("workers?sort=name&order=asc")
    assert [one["name"] for one in found["items"]] == [HOSTILE, "anna", "mid", "Zoe"]
    assert [one["name"] for one in api.get("workers?sort=accepted&limit=2")["items"]] == ["anna", "mid"]
    second = api.get("workers?sort=accepted&limit=1&offset=1")
    assert (second["total"], [one["name"] for one in second["items"]]) == (4, ["mid"])
    assert [one["name"] for one in api.get("workers?q=SCRIPT%3E")["items"]] == [HOSTILE]
    assert api.get("workers?q=scripted/1.0")["total"] == 4  # the device
    assert api.get("workers?state=online")["total"] == 4 and api.get("workers?state=gone")["total"] == 0
    one = api.get(f"workers/{quote(HOSTILE, safe='')}")
    assert (one["name"], one["state"], one["device"], one["recent_shares"]) == (HOSTILE, "online", "scripted/1.0", [])
    assert [session["worker"] for session in one["session_items"]] == [HOSTILE]
    assert len(one["trend"]) == 24


@pytest.mark.parametrize("sort", workersview.SORTS)
def test_every_order_of_the_workers_holds(site, farm, sort):
    proxy, _, api = farm()
    miners = [site.miner(proxy, user=f"a.rig{number}") for number in range(3)]
    assert miners[1].submit(miners[1].find_share()) is True
    up, down = (api.get(f"workers?sort={sort}&order={order}")["items"] for order in ("asc", "desc"))
    keys = {"last_share": lambda one: -(one["seconds_since_share"] or 1e9), "name": lambda one: one["name"],
            "device": lambda one: one["device"], "difficulty": lambda one: one["difficulty"] or 0,
            "state": lambda one: workersview.STATES.index(one["state"])}
    key = keys.get(sort) or (
        (lambda one: one["hashrate"][sort.partition("_")[2]]) if sort.startswith("hashrate") else lambda one: one[sort])
    assert sorted(map(key, up)) == list(map(key, up)) and sorted(map(key, down), reverse=True) == list(map(key, down))


def test_what_one_worker_uses_is_known_at_once(site, farm):
    proxy, _, api = farm()
    site.miner(proxy, user="a.rig")
    one = api.get("workers/rig")
    assert one["device"] == "scripted/1.0" and one["difficulty"] == one["session_items"][0]["difficulty"] > 0


def test_states_follow_shares_and_connections(site, farm, monkeypatch):
    proxy, _, api = farm()
    miner, quiet = site.miner(proxy, user="a.rig"), site.miner(proxy, user="a.quiet")
    assert miner.submit(miner.find_share()) is True
    assert api.get("workers/rig")["state"] == "online"
    monkeypatch.setattr(workersview, "SILENT_AFTER", 0.0)
    assert api.get("workers/rig")["state"] == "silent"
    assert quiet.submit(quiet.find_share()) is True
    for one in (miner, quiet):
        one.close()
    site.wait(lambda: not proxy.sessions)
    assert api.get("workers/rig")["state"] == "gone"
    monkeypatch.setattr(workersview, "PAST_AFTER", 0.0)
    assert api.get("workers/rig")["state"] == "past"
    assert api.get("workers/rig")["session_items"] == []


def test_a_worker_s_last_shares_are_explained(site, farm):
    proxy, (pool,), api = farm()
    miner = site.miner(proxy, user="a.rig")
    here = miner.find_share(at_most=POOL_DIFFICULTY)
    assert miner.submit(here) is True
    assert miner.submit(here) is not True  # a duplicate
    assert miner.submit(miner.find_share(POOL_DIFFICULTY)) is True
    pool.options.strict_difficulty = True
    pool.set_difficulty(1e9, then_job=False)
    assert miner.submit(miner.find_share(POOL_DIFFICULTY)) is not True
    shares = api.get("workers/rig")["recent_shares"]
    assert [(one["verdict"], one["by"], one["reason"], one["words"]) for one in shares] == [
        ("rejected", "pool", "pool: 23", shares[0]["words"]), ("accepted", "pool", "", ""),
        ("rejected", "proxy", "duplicate", ""), ("accepted", "proxy", "", "")]
    assert "ifficulty" in shares[0]["words"]
    assert all(one["job"] == miner.job.notify.job_id for one in shares)
    assert shares[0]["difficulty"] >= shares[0]["needed"] == POOL_DIFFICULTY
    assert shares[3]["needed"] == EASY and EASY <= shares[3]["difficulty"] < POOL_DIFFICULTY
    assert shares[1]["latency_ms"] > 0 and shares[3]["latency_ms"] is None
    assert len(shares) < recent.KEPT


def test_sessions_pools_bans_and_events(site, farm):
    proxy, pools, api = farm(pools=2, upstream={"failback_after_seconds": 0.2})
    miner = site.miner(proxy, user="a.rig")
    (session,) = api.get("sessions")["items"]
    assert api.get(f"sessions/{session['id']}")["worker"] == session["worker"] == "rig"
    assert api.get("sessions?worker=rig")["total"] == 1 and api.get("sessions?worker=other")["total"] == 0
    assert api.get("sessions?q=SCRIPTED&sort=agent&order=desc")["total"] == 1
    assert api.refused("sessions/999")[0] == 404 and api.refused("workers/nobody")[0] == 404
    active, standby = api.get("pools")["items"]
    assert (active["state"], active["sessions"], standby["state"]) == ("active", 1, "standby")
    assert active["connections"][0]["prefixes"]["held"] == 1
    assert active["connections"][0]["address"] == f"127.0.0.1:{pools[0].port}"
    pools[0].stop()
    site.wait(lambda: api.get("pools")["items"][1]["state"] == "active", timeout=10)
    first = api.get("pools")["items"][0]
    assert (first["state"], bool(first["reason"])) == ("down", True)
    kinds = [one["kind"] for one in api.get("events")["items"]]
    assert kinds[-2:] == ["pool up", "start"] and {"pool lost", "failover"} <= set(kinds)
    assert api.get("summary")["failovers"] == 1
    last = api.get("events?limit=1")["items"][0]["id"]
    assert api.get(f"events?after={last}&kind=start")["total"] == 0
    assert {one["kind"] for one in api.get("events?kind=failover")["items"]} == {"failover"}
    pools[0].start()
    site.wait(lambda: api.get("pools")["items"][0]["state"] == "active", timeout=10)
    site.wait_logged("another pool took over", timeout=10)
    assert api.get("pools")["items"][1]["state"] == "standby", "it was left, and is well"
    assert api.get("events?kind=failover&limit=1")["items"][0]["text"].endswith("which is well again")
    assert {one["kind"] for one in api.get("events?kind=start,failover")["items"]} == {"failover", "start"}
    assert [one["kind"] for one in api.get("events?q=KAROO")["items"]] == ["start"]
    assert api.get("bans") == {"total": 0, "limit": 100, "offset": 0, "items": []}
    miner.close()


def test_curves_come_from_the_accounts(site, farm, tmp_path):
    _, _, api = farm()
    status, why = api.refused("history")
    assert status == 503 and "accounting.database is empty" in why
    proxy, _, api = farm(accounting={"database": str(tmp_path / "karoo.db"), "flush_seconds": 0.5})
    miner = site.miner(proxy, user="a.rig")
    assert miner.submit(miner.find_share(POOL_DIFFICULTY)) is True
    site.wait(lambda: api.get("summary")["ledger"]["seconds_since_write"] is not None)
    found = api.get("history?metric=accepted&range=1y&worker=rig")
    assert (found["unit"], found["step_seconds"], found["worker"]) == ("shares", 86_400, "rig")
    assert api.get("history?metric=hashrate&range=1h&worker=nobody")["points"] == []


@pytest.mark.parametrize("path", [
    "workers?sort=size", "workers?order=up", "workers?limit=0", "workers?limit=101", "workers?limit=1e1",
    "workers?offset=-1", "workers?state=asleep", "workers?page=2", "workers?limit=1&limit=2", "sessions?q=" + "x" * 201,
    "history?metric=weather", "history?range=2h", "events?kind=oops", "events?after=x", "summary?x=1",
    "workers/rig?x=1", "pools?sort=name"])
def test_what_makes_no_sense_is_refused_and_named(farm, path):
    _, _, api = farm()
    status, message = api.refused(path)
    assert status == (404 if path.startswith("workers/rig") and "?" not in path else 400)
    assert any(word in message for word in (
        "sort", "order", "limit", "offset", "state", "page", "q", "metric", "range", "kind", "after", "x"))


def test_status_leaves_clients_out_or_tells_some(site, farm):
    proxy, _, api = farm()
    for number in range(3):
        site.miner(proxy, user=f"a.rig{number}")
    assert [one["worker"] for one in api.ask("GET", "/status?offset=1&limit=1")[1]["clients"]] == ["rig1"]
    none = api.ask("GET", "/status?clients=0")[1]
    assert "clients" not in none and none["sessions"] == 3
    assert api.ask("GET", "/status?clients=2")[0] == 400


def test_probes_tell_whether_miners_can_be_served(site, farm):
    proxy, (pool,), api = farm()
    assert api.ask("GET", "/healthz") == (200, "ok\n")
    assert api.ask("GET", "/readyz") == (200, "ready\n")  # idle on purpose
    miner = site.miner(proxy)
    assert api.ask("GET", "/readyz") == (200, "ready\n")
    pool.stop()
    site.wait(lambda: api.ask("GET", "/readyz")[0] == 503)
    assert "no pool is connected" in api.ask("GET", "/readyz")[1]
    miner.close()
    proxy.listener.stop()
    assert api.ask("GET", "/readyz") == (503, "it does not accept miners\n")


@pytest.mark.parametrize("name", [".", "..", "/lead//x", "a" * 400, "%2e%2F?&#", "ü\u202eb"])
def test_a_worker_with_any_name_can_be_asked_for(site, farm, name):
    proxy, _, api = farm()
    site.miner(proxy, user=f"a.{name}")
    (known,) = [one["name"] for one in api.get("workers")["items"]]
    assert api.get(f"worker?name={quote(known, safe='')}")["name"] == known
    assert api.get(f"sessions?worker={quote(known, safe='')}")["total"] == 1
    if not known.startswith((".", "/")):  # what a path cannot hold
        assert api.get(f"workers/{quote(known, safe='')}")["name"] == known
    assert api.do("kick", worker=known)[0] == 200


def test_bans_are_searched_and_sorted(site, farm):
    _, _, api = farm()
    for address, seconds, reason in (("10.0.0.2", 300, "first"), ("10.0.0.1", 100, "second"),
                                     ("10.0.0.3", 200, "third")):
        assert api.do("ban", address=address, seconds=seconds, reason=reason)[0] == 200
    found = {sort: [one["address"][-1] for one in api.get(f"bans?sort={sort}&order=asc")["items"]]
             for sort in ("address", "since", "until")}
    assert found == {"address": ["1", "2", "3"], "since": ["2", "1", "3"], "until": ["1", "3", "2"]}
    assert [one["why"] for one in api.get("bans?limit=1&offset=1")["items"]] == ["second"]
    assert [one["why"] for one in api.get("bans?q=THIRD")["items"]] == ["third"]


def test_a_crowd_of_bans_leaves_the_rest_of_the_timeline(site, farm):
    proxy, _, api = farm()
    for number in range(timeline.KEPT_OF_CROWDS["ban"] + 50):
        proxy.door.ban(f"10.0.{number // 200}.{number % 200 + 1}", 60.0, "a\nb", "me")
    assert [one["kind"] for one in api.get("events?kind=start")["items"]] == ["start"]
    assert api.get("events?kind=ban")["total"] == timeline.KEPT_OF_CROWDS["ban"]
    assert "\n" not in api.get("events?kind=ban&limit=1")["items"][0]["text"]


def test_bugs_and_a_ledger_that_cannot_be_written_are_in_the_timeline(site, farm, tmp_path):
    (tmp_path / "karoo.db").mkdir()  # no file
    proxy, _, api = farm(accounting={"database": str(tmp_path / "karoo.db"), "flush_seconds": 0.5})
    site.wait(lambda: api.get("events?kind=ledger")["total"] == 1)
    assert "are not kept" in api.get("events?kind=ledger")["items"][0]["text"]
    proxy.metrics.exceptions += 1
    site.wait(lambda: api.get("events?kind=bug")["total"] == 1)
    proxy.metrics.exceptions -= 1


# ---------------------------------------------------------------- commands

def test_without_a_token_there_are_no_commands(site, farm):
    _, _, api = farm(http={"token": ""})
    assert api.do("kick", session=1)[0] == 404
    assert not [path for path in api.get("openapi.json")["paths"] if "commands" in path]


def test_commands_want_the_token(farm):
    _, _, api = farm()
    assert api.ask("POST", "/api/v1/commands/kick", {"session": 1})[0] == 401
    assert api.ask("POST", "/api/v1/commands/kick", {"session": 1}, "another-token-of-some-length")[0] == 401


def test_a_miner_is_kicked(site, farm):
    proxy, _, api = farm()
    first, second = site.miner(proxy, user="a.rig"), site.miner(proxy, user="a.rig")
    number = api.get("sessions?sort=id")["items"][0]["id"]
    assert api.do("kick", session=number)[0] == 200
    first.wait_closed()
    assert api.do("kick", session=number)[0] == 404
    assert api.do("kick", worker="rig") == (200, {"done": "Worker rig was disconnected: 1 session"})
    second.wait_closed()
    assert api.do("kick", worker="rig")[0] == 404
    assert api.do("kick", address="127.0.0.2") == (404, {"error": {
        "code": "not_found", "message": "127.0.0.2 is not connected"}})
    assert api.do("kick")[0] == 400 and api.do("kick", session=1, worker="rig")[0] == 400
    assert [one["kind"] for one in api.get("events?kind=kick")["items"]] == ["kick", "kick"]
    assert proxy.metrics.ended["kicked by the operator"] == 2


def test_an_address_is_banned_and_forgiven(site, farm):
    proxy, _, api = farm()
    miner = site.miner(proxy)
    status, told = api.do("ban", address="127.0.0.1", seconds=60, reason="tests & <b>")
    assert (status, told["done"]) == (200, "127.0.0.1 is banned for 60 seconds; 1 session ended")
    miner.wait_closed()
    (ban,) = api.get("bans")["items"]
    assert (ban["address"], ban["why"], ban["seconds_left"]) == ("127.0.0.1", "tests & <b>", 60)
    refused = site.connect(proxy)
    refused.wait_closed()
    assert api.do("unban", address="127.0.0.1")[0] == 200
    assert api.do("unban", address="127.0.0.1")[0] == 404
    site.miner(proxy)
    events = {one["kind"]: one for one in api.get("events")["items"]}
    assert events["ban"]["details"]["by"] == events["unban"]["details"]["by"] == "127.0.0.1"
    for wrong in ({"address": "no address"}, {}, {"address": "10.0.0.1", "seconds": -1}, {"address": 5},
                  {"address": "10.0.0.1", "forever": True}):
        assert api.do("ban", **wrong)[0] == 400, wrong


def test_the_miners_are_taken_to_the_pool_that_the_operator_wants(site, farm):
    proxy, pools, api = farm(pools=2)
    miner = site.miner(proxy, extranonce=True)
    assert api.do("switch-pool", pool=1)[0] == 200
    site.wait(lambda: api.get("pools")["items"][1]["state"] == "active", timeout=10)
    assert miner.submit(miner.find_share(POOL_DIFFICULTY)) is True or pools[1].books.total.accepted
    site.wait(lambda: api.get("pools")["items"][0]["state"] in ("standby", "unknown"), timeout=10)
    site.wait(lambda: site.logged("another pool took over"), timeout=10)
    assert api.get("pools")["items"][0]["reason"] == "" and api.get("pools")["items"][0]["state"] == "standby"
    assert proxy.metrics.upstream_losses == {} and api.get("summary")["failovers"] == 0
    (moved,) = api.get("events?kind=failover")["items"]
    assert moved["severity"] == "info" and moved["text"].endswith("as the operator asked")
    assert not miner.closed
    assert api.get("summary")["pool"]["is_backup"] is True
    assert api.do("switch-pool", pool=api.get("pools")["items"][0]["name"])[0] == 200
    site.wait(lambda: api.get("pools")["items"][0]["state"] == "active", timeout=10)
    assert api.do("switch-pool", pool=7)[0] == 404 and api.do("switch-pool", pool="nowhere")[0] == 404
    assert api.do("switch-pool")[0] == 400


def test_bodies_that_are_no_commands_are_refused(farm):
    _, _, api = farm()
    with closing(http.client.HTTPConnection("127.0.0.1", api.port, timeout=5)) as connection:
        for body in (b"[]", b"{", b'"x"', b"\xff"):
            connection.request("POST", "/api/v1/commands/kick", body, {
                "Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"})
            answer = connection.getresponse()
            assert (answer.status, set(json.loads(answer.read()))) == (400, {"error"})
