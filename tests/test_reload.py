"""Reading the configuration again: what can change at once does, the rest is named, a faulty file changes nothing."""

import logging

import pytest

from karoo import config
from karoo.reload import NoReload, Reloader

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
    proxy.apply(settings)
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
    _, file, reload = running
    file.write_text(file.read_text().replace("user: wallet", "user: other").replace("first-secret", "second-secret"))
    assert reload() == {"changed": [], "needs_restart": ["upstream.pass", "upstream.user"]}
    assert site.logged("upstream.user: 'other' instead of 'wallet', after a restart")
    assert site.logged("upstream.pass: (secret) instead of (secret)")
    assert not site.logged("second-secret") and not site.logged("first-secret")


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
