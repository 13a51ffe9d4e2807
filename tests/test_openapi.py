"""The API keeps to its OpenAPI document, whatever it is asked: schemathesis makes the requests, right and wrong."""

import re
import subprocess
import sys
from pathlib import Path

from tests.site import EASY

TOKEN = "a-token-of-sixteen-signs"
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


def test_every_answer_is_one_that_the_document_tells_of(site, page, tmp_path):
    """With a ledger, as without one there are no curves."""
    proxy = site.proxy(site.pool(), vardiff={"start_diff": EASY, "min_diff": 1e-12}, http={"token": TOKEN},
                       accounting={"database": str(tmp_path / "karoo.db"), "flush_seconds": 0.5})
    for name in ("a.rig", "a.<b>ü</b>/x", "a.0"):
        miner = site.miner(proxy, user=name)
        assert miner.submit(miner.find_share()) is True
    site.wait(lambda: proxy.books.snapshot()["seconds_since_write"] is not None)
    server = page(proxy)
    done = subprocess.run(
        [SCHEMATHESIS, "run", f"http://127.0.0.1:{server.port}/api/v1/openapi.json",
         "--url", f"http://127.0.0.1:{server.port}/api/v1", "--header",
         f"Authorization: Bearer {TOKEN}", "--max-examples", "20", "--seed", "1", "--no-color"],
        cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    found = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert found is not None and int(found[1]) == int(found[2]) > 500, done.stdout[-3000:]
