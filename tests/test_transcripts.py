"""Dialogues of real miners, replayed against the live proxy. What the files may say stands in transcripts/replay.py."""

from pathlib import Path

import pytest

from tests.transcripts.replay import Replay

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(site, path):
    Replay(site, path).run()
