"""/metrics, the alert rules, the dashboard and the documentation of the metrics."""

import copy
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import gevent
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from karoo.web import families, prometheus
from karoo.web.prometheus import Exposition, KarooCollector, Rest, label, worker_label

ROOT = Path(__file__).parent.parent
RULES, DASHBOARD = ROOT / "deploy/prometheus", ROOT / "deploy/grafana/karoo.json"
RATES = {"1m": 1e12, "15m": 1.1e12, "1h": 1.2e12, "24h": 1.3e12}
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(  # by hand only: where everything must hold, it is missed
    PROMTOOL is None and not os.environ.get("CI"), reason="promtool is missing: .ci/debian --only promtool prometheus")

FIGURES = {
    "version": "0.1.0", "uptime_seconds": 12.5, "algorithm": "sha256d", "hash_engine": "in C (SHA-NI)",
    "sessions": 3, "max_sessions": 10_000, "connections": 9, "turned_away": {"banned": 2, "max_clients": 1},
    "ended": {"the miner closed the connection": 4}, "exceptions": 6, "jobs": 7, "last_notify_unix": 1_764_000_000,
    "blocks": 1, "upstream_dials": 2, "upstream_losses": {"the proxy stops": 1}, "unexpected_answers": 8,
    "listeners": [{"name": "racks", "sessions": 2, "certificate_expires_unix": 1.8e9},
                  {"name": ":3333", "sessions": 1, "certificate_expires_unix": None}],
    "banned_ips": 2, "bans_total": 5, "vardiff_changes": 12, "failovers": 11, "backlog_bytes": 77,
    "hub_lag_seconds": 0.0004, "hub_lag_max_seconds": 0.003, "descriptors": {"open": 120, "limit": 65536},
    "states": {"online": 2, "silent": 1, "gone": 0, "past": 4}, "tables": {"sessions": 3, "workers": 7},
    "ledger": {"database": "/x/karoo.db", "fault": None, "seconds_since_write": 3.1},
    "histograms": {
        "job_fanout": {"bounds": [0.001, 0.01], "counts": [3, 2, 1], "sum": 0.5},
        "answer_here": {"bounds": [0.0001, 0.001], "counts": [10, 5, 0], "sum": 0.002},
        "answer_pool": {"bounds": [0.01, 0.1], "counts": [0, 4, 0], "sum": 0.2}},
    "routes": [{"number": 0, "up": True, "sessions": 3, "held_shares": 0, "owed_answers": 1, "difficulty": 65536.0,
                "network_difficulty": 1.2e14, "prefixes": {"size": 2, "held": 3, "capacity": 65536}},
               {"number": 1, "up": False, "sessions": 0, "held_shares": 0, "owed_answers": 0, "difficulty": 0.0,
                "network_difficulty": None, "prefixes": None}],
    "pools": [{"index": 0, "name": "pool.example.org:3333", "state": "active", "sessions": 3},
              {"index": 1, "name": "pool.example.org:3333", "state": "standby", "sessions": 0}],
    "accounts": {
        "accepted": 100, "rejected": 7, "below_pool": 90, "forwarded": 12, "pool_accepted": 10,
        "rejected_by_reason": {"stale": 4, "pool: 21 Job not found": 2, "pool: 23 low": 1},
        "difficulty_accepted": 1234.5, "difficulty_forwarded": 1000.0, "pool_difficulty_accepted": 900.0,
        "pool_difficulty_rejected": 100.0, "hashrate": RATES, "hashrate_paid": RATES, "seconds_since_share": 1.5,
        "pool_latency_ms": {"p50": 12.0, "p95": 20.0, "p99": 31.5}},
}


def figures(**changes):
    return {**copy.deepcopy(FIGURES), **changes}


def worker(name, accepted=10, **more):
    return {"worker": name, "hashrate": 1e12, "hashrate_paid": 9e11, "accepted": accepted, "rejected": 1,
            "difficulty_accepted": 512.5 * accepted, "seconds_since_share": 2.5, **more}


def page(state=None, workers=(), rest=None, collector=None):
    """What a collector shows of these figures: {(name, sorted labels): value}; no series may be there twice."""
    collector = collector or KarooCollector(None, None, 200)
    collector._figures = lambda: state or figures()
    collector._worker_figures = lambda most: (list(workers), rest)
    registry = CollectorRegistry()
    registry.register(collector)
    return series(generate_latest(registry).decode())


def series(text, parse=parse):
    found = {}
    for family in parse(text):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def of(found, name):
    """The series of a metric: by the label's value where there is one label, by the labels where there are several."""
    return {labels[0][1] if len(labels) == 1 else labels: value
            for (one, labels), value in found.items() if one == name}


# ---------------------------------------------------------------- a live proxy

def test_a_live_proxy_is_shown_as_it_is(site):
    pool = site.pool()
    proxy = site.proxy(pool)
    first, second = site.miner(proxy, "a.rig1"), site.miner(proxy, "a.rig2")
    share = first.find_share()
    assert first.submit(share) is True
    assert first.submit(share) is not True  # the same again
    exposition = Exposition(proxy.view.figures, proxy.view.workers.strongest, 1)
    text, kind = exposition.text()
    found = series(text.decode())
    assert kind.startswith("text/plain; version=0.0.4")
    assert found["karoo_shares_accepted_total", ()] == found["karoo_shares_rejected_total", ()] == 1
    assert of(found, "karoo_shares_total")[("by", "proxy"), ("reason", "duplicate"), ("verdict", "rejected")] == 1
    assert found["karoo_clients_active_count", ()] == found["karoo_sessions", ()] == 2
    assert of(found, "karoo_connections_total") == {"session": 2}
    assert (found["karoo_upstream_connected", ()], found["karoo_upstream_difficulty", ()]) == (1, pool.difficulty)
    assert found["karoo_last_notify_timestamp_seconds", ()] == int(proxy.metrics.last_notify)
    assert list(of(found, "karoo_pool_active").values()) == [1]
    assert of(found, "karoo_extranonce_prefixes_held") == {"0": 2}
    assert found["karoo_job_fanout_seconds_count", ()] == proxy.metrics.jobs >= 1
    assert sum(of(found, "karoo_share_answer_seconds_count").values()) == 1
    assert of(found, "karoo_worker_shares_accepted_total") == {"rig1": 1, "other": 0}
    assert of(found, "karoo_workers")["online"] == 2
    assert found["process_open_fds", ()] > 2 and found["karoo_descriptors_open", ()] > 2
    second.close()
    site.wait(lambda: len(proxy.sessions) == 1)


def test_no_metric_is_left_out_of_a_live_proxys_page(site):
    """Families that a fresh proxy has no value for are there with their help."""
    proxy = site.proxy(site.pool())
    site.miner(proxy, "a.rig1")
    text = Exposition(proxy.view.figures, proxy.view.workers.strongest, 10).text()[0].decode()
    assert {family.name for family in families.FAMILIES} <= set(re.findall(r"^# TYPE (\S+)", text, re.M))


# ---------------------------------------------------------------- what stands on the page

def test_the_originals_six_names_carry_no_labels():
    found, original = page(), {
        "karoo_shares_accepted_total": 100, "karoo_shares_rejected_total": 7, "karoo_clients_active_count": 3,
        "karoo_upstream_connected": 1, "karoo_upstream_difficulty": 65536,
        "karoo_last_notify_timestamp_seconds": 1_764_000_000}
    assert {name: found[name, ()] for name in original} == original


def test_every_figure_has_its_place():
    found = page(workers=[worker("rig1")], rest=worker("other", 3, seconds_since_share=None))
    assert of(found, "karoo_connections_total") == {"session": 7, "banned": 2, "max_clients": 1}
    assert of(found, "karoo_shares_total") == {
        (("by", by), ("reason", reason), ("verdict", verdict)): count for verdict, by, reason, count in [
            ("accepted", "proxy", "none", 90), ("accepted", "pool", "none", 10), ("rejected", "proxy", "stale", 4),
            ("rejected", "pool", "21 Job not found", 2), ("rejected", "pool", "23 low", 1)]}
    assert of(found, "karoo_hashrate_hashes_per_second") == RATES
    assert of(found, "karoo_pool_latency_seconds") == pytest.approx({"50": 0.012, "95": 0.02, "99": 0.0315})
    assert of(found, "karoo_job_fanout_seconds_bucket") == {"0.001": 3, "0.01": 5, "+Inf": 6}
    assert of(found, "karoo_share_answer_seconds_count") == {"proxy": 15, "pool": 4}
    assert list(of(found, "karoo_pool_active").values()) == [1, 0]  # of two with one name
    assert sum(of(found, "karoo_pool_state").values()) == 2
    assert of(found, "karoo_workers") == FIGURES["states"]
    assert of(found, "karoo_network_difficulty") == {"0": 1.2e14}
    assert of(found, "karoo_worker_last_share_age_seconds") == {"rig1": 2.5}
    assert of(found, "karoo_worker_hashrate_hashes_per_second") == {"rig1": 1e12, "other": 1e12}
    assert {name: value for (name, labels), value in found.items() if not labels} == {
        "karoo_shares_accepted_total": 100, "karoo_shares_rejected_total": 7, "karoo_clients_active_count": 3,
        "karoo_upstream_connected": 1, "karoo_upstream_difficulty": 65536,
        "karoo_last_notify_timestamp_seconds": 1_764_000_000, "karoo_sessions": 3, "karoo_sessions_limit": 10_000,
        "karoo_banned_addresses": 2, "karoo_bans_total": 5, "karoo_vardiff_changes_total": 12,
        "karoo_backlog_bytes": 77, "karoo_shares_forwarded_total": 12, "karoo_difficulty_accepted_total": 1234.5,
        "karoo_difficulty_forwarded_total": 1000, "karoo_difficulty_paid_total": 900,
        "karoo_difficulty_refused_total": 100, "karoo_last_share_age_seconds": 1.5, "karoo_blocks_total": 1,
        "karoo_failovers_total": 11, "karoo_jobs_total": 7, "karoo_upstream_dials_total": 2,
        "karoo_upstream_unexpected_answers_total": 8, "karoo_job_fanout_seconds_count": 6,
        "karoo_job_fanout_seconds_sum": 0.5, "karoo_hub_lag_seconds": 0.0004, "karoo_hub_lag_max_seconds": 0.003,
        "karoo_uptime_seconds": 12.5, "karoo_exceptions_total": 6, "karoo_descriptors_open": 120,
        "karoo_descriptors_limit": 65536, "karoo_ledger_enabled": 1, "karoo_ledger_fault": 0,
        "karoo_ledger_write_age_seconds": 3.1}
    assert dict(next(labels for name, labels in found if name == "karoo_build_info")).keys() == {
        "version", "python", "gevent", "algorithm", "hash_engine"}
    shown = {name for name, _ in found}
    assert [one.name for one in families.FAMILIES if not {one.name, f"{one.name}_bucket"} & shown] == []


def test_what_is_not_known_is_left_out():
    state = figures(routes=[], pools=[], descriptors={"open": 5, "limit": None}, last_notify_unix=0,
                    ledger={"database": None, "fault": None, "seconds_since_write": None})
    state["accounts"] |= {"seconds_since_share": None, "pool_latency_ms": None, "rejected_by_reason": {}}
    found = page(state)
    assert found["karoo_upstream_connected", ()] == found["karoo_upstream_difficulty", ()] == 0
    assert found["karoo_descriptors_limit", ()] == float("inf")
    assert not {"karoo_last_share_age_seconds", "karoo_pool_latency_seconds", "karoo_ledger_write_age_seconds",
                "karoo_extranonce_prefixes_held"} & {name for name, _ in found}


def test_a_fault_of_the_ledger_is_seen():
    state = figures(ledger={"database": "/x", "fault": "the disk is full", "seconds_since_write": 400.0})
    assert page(state)["karoo_ledger_fault", ()] == 1


def test_openmetrics_for_who_accepts_it_and_plain_text_for_all_others():
    exposition = Exposition(figures, lambda most: ([worker("rig1")], None), 200)
    plain, kind = exposition.text()
    for accept in ("text/plain", "*/*", "application/openmetrics-textual", "application/json;version=x"):
        assert exposition.text(accept) == (plain, kind)
    other, other_kind = exposition.text("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2")
    assert other_kind.startswith("application/openmetrics-text; version=1.0.0")
    assert other.endswith(b"# EOF\n")
    ours = [{key: value for key, value in found.items() if key[0].startswith("karoo_")}
            for found in (series(plain.decode()), series(other.decode(), parse_openmetrics))]
    assert ours[0] == ours[1]


def test_figures_are_asked_for_once_a_page_and_a_page_is_made_once_a_second(monkeypatch):
    asked = []

    def slow_figures():
        asked.append("figures")
        gevent.sleep(0.01)  # others come while it is made
        return figures()
    exposition = Exposition(slow_figures, lambda most: (asked.append(most), ([], None))[1], 7)
    readers = [gevent.spawn(exposition.text) for _ in range(5)]
    gevent.joinall(readers, timeout=5, raise_error=True)
    assert asked == ["figures", 7]
    assert len({reader.value for reader in readers}) == 1
    monkeypatch.setattr(prometheus, "CACHE_SECONDS", -1.0)
    exposition.text()
    assert asked == ["figures", 7] * 2


def test_a_failure_is_told_and_does_not_stay():
    fails = [True]

    def broken():
        if fails:
            raise RuntimeError("no figures")
        return figures()
    exposition = Exposition(broken, lambda most: ([], None), 5)
    with pytest.raises(RuntimeError, match="no figures"):
        exposition.text()
    fails.clear()
    assert b"karoo_sessions 3.0" in exposition.text()[0]


def turns_while_made(workers):
    """How often others had their turn while a page with so many workers was made."""
    turns = []

    def tick():
        while True:
            gevent.sleep(0)
            turns.append(1)
    ticker = gevent.spawn(tick)
    page(workers=[worker(f"rig{n}") for n in range(workers)])
    ticker.kill()
    return len(turns)


def test_others_have_turns_while_the_workers_of_a_page_are_written():
    assert turns_while_made(2000) > turns_while_made(0) + 200  # for 12,000 samples


def test_expositions_share_nothing():
    one, other = (Exposition(lambda n=n: figures(sessions=n), lambda most: ([], None), 5) for n in (1, 2))
    assert b"karoo_sessions 1.0" in one.text()[0] and b"karoo_sessions 2.0" in other.text()[0]


# ---------------------------------------------------------------- counters never go back

def test_a_sum_that_falls_by_its_last_digit_does_not_look_like_a_restart():
    collector = KarooCollector(None, None, 5)
    values = [0.1 + (0.2 + 0.3), (0.1 + 0.2) + 0.3, 0.1 + (0.2 + 0.3)]
    assert values[1] > values[2]
    shown = []
    for value in values:
        state = figures()
        state["accounts"]["difficulty_accepted"] = value
        shown.append(page(state, collector=collector)["karoo_difficulty_accepted_total", ()])
    assert shown == sorted(shown)


def test_the_counter_of_the_rest_only_rises_whoever_gets_a_name():
    rest = Rest()
    assert rest.look({"a": 100}, 50) == 50  # b: 40, c: 10
    assert rest.look({"a": 110}, 55) == 55  # b: 45
    assert rest.look({"b": 46}, 120) == 56  # a lost its name, and b did one more while it had none
    assert rest.look({"b": 50}, 121) == 57  # what b does now is its own
    assert rest.look({"a": 112, "b": 52}, 10) == 58  # a did one more without a name
    assert rest.look({"a": 112, "b": 52}, 2) == 58  # accounts were dropped
    assert rest.look({"a": 112, "b": 52}, 3) == 59


def test_counts_of_the_time_before_a_restart_are_not_shown_before_they_are_read():
    """The jump to what they were would look as if it had all been done at once."""
    collector = KarooCollector(None, None, 5)
    kept = {family.name for family in families.FAMILIES if family.kept}
    assert "karoo_shares_accepted_total" in kept and "karoo_exceptions_total" not in kept

    def shown(restored, fault=None):
        ledger = {"database": "/x", "fault": fault, "seconds_since_write": None, "restored": restored}
        return {name for name, _ in page(figures(ledger=ledger), [worker("a")], worker("rest"), collector)}
    assert not kept & shown(False) and "karoo_exceptions_total" in shown(False)
    assert kept <= shown(True)
    assert kept <= shown(False, "the disk is full"), "that may take for ever"


books = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 20), min_size=1)


@given(steps=st.lists(st.tuples(books, st.integers(0, 4)), min_size=2, max_size=12))
def test_no_counter_falls_whatever_the_workers_do(steps):
    """Each step adds to some workers' shares, and the strongest few by a changing order have names."""
    collector, done, before = KarooCollector(None, None, 4), {}, {}
    for number, (added, most) in enumerate(steps):
        for name, count in added.items():
            done[name] = done.get(name, 0) + count
        order = sorted(done, key=lambda name: (done[name] * (number + 3)) % 7)
        named, others = order[:most], [done[name] for name in order[most:]]
        found = page(workers=[worker(name, done[name]) for name in named],
                     rest=worker("rest", sum(others)) if others else None, collector=collector)
        now = {key: value for key, value in found.items() if key[0].endswith("_total")}
        assert [key for key, value in now.items() if value < before.get(key, 0)] == []
        before |= now


def test_reasons_are_bounded_and_none_moves_to_the_others():
    collector = KarooCollector(None, None, 5)
    reasons = {f"reason {n}": 1 for n in range(prometheus.MOST_REASONS)}
    assert of(page(figures(ended=reasons), collector=collector), "karoo_sessions_ended_total") == reasons
    late = {"late": 50, "later": 1, **reasons}
    found = of(page(figures(ended=late), collector=collector), "karoo_sessions_ended_total")
    assert found == {**reasons, "other": 51}


# ---------------------------------------------------------------- hostile words

@pytest.mark.parametrize(("text", "shown"), [
    ("rig1", "rig1"), ("Ωmega 7", "Ωmega 7"), ('a"b\\c', 'a"b\\c'), ("", "none"), ("  ", "none"), ("\t", "\ufffd"),
    ("a\nb\rc\x00", "a\ufffdb\ufffdc\ufffd"), ("\ud800", "\ufffd"), ("a\u202eb\u2028", "a\ufffdb\ufffd"),
    ("x" * 500, "x" * 79 + "…"), ("x" * 80, "x" * 80),
])
def test_words_are_cleaned(text, shown):
    assert label(text) == shown


def test_names_that_are_alike_once_cleaned_stay_apart():
    names = ["a\x01", "a\x02", "a\ufffd", "x" * 100, "x" * 101, "x" * 80, "other", "", " ", "none", "\ud800", "\ud801"]
    shown = [worker_label(name) for name in names]
    assert len(set(shown)) == len(names)
    assert "other" not in shown and all(len(one) <= prometheus.LONGEST for one in shown)
    copied = worker_label("a\x01")
    assert worker_label(copied) != copied, "a name cannot be made to look like another's cleaned one"


def test_names_that_are_alike_all_the_same_are_put_together(monkeypatch):
    """A hash that short can be met with effort; then the page must not be refused."""
    monkeypatch.setattr(prometheus, "worker_label", lambda name: "same")
    found = page(workers=[worker("a", 3), worker("b", 4, seconds_since_share=1.0)])
    assert of(found, "karoo_worker_shares_accepted_total") == {"same": 7}
    assert of(found, "karoo_worker_last_share_age_seconds") == {"same": 1.0}


hostile = st.one_of(
    st.text(st.characters(), max_size=200),  # half surrogates too
    st.sampled_from(["other", "none", "", "a\x01", "a\x02", "pool: ", "pool: other", "{}", '",le="', "\\", "\n"]),
    st.text('"\\\n\r\0{},=# a', max_size=20))
counts = st.dictionaries(hostile, st.integers(0, 2**60), max_size=6)


@given(names=st.lists(hostile, max_size=8, unique=True), ended=counts, away=counts, losses=counts, refused=counts,
       pool=hostile, fault=hostile)
def test_whatever_peers_say_the_page_is_read(names, ended, away, losses, refused, pool, fault):
    state = figures(ended=ended, turned_away=away, upstream_losses=losses, hash_engine=fault)
    state["accounts"]["rejected_by_reason"] = refused
    for one in state["pools"]:
        one["name"] = pool
    exposition = Exposition(lambda: state, lambda most: ([worker(name) for name in names], worker("other")), 10)
    found = series(exposition.text()[0].decode())
    series(exposition.text("application/openmetrics-text")[0].decode(), parse_openmetrics)
    assert sum(of(found, "karoo_sessions_ended_total").values()) == pytest.approx(sum(ended.values()))
    assert len(of(found, "karoo_worker_shares_accepted_total")) == len(names) + 1


# ---------------------------------------------------------------- promtool

def promtool(*words, stdin=None, cwd=None):
    """Run it: its exit code, and all that it says."""
    ran = subprocess.run([PROMTOOL or "promtool", *words], input=stdin, capture_output=True, cwd=cwd, timeout=60,
                         check=False)
    return ran.returncode, (ran.stdout + ran.stderr).decode()


@needs_promtool
def test_promtool_finds_no_fault_in_the_page():
    workers = [worker("rig1"), worker('q"uo\\te'), worker("\x00\n")]
    text = Exposition(figures, lambda most: (workers, worker("other")), 200).text()[0]
    assert promtool("check", "metrics", stdin=text) == (0, "")
    assert promtool("check", "metrics", stdin=text + b"karoo_lag_ms 3\n")[0] != 0, "it would say so"


@needs_promtool
@pytest.mark.parametrize("words", [
    ("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml"), ("check", "config", "prometheus.yml")])
def test_promtool_finds_no_fault_in_the_rules(words):
    code, said = promtool(*words, cwd=RULES)
    assert (code, "FAILED" in said, "SUCCESS" in said) == (0, False, True), said


@needs_promtool
def test_promtool_reads_every_expression_of_the_dashboard(tmp_path):
    asked = [re.sub(r"\$\w+", "5m", re.sub(r'"\$(job|instance)"', '".+"', text)) for text in expressions()]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": [
        {"record": f"a:b{number}", "expr": text} for number, text in enumerate(asked)]}]}))
    code, said = promtool("check", "rules", "rules.yml", cwd=tmp_path)
    assert code == 0 and f"{len(asked)} rules found" in said, said


# ---------------------------------------------------------------- rules, dashboard, documentation

EXPOSED = {family.name for family in families.FAMILIES}
FOREIGN = {"up", "process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds",
           "process_open_fds", "process_max_fds", "python_gc_collections_total"}


def metrics_in(expression):
    """The names of metrics in PromQL: the words that are no functions, labels or operators."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    bare = re.sub(r"\{[^}]*\}", "{}", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"\$\w+|\$\{\w+\}|\[[^\]]*\]|\b\d[\w.]*\b", "", bare)
    words = re.findall(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()", bare)
    return {word for word in words if word not in ("and", "or", "unless", "offset", "bool", "by", "on", "ignoring")}


def is_exposed(name):
    histograms = {f"{one.name}{end}" for one in families.FAMILIES if one.kind == families.HISTOGRAM
                  for end in ("_bucket", "_sum", "_count")}
    return name in EXPOSED | FOREIGN | histograms


def panels():
    """Every panel of the dashboard, those in folded rows too."""
    for one in json.loads(DASHBOARD.read_text())["panels"]:
        yield one
        yield from one.get("panels", [])


def expressions():
    for one in panels():
        for target in one.get("targets", []):
            yield target["expr"]
    for one in json.loads(DASHBOARD.read_text())["annotations"]["list"]:
        if "expr" in one:
            yield one["expr"]


def rules():
    groups = yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_names_are_found_in_expressions():
    assert metrics_in('sum by (job, le) (rate(a_b_bucket{x="y z", le!="1"}[5m])) > 0.5 and on (job) c:d offset 1h') == {
        "a_b_bucket", "c:d"}
    assert not is_exposed("karoo_nothing") and not is_exposed("karoo_sessions_bucket")


def test_rules_and_dashboard_ask_for_metrics_that_are_there():
    assert len(list(expressions())) > 30
    asked = [*expressions(), *(rule["expr"] for rule in rules())]
    assert {name for text in asked for name in metrics_in(text) if not is_exposed(name)} == set()


def test_foreign_names_are_exposed_too():
    text = Exposition(figures, lambda most: ([], None), 5).text()[0].decode()
    assert FOREIGN - {"up"} <= {name for name, _ in series(text)}


def test_every_alert_says_how_bad_it_is_and_what_to_do_and_is_tested():
    tested = (RULES / "alerts_test.yml").read_text()
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule["alert"]
        assert rule["annotations"]["summary"] and len(rule["annotations"]["description"]) > 60, rule["alert"]
        assert rule["alert"] in tested, f"{rule['alert']} has no test"


def test_labels_that_rules_and_dashboard_ask_for_are_there():
    labels = {family.name: {*family.labels, "job", "instance", "le"} for family in families.FAMILIES}
    for text in [*expressions(), *(rule["expr"] for rule in rules())]:
        for name, matchers in re.findall(r"(karoo_\w+)\{([^}]*)\}", text):
            known = labels[re.sub(r"_(bucket|sum|count)$", "", name) if name not in labels else name]
            assert set(re.findall(r"(\w+)\s*[=!]", matchers)) <= known, text


def test_the_dashboard_is_whole():
    board = json.loads(DASHBOARD.read_text())
    names = {one["name"] for one in board["templating"]["list"]}
    assert {"datasource", "job", "instance"} <= names
    every = list(panels())
    assert [one["title"] for one in every if one["type"] == "row"] == [
        "Overview", "Shares", "Pools", "Latency", "Workers", "Process"]
    assert len({one["id"] for one in every}) == len(every)
    for one in every:
        place = one["gridPos"]
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24
        if one["type"] != "row":
            assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert one["fieldConfig"]["defaults"].get("unit"), one["title"]
            assert one["description"] and one["targets"], one["title"]
            assert all("instance=~\"$instance\"" in target["expr"] for target in one["targets"]), one["title"]
    fields = [(one["gridPos"]["x"] + x, one["gridPos"]["y"] + y) for one in every
              for x in range(one["gridPos"]["w"]) for y in range(one["gridPos"]["h"])]
    assert len(fields) == len(set(fields)), "panels lie on each other"


def test_the_documentation_has_every_metric():
    text = (ROOT / "docs/metrics.md").read_text()
    tables = text.partition("<!-- metrics -->\n")[2].partition("\n<!-- end -->")[0]
    assert tables == families.markdown(), "put into docs/metrics.md what `families.markdown()` makes"
    for rule in rules():
        assert rule["alert"] in text, f"{rule['alert']} is not in docs/metrics.md"
