"""Reading the configuration again: what can change at once does, the rest is named, a faulty file changes nothing."""

import logging
import os
import subprocess
from types import SimpleNamespace

import gevent
import pytest
import trustme
from gevent import socket
from gevent.event import Event

from karoo import config, descriptors
from karoo import service as service_module
from karoo.proxy.proxy import Proxy
from karoo.proxy.waysin import securities
from karoo.reload import NoReload, Reloader, differences
from tests.programs import configuration
from tests.site import POOL_DIFFICULTY

BEFORE = """
upstream: {host: 127.0.0.1, port: 3333, user: wallet, pass: first-secret}
proxy: {listen: "127.0.0.1:0"}
accounting: {database: ""}
ratelimit: {enabled: true, max_connections_per_ip: 1}
"""


@pytest.fixture
def running(site, tmp_path):
    """A proxy that was started from a file: the file, and what reads it again."""
    file = tmp_path / "karoo.yaml"
    pool = site.pool()
    file.write_text(BEFORE.replace("3333", str(pool.port)))
    settings = config.load(file)
    proxy = site.proxy(pool)
    proxy.settings = settings
    proxy.apply(settings, securities(settings))
    level = logging.getLogger().level, list(logging.getLogger().handlers)
    yield proxy, file, Reloader(proxy, str(file))
    logging.getLogger().setLevel(level[0])
    logging.getLogger().handlers[:] = level[1]


def test_limits_change_for_miners_to_come_and_none_is_lost(site, running):
    proxy, file, reload = running
    first = site.miner(proxy)
    refused = site.connect(proxy)
    refused.wait_closed()
    file.write_text(file.read_text().replace("max_connections_per_ip: 1", "max_connections_per_ip: 2"))
    assert reload("me") == {"changed": ["ratelimit.max_connections_per_ip"], "needs_restart": []}
    second = site.miner(proxy)
    assert not first.closed and not second.closed
    assert proxy.settings.ratelimit.max_connections_per_ip == 2
    assert [one.kind for one in proxy.metrics.timeline.after(0, ["reload"])] == ["reload"]


def test_networks_are_denied_from_now_on(site, running):
    proxy, file, reload = running
    file.write_text(file.read_text().replace("enabled: true", "enabled: true, deny: [127.0.0.0/8]"))
    assert reload()["changed"] == ["ratelimit.deny"]
    site.connect(proxy).wait_closed()
    assert proxy.metrics.turned_away["denied"] == 1


def test_what_needs_a_restart_is_named_and_secrets_are_not(site, running):
    proxy, file, reload = running
    file.write_text(file.read_text().replace("first-secret", "second-secret").replace(
        'database: ""', "database: other.db, flush_seconds: 5") + """
shares: {algorithm: scrypt}
http: {listen: "127.0.0.1:1", token: a-token-of-16-letters}
control: {socket: ""}
""")
    assert reload() == {"changed": ["accounting.flush_seconds", "http.token", "upstream.pass"], "needs_restart": [
        "accounting.database", "control.socket", "http.listen", "shares.algorithm"]}
    assert site.logged("shares.algorithm: 'scrypt' instead of 'sha256d', after a restart")
    assert site.logged("upstream.pass: (secret) instead of (secret)")
    assert site.logged("http.token: (secret) instead of nothing")
    assert site.logged("3 options changed, 4 wait for a restart")
    assert not any(site.logged(secret) for secret in ("second-secret", "first-secret", "a-token-of"))
    assert proxy.settings.shares.algorithm == "sha256d" and proxy.settings.accounting.flush_seconds == 5
    assert reload()["changed"] == [], "what waits for a restart is not taken for changed the next time"


def test_a_faulty_file_changes_nothing_and_says_why(running):
    proxy, file, reload = running
    before = proxy.settings
    file.write_text(file.read_text().replace("max_connections_per_ip: 1", "max_connections_per_ip: many"))
    with pytest.raises(NoReload, match="max_connections_per_ip"):
        reload()
    file.unlink()
    with pytest.raises(NoReload, match=r"karoo\.yaml"):
        reload()
    assert proxy.settings is before
    with pytest.raises(NoReload, match="without a configuration file"):
        Reloader(proxy, None)()


def test_each_fault_has_a_line_of_the_log(site, running):
    _, file, reload = running
    file.write_text(file.read_text().replace("max_connections_per_ip: 1", "max_connections_per_ip: x, deny: [y]"))
    with pytest.raises(NoReload):
        reload("me")
    lines = [record.getMessage() for record in site.records if record.levelname == "ERROR"]
    assert lines[0] == f"me asked for the configuration to be read again, but it is faulty: {file}: 2 faults"
    assert "max_connections_per_ip: found" in lines[1] and "deny[0]: found" in lines[2] and len(lines) == 3


def test_a_pool_that_came_or_went_is_one_difference_and_its_secrets_are_none(site, running):
    _, file, reload = running
    text = file.read_text()
    file.write_text(f"{text}backups: [{{host: other, port: 1, user: w, pass: third-secret}}]\n")
    assert reload()["changed"] == ["backups[0]"]
    row = "{name: 'other:1', host: 'other', port: 1, user: 'w', pass: (secret)}"
    assert site.logged(f"backups[0]: {row} instead of nothing") and site.logged(": 1 option changed, 0 wait for")
    file.write_text(text)
    assert reload()["changed"] == ["backups[0]"]
    assert site.logged(f"backups[0]: nothing instead of {row}") and not site.logged("third-secret")


def test_of_a_list_is_said_what_came_and_went_and_not_all_of_it(site, running):
    _, file, reload = running
    text = file.read_text()

    def deny(*networks):
        file.write_text(text.replace("enabled: true", f"enabled: true, deny: [{', '.join(networks)}]"))
        assert reload()["changed"] == ["ratelimit.deny"]
    many = [f"10.0.{number}.0/24" for number in range(200)]
    deny("10.1.0.0/24", *many)
    assert site.logged("ratelimit.deny: now with '10.1.0.0/24', '10.0.0.0/24', '10.0.1.0/24', '10.0.2.0/24', "
                       "'10.0.3.0/24' and 196 more")
    deny(*many, "10.2.0.0/24")
    assert site.logged("ratelimit.deny: now with '10.2.0.0/24', no longer with '10.1.0.0/24'")
    deny("10.2.0.0/24", *many)
    assert site.logged("ratelimit.deny: in another order")


def test_what_is_no_file_is_not_read(running, tmp_path):
    proxy, file, reload = running
    before = proxy.settings
    file.rename(tmp_path / "right.yaml")
    os.mkfifo(file)
    with subprocess.Popen(["sh", "-c", 'exec cat "$0" > "$1"', tmp_path / "right.yaml", file]) as writer:
        try:
            with pytest.raises(NoReload, match="no file but a pipe"):
                reload()
        finally:
            writer.kill()
    assert proxy.settings is before


def test_what_is_warned_of_at_the_start_is_warned_of_at_a_reload_once(site, tmp_path, monkeypatch):
    monkeypatch.setattr(descriptors, "room", lambda: 7)
    pool = {"host": "127.0.0.1", "port": 1, "user": "w"}
    way, page = {"address": "127.0.0.1:0"}, {"listen": "0.0.0.0:0"}
    file = configuration(tmp_path, proxy={"max_clients": 7, "write_buf": 8192}, listeners=[way], upstream=pool,
                         http={**page, "read_token": "a-token-of-16-letters"})
    service = service_module.Service(config.load(file), str(file))
    service.warn()
    assert len(site.logged("proxy.write_buf is set, but never has an effect")) == 1
    news = ("compat.local_authorize is false", "proxy_protocol of the listener on 127.0.0.1:0 trusts everybody",
            "insecure_skip_verify: any certificate is taken", "shows the status page to everybody",
            "the limit of open files leaves room for 7 miners, not the 8")
    assert not any(site.logged(text) for text in news)
    configuration(tmp_path, proxy={"max_clients": 8, "write_buf": 8192}, http=page,
                  listeners=[{**way, "proxy_protocol": ["0.0.0.0/0"]}], compat={"local_authorize": False},
                  upstream={**pool, "tls": True, "insecure_skip_verify": True})
    try:
        service.reload("me")
        service.reload("me")
    finally:
        service.stop()
    for text in (*news, "proxy.write_buf is set"):
        assert len(site.logged(text)) == 1, text


def test_a_log_file_that_cannot_be_had_refuses_the_whole(site, running, tmp_path):
    proxy, file, reload = running
    before, handlers = proxy.settings, list(logging.getLogger().handlers)
    changed = file.read_text().replace("max_connections_per_ip: 1", "max_connections_per_ip: 2")
    file.write_text(f"{changed}log: {{file: {tmp_path}/nowhere/karoo.log, level: debug}}\n")
    with pytest.raises(NoReload, match=r"log\.file: .*nowhere/karoo\.log: No such file or directory"):
        reload("me")
    assert proxy.settings is before and logging.getLogger().handlers == handlers
    assert [one.severity for one in proxy.metrics.timeline.after(0, ["reload"])] == ["warning"]
    file.write_text(f"{changed}log: {{file: {tmp_path}/karoo.log}}\n")
    assert reload("me")["changed"] == ["log.file", "ratelimit.max_connections_per_ip"]
    assert "2 options changed, 0 wait for a restart" in (tmp_path / "karoo.log").read_text()
    file.write_text(f"{changed}log: {{file: {tmp_path}/karoo.log, rotate_mb: 1, keep_files: 3, format: json}}\n")
    reload("me")
    assert '"message": "me: The configuration was read again' in (tmp_path / "karoo.log").read_text()
    file.write_text(changed)
    reload("me")
    logging.getLogger("karoo").warning("where is this?")
    assert "where is this" not in (tmp_path / "karoo.log").read_text()


def test_a_certificate_that_cannot_be_used_makes_no_log_file(running, tmp_path):
    _, file, reload = running
    file.write_text(f"{file.read_text()}log: {{file: {tmp_path}/karoo.log}}\n".replace(
        "pass: first-secret", f"tls: true, ca_file: {tmp_path}/none.pem"))
    with pytest.raises(NoReload, match=r"none\.pem"):
        reload()
    assert not (tmp_path / "karoo.log").exists()


def test_a_bug_in_a_reload_on_sighup_is_logged_and_counted(site, running):
    proxy, _, reload = running
    proxy.apply = None
    service = SimpleNamespace(proxy=proxy, reload=reload)
    service_module._reload(service)
    assert proxy.metrics.exceptions == 1 and site.logged("a bug met the configuration as it was read again")
    proxy.metrics.exceptions = 0  # it was ours


# ---------------------------------------------------------------- difficulties, and what each miner may do

def test_difficulties_follow_at_once_and_no_miner_is_dropped(site, running):
    proxy, file, reload = running
    miner = site.miner(proxy)
    assert miner.difficulty == POOL_DIFFICULTY
    file.write_text(file.read_text() + "vardiff: {min_diff: 1e-9, max_diff: 1e-7}\n")
    assert reload()["changed"] == ["vardiff.max_diff", "vardiff.min_diff"]
    miner.wait(lambda: miner.difficulty == 1e-7, what="the new highest difficulty")
    assert miner.submit(miner.find_share()) is True
    file.write_text(file.read_text().replace("max_diff: 1e-7", "max_diff: 1e-7, enabled: false"))
    reload()
    miner.wait(lambda: miner.difficulty == POOL_DIFFICULTY, what="the pool's own difficulty")
    assert next(iter(proxy.sessions.values())).tuner.vardiff is None
    file.write_text(file.read_text().replace("enabled: false", "enabled: true"))
    reload()
    miner.wait(lambda: miner.difficulty == 1e-7, what="its own difficulty again")
    assert next(iter(proxy.sessions.values())).tuner.vardiff is not None
    assert miner.submit(miner.find_share()) is True and not miner.closed


def test_a_profile_counts_for_the_miners_that_are_there(site, tmp_path):
    file, pool = tmp_path / "karoo.yaml", site.pool()
    text = f"""
upstream: {{host: 127.0.0.1, port: {pool.port}, user: wallet}}
listeners:
  - {{address: "127.0.0.1:0", name: small, profile: {{max_diff: 1e-6}}}}
  - {{address: "127.0.0.2:0", name: racks}}
accounting: {{database: ""}}
vardiff: {{min_diff: 1e-9}}
"""
    file.write_text(text)
    settings = config.load(file)
    proxy = site.start(Proxy(settings))
    reload = Reloader(proxy, str(file))
    small, rack = site.miner(proxy, "u.a"), site.miner(proxy, "u.b", listener=1, host="127.0.0.2")
    assert (small.difficulty, rack.difficulty) == (1e-6, POOL_DIFFICULTY)
    file.write_text(text.replace("max_diff: 1e-6", "max_diff: 1e-8, max_misbehaviour: 7, max_clients: 1"))
    assert reload()["changed"] == [f"listeners[0].profile.{name}" for name in (
        "max_clients", "max_diff", "max_misbehaviour")]
    small.wait(lambda: small.difficulty == 1e-8, what="the profile's new highest difficulty")
    assert [one.conduct._rules.threshold for one in proxy.sessions.values()] == [7, 200]
    assert rack.difficulty == POOL_DIFFICULTY and not rack.closed
    site.connect(proxy).wait_closed()
    assert proxy.metrics.turned_away == {"max_clients": 1}


def test_listeners_on_any_free_port_stay_apart(site, tmp_path):
    file = tmp_path / "karoo.yaml"
    file.write_text(f"""
upstream: {{host: 127.0.0.1, port: {site.pool().port}, user: wallet}}
listeners: [{{address: "127.0.0.1:0", name: a}}, {{address: "127.0.0.1:0", name: b}}]
accounting: {{database: ""}}
""")
    proxy = site.start(Proxy(config.load(file)))
    assert Reloader(proxy, str(file))() == {"changed": [], "needs_restart": []}


def test_another_address_waits_for_a_restart(site, running):
    proxy, file, reload = running
    file.write_text(file.read_text().replace('proxy: {listen: "127.0.0.1:0"}', """
listeners: [{address: "127.0.0.1:1"}]
proxy: {max_clients: 5}"""))
    assert reload() == {"changed": ["proxy.max_clients"], "needs_restart": [
        path for path, _ in differences(proxy.settings, config.load(file))]}
    assert proxy.door.room == 5


# ---------------------------------------------------------------- pools

def text_of(*pools, more=""):
    """A configuration with these pools, each as its options in YAML."""
    first, *others = pools
    return f"""
upstream: {{{first}}}
backups: [{", ".join(f"{{{one}}}" for one in others)}]
proxy: {{listen: "127.0.0.1:0"}}
accounting: {{database: ""}}
{more}"""


def to(pool, **more):
    return ", ".join(f"{name}: {value}" for name, value in {
        "host": "127.0.0.1", "port": pool.port, "user": "wallet", "backoff_min_ms": 20, "backoff_max_ms": 50,
        "failback_after_seconds": 0, "handshake_ms": 2000, **more}.items())


@pytest.fixture
def begun(site, tmp_path):
    """Starts a proxy from a file with such pools: the proxy, and what writes other pools and reads them."""
    def start(*pools):
        file = tmp_path / "karoo.yaml"
        file.write_text(text_of(*pools))
        proxy = site.start(Proxy(config.load(file)))
        reload = Reloader(proxy, str(file))

        def change(*others):
            file.write_text(text_of(*others))
            return reload("me")
        return proxy, change
    return start


def paid(site, miner, pool):
    """A share of the miner's that this pool pays."""
    before = pool.books.accepted
    assert miner.submit(miner.find_share(difficulty=pool.difficulty)) is True
    assert pool.books.accepted == before + 1


def test_a_pool_that_stays_as_it_was_keeps_its_connection(site, begun):
    first, second = site.pool(), site.pool()
    proxy, change = begun(to(first))
    miner = site.miner(proxy, extranonce=True)
    assert change(to(first), to(second))["needs_restart"] == []
    assert [one["name"] for one in proxy.view.pools()] == [f"127.0.0.1:{one.port}" for one in (first, second)]
    change(to(first), to(second, name="other"))
    paid(site, miner, first)
    assert (first.books.connects, second.books.connects) == (1, 0)
    change(to(second), to(first))  # it is the backup now: the miners go to the better one once that is well
    site.wait(lambda: on(proxy, second), 10, "the way to the better pool")
    connects = second.books.connects
    change(to(second))
    paid(site, follow(site, proxy, miner), second)
    assert second.books.connects == connects


def on(proxy, pool):
    """The miners work for this pool."""
    route = proxy.routes.routes[0]
    return route.is_up and route.pool.port == pool.port


def follow(site, proxy, miner):
    """Wait until a miner works on what the present pool sent, under its extranonce1."""
    def is_there():
        upstream = proxy.routes.routes[0].upstream
        return upstream is not None and miner.job.extranonce1.startswith(upstream.extranonce.extranonce1)
    site.wait(is_there, what="a job of the pool")
    return miner


def test_a_pool_that_has_changed_is_connected_to_anew_before_the_old_connection_goes(site, begun):
    pool = site.pool()
    proxy, change = begun(to(pool))
    miner = site.miner(proxy, extranonce=True)
    paid(site, miner, pool)
    assert change(to(pool, user="other"))["changed"] == ["upstream.user"]
    site.wait(lambda: proxy.routes.routes[0].pool.user == "other" and proxy.routes.routes[0].is_up)
    assert not miner.closed
    follow(site, proxy, miner)
    paid(site, miner, pool)
    assert [user for client in pool.connections for user in client.users][-1].startswith("other")
    site.wait(lambda: len(pool.connections) == 1)
    assert not proxy.metrics.upstream_losses and proxy.metrics.failovers == 0


def test_a_changed_pool_that_cannot_be_had_leaves_the_miners_where_they_are(site, begun):
    pool, other = site.pool(), site.pool()
    proxy, change = begun(to(pool))
    miner = site.miner(proxy, extranonce=True)
    other.stop()
    change(to(other))
    site.wait(lambda: other.port in {proxy.settings.upstream.port} and proxy.metrics.upstream_losses)
    site.wait_logged("configured no more, until 127.0.0.1:")
    paid(site, miner, pool)
    assert proxy.view.summary()["pool"]["name"] == f"127.0.0.1:{pool.port}"
    assert [one["state"] for one in proxy.view.pools()] == ["down"]
    other.start()
    site.wait(lambda: on(proxy, other), 10,
              "the way to the pool that is configured now")
    paid(site, follow(site, proxy, miner), other)
    site.wait(lambda: not pool.connections)


def test_shares_are_settled_by_pools_that_were_left_one_soon_after_the_other(site, begun):
    pools = [site.pool() for _ in range(3)]
    proxy, change = begun(to(pools[0]))
    miner, asked = site.miner(proxy, extranonce=True), []
    for number, pool in enumerate(pools):
        if number:
            change(to(pool))
            site.wait(lambda pool=pool: on(proxy, pool))
        follow(site, proxy, miner)
        pool.hold_answers = True
        share = miner.find_share(difficulty=pool.difficulty)
        asked.append((pool, miner.submit_async(share)))
        pool.wait(lambda pool=pool: pool.books.accepted == 1)
    draining = gevent.spawn(proxy.drain, Event())
    for pool, request in asked:
        assert not draining.dead, "it waits for the pools that were left as well"
        pool.release_answers()
        assert miner.verdict(request) is True
    draining.join(10)
    assert draining.dead and not proxy.metrics.upstream_losses


@pytest.mark.parametrize("fault", ["refuses", "is silent"])
def test_a_pool_that_is_corrected_is_dialled_at_once(site, begun, fault):
    dead, pool = site.pool(), site.pool()
    silent = socket.create_server(("127.0.0.1", 0))
    dead.stop()
    proxy, change = begun(to(dead, backoff_min_ms=600_000, backoff_max_ms=600_000) if fault == "refuses" else
                          f"host: 127.0.0.1, port: {silent.getsockname()[1]}, user: w, tls: true, handshake_ms: 600000")
    miner = site.connect(proxy)
    answer = miner.request_async("mining.subscribe", [])
    site.wait(lambda: proxy.metrics.upstream_losses if fault == "refuses" else proxy.metrics.upstream_dials)
    change(to(pool))
    assert miner.answer(answer).result is not None
    silent.close()


def test_what_a_pool_has_no_part_in_changes_without_another_connection(site, begun):
    pool = site.pool()
    proxy, change = begun(to(pool))
    miner = site.miner(proxy)
    change(to(pool, name="mine", held_shares=7, silence_ms=1000, hold_ms=5))
    route, = proxy.routes.routes
    assert (route.pool.held_shares, route.upstream.pool.silence_ms) == (7, 1000)
    assert str(route.upstream) == f"mine (127.0.0.1:{pool.port})"
    paid(site, miner, pool)
    assert pool.books.connects == 1 and proxy.view.pools()[0]["state"] == "active"


def test_pools_may_change_while_none_can_be_reached(site, begun):
    dead, pool = site.pool(), site.pool()
    dead.stop()
    proxy, change = begun(to(dead))
    miner = site.connect(proxy)
    answer = miner.request_async("mining.subscribe", [])
    site.wait(lambda: proxy.metrics.upstream_losses)
    change(to(pool))
    assert miner.answer(answer).result is not None
    assert proxy.routes.routes[0].pool.port == pool.port


def test_the_pool_that_an_operator_chose_stays_chosen(site, begun):
    first, second = site.pool(), site.pool()
    proxy, change = begun(to(first), to(second))
    site.miner(proxy)
    proxy.control.switch_pool(1)
    site.wait(lambda: on(proxy, second))
    change(to(second), to(first))
    change(to(first), to(second, name="x"))  # it is another one now: the first counts again
    site.wait(lambda: on(proxy, first), 10)


# ---------------------------------------------------------------- what a restart would refuse, and what contradicts

def test_what_would_contradict_what_stays_waits_for_the_restart_with_it(site, tmp_path):
    file, pool = tmp_path / "karoo.yaml", site.pool()
    text = f"""
upstream: {{host: 127.0.0.1, port: {pool.port}, user: wallet}}
proxy: {{listen: "127.0.0.1:0"}}
accounting: {{database: ""}}
"""
    file.write_text(f"{text}shares: {{algorithm: none}}\nvardiff: {{enabled: false}}\n")
    proxy = site.start(Proxy(config.load(file)))
    miner = site.miner(proxy)
    file.write_text(f"{text}vardiff: {{min_diff: 1e-9, max_diff: 1e-7}}\nratelimit: {{deny: [10.0.0.0/8]}}\n")
    assert Reloader(proxy, str(file))() == {"changed": ["ratelimit.deny"], "needs_restart": [
        "shares.algorithm", "vardiff.enabled", "vardiff.max_diff", "vardiff.min_diff"]}
    assert site.logged("vardiff: all changes wait for a restart, as with what is in force until then "
                       "(shares.algorithm) they would be a contradiction")
    assert not proxy.settings.vardiff.enabled and miner.difficulty == POOL_DIFFICULTY
    assert miner.submit(miner.find_share()) is True and pool.books.accepted == 1


LISTENERS = """
upstream: {host: 127.0.0.1, port: 1, user: wallet}
accounting: {database: ""}
"""


@pytest.mark.parametrize(("before", "after", "section"), [
    ('listeners: [{address: "127.0.0.1:0", name: a}, {address: "127.0.0.2:0", name: b}]',
     'listeners: [{address: "127.0.0.2:0", name: a}]', "listeners"),
    ('listeners: [{address: "127.0.0.1:0", profile: {min_diff: 1000}}]',
     'listeners: [{address: "127.0.0.2:0"}]\nvardiff: {max_diff: 500}', "vardiff"),
])
def test_a_listener_that_stays_until_the_restart_contradicts_nothing(site, tmp_path, before, after, section):
    file = tmp_path / "karoo.yaml"
    file.write_text(LISTENERS + before)
    proxy = site.start(Proxy(config.load(file)))
    former = proxy.settings
    file.write_text(LISTENERS + after)
    assert Reloader(proxy, str(file))()["changed"] == []
    assert getattr(proxy.settings, section) == getattr(former, section)
    assert site.logged(f"{section}: all changes wait")


def certificate(folder):
    issued = trustme.CA().issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")


@pytest.fixture
def over_tls(site, tmp_path):
    """A proxy with a plain listener and one over TLS, its file, and what reads it."""
    certificate(tmp_path)
    file = tmp_path / "karoo.yaml"
    file.write_text(LISTENERS + """
listeners:
  - {address: "127.0.0.1:0", tls: {enabled: true, cert_file: cert.pem, key_file: key.pem}}
  - {address: "127.0.0.2:0"}
""")
    proxy = site.start(Proxy(config.load(file)))
    return proxy, file, Reloader(proxy, str(file))


def test_a_certificate_that_was_renewed_in_its_file_is_told(site, over_tls, tmp_path):
    _, _, reload = over_tls
    assert reload() == {"changed": [], "needs_restart": []}
    certificate(tmp_path)
    assert reload() == {"changed": ["listeners[0].tls.cert_file (renewed)"], "needs_restart": []}
    assert site.logged(f"listeners[0].tls.cert_file (renewed): {tmp_path / 'cert.pem'} is valid until ")
    assert site.logged("0 options changed, 0 wait for a restart; 1 file of certificates renewed")


@pytest.mark.parametrize(("listeners", "named"), [
    ('listeners: [{address: "127.0.0.2:0"}, {address: "127.0.0.1:1", tls: {enabled: true, cert_file: none.pem, '
     'key_file: key.pem}}]', r"listeners\[1\]\.tls: .*none\.pem: No such file"),
    ('proxy: {tls: {enabled: true, cert_file: cert.pem, key_file: none.pem}}', r"proxy\.tls: .*none\.pem"),
])
def test_a_certificate_that_only_the_restart_would_read_is_read_before(over_tls, listeners, named):
    proxy, file, reload = over_tls
    before = proxy.settings
    file.write_text(LISTENERS + listeners)
    with pytest.raises(NoReload, match=named):
        reload()
    assert proxy.settings is before


def test_a_listener_that_is_gone_from_the_file_keeps_its_certificate_until_the_restart(over_tls, tmp_path):
    proxy, file, reload = over_tls
    security = proxy.entrances[0].security
    file.write_text(LISTENERS + 'listeners: [{address: "127.0.0.2:0", proxy_protocol: [127.0.0.9]}]\n')
    (tmp_path / "cert.pem").unlink()
    (tmp_path / "key.pem").unlink()
    assert reload()["changed"] == ["listeners[1].proxy_protocol"]
    assert proxy.entrances[0].security is security and security.context is not None
