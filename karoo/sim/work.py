"""Jobs as a real pool makes them: coinbase, branches, previous block. No I/O."""

from __future__ import annotations

import random

from karoo.stratum.difficulty import target_of_nbits
from karoo.stratum.job import swap_words
from karoo.stratum.methods import Notify

TAG = b"/simulated pool/"
FIRST_HEIGHT = 900_000
SUBSIDY = 312_500_000  # satoshi
_NO_OUTPOINT = bytes(32) + b"\xff" * 4
_SEQUENCE = b"\xff" * 4


class WorkMaker:
    """Makes mining.notify after mining.notify: the same ones for the same seed, ntime aside.

    A clean job stands on a new block: prevhash and height change. Others differ from their
    predecessor in the transactions, thus in the branches and the outputs.
    """

    def __init__(self, seed: int, extranonce_bytes: int, branches: int, version: int, nbits: int,
                 coinbase_bytes: int = 0) -> None:
        self._random = random.Random(seed)
        self._extranonce_bytes = extranonce_bytes
        self._branches, self._version, self._nbits = branches, version, nbits
        self._network_target = target_of_nbits(nbits)
        self._payout = b"\x00\x14" + self._random.randbytes(20)  # witness v0, key hash
        self._height = FIRST_HEIGHT - 1
        self._prevhash = b""
        self._made = 0
        self._fill = (0, b"")  # outputs that make the coinbase as large as it is to be
        if coinbase_bytes:
            state = self._random.getstate()
            self._fill = _filling(coinbase_bytes - sum(map(len, self._coinbase())) - extranonce_bytes)
            self._random.setstate(state)

    def next(self, clean: bool, ntime: int) -> Notify:
        """The next job; its id is a number in hex that never repeats. The first is on a new block anyway."""
        if clean or not self._prevhash:
            self._height += 1
            # a block's hash ends in zeros as it stands in the header
            self._prevhash = swap_words(self._random.randbytes(22) + bytes(10))
        self._made += 1
        coinb1, coinb2 = self._coinbase()
        branches = tuple([self._random.randbytes(32) for _ in range(self._branches)])
        return Notify(f"{self._made:x}", self._prevhash, coinb1, coinb2, branches, self._version, self._nbits,
                      ntime, clean, self._network_target)

    def _coinbase(self) -> tuple[bytes, bytes]:
        """What stands before and after the extranonces: 165 bytes and the extranonces, within NerdMiner's 255."""
        height = self._height.to_bytes(3, "little")  # a script number: three bytes up to block 8,388,607
        script_start = bytes([len(height)]) + height
        script_length = len(script_start) + self._extranonce_bytes + len(TAG)
        coinb1 = b"".join([(1).to_bytes(4, "little"), b"\x01", _NO_OUTPOINT, bytes([script_length]), script_start])
        value = SUBSIDY + self._random.randrange(20_000_000)
        commitment = b"\x6a\x24\xaa\x21\xa9\xed" + self._random.randbytes(32)
        count, fill = self._fill
        coinb2 = b"".join([TAG, _SEQUENCE, bytes([2 + count]), _output(value, self._payout), _output(0, commitment),
                           fill, bytes(4)])
        return coinb1, coinb2


def _output(value: int, script: bytes) -> bytes:
    return value.to_bytes(8, "little") + bytes([len(script)]) + script


def _filling(size: int) -> tuple[int, bytes]:
    """Outputs to nobody that take so many bytes together: how many they are, and they. Raises ValueError where there
    are none of that size."""
    if size == 0:
        return 0, b""
    count = max(1, -(-size // 200))
    if size < 9 or count > 200:
        raise ValueError(f"a coinbase cannot be changed by {size} bytes")
    sizes = [size // count + (number < size % count) for number in range(count)]
    return count, b"".join(_output(0, bytes(each - 9)) for each in sizes)
