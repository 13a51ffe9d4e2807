"""Dialogues of real miners, replayed against the live proxy. What the files may say stands in transcripts/replay.py."""

from pathlib import Path

import pytest

from karoo.stratum import messages
from tests.transcripts.replay import Replay

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))
@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in TRANSCRIPTS])
def test_transcript(site, path):
    Replay(site, path).run()


def test_bfgminer_asking_for_the_transactions_of_a_job_harms_nobody(site):
    """It asks for those of every job; a pool that tells them answers with megabytes."""
    pool = site.pool()
    proxy = site.proxy(pool)
    miner, other = site.miner(proxy), site.miner(proxy)
    client = pool.connections[0]
    client._handlers["mining.get_transactions"] = lambda request: client.send(
        messages.result(request.id, ["00" * 1_000_000]))
    assert miner.request("mining.get_transactions", [miner.job.wire_id], message_id=f"txlist{miner.job.wire_id}")
    for asking in (miner, other):
        assert asking.submit(asking.find_share()) is True
    assert pool.books.connects == 1


def test_a_miner_may_suggest_its_difficulty_between_another_extranonce_and_the_job_behind_it(site):
    """NerdMiner does so every 30 s; the pool's extranonce2 has another size than before, which ends all its jobs."""
    pool = site.pool()
    proxy = site.proxy(pool)
    miner = site.miner(proxy, extranonce=True)
    pool.send_to_all(messages.notification("mining.set_extranonce", ["0011223344", 6]))
    site.wait(lambda: proxy.routes.routes[0].extranonce.extranonce2_size == 6)
    try:
        assert miner.suggest_difficulty(0.00015) is True
        pool.new_job()
        assert miner.wait_notification("mining.set_extranonce").params == [miner.extranonce1.hex(), 4]
    finally:
        proxy.metrics.exceptions = 0  # the site would report it once more
