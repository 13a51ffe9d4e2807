"""How a pool reads the version bits of a share: learned from its verdicts. No I/O.

By BIP 310 the bits replace the job's inside the mask; some pools (public-pool) XOR them into the job's version. The
two say the same unless the job's version has bits inside the mask, so only such shares can teach.
"""

from __future__ import annotations

TELLING_CODES = (20, 23)  # refusals that a misread version may cause: "other" and low difficulty


class VersionForm:
    """One pool's way."""

    def __init__(self) -> None:
        self._xor = False
        self._sure = False

    def bits(self, version: int, job_version: int, mask: int, other: bool = False) -> int:
        """The version bits that make the pool see `version`; `other`: by the way that it is not taken to read."""
        return version ^ job_version if self._xor is not other else version & mask

    def may_be_misread(self, code: int, job_version: int, mask: int) -> bool:
        """Whether a refused share is worth sending once more, the other way."""
        return not self._sure and code in TELLING_CODES and bool(job_version & mask)

    def accepted(self, job_version: int, mask: int, other: bool) -> None:
        """The pool took a share with rolled bits."""
        if job_version & mask and not self._sure:
            self._sure = True
            self._xor = self._xor is not other
