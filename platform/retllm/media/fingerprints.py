"""The fingerprint of a large file: the SHA-256 of the digests of its slices.

A browser can hash only what it has in memory as a whole, and so a slice, but no large file.
"""

from __future__ import annotations

import hashlib

SLICE = 4 << 20
"""Bytes of a slice; the last one of a file may have fewer."""


class Fingerprint:
    """Computes the fingerprint of the bytes that it gets, like an object of ``hashlib``."""

    def __init__(self) -> None:
        self._digests = hashlib.sha256()
        self._slice = hashlib.sha256()
        self._left = SLICE

    def update(self, data: bytes) -> None:
        """Add bytes."""
        view = memoryview(data)
        while view:
            piece, view = view[: self._left], view[self._left :]
            self._slice.update(piece)
            self._left -= len(piece)
            if not self._left:
                self._end_slice()

    def _end_slice(self) -> None:
        self._digests.update(self._slice.digest())
        self._slice, self._left = hashlib.sha256(), SLICE

    def hexdigest(self) -> str:
        """Return the fingerprint of all bytes so far."""
        digests = self._digests.copy()
        if self._left < SLICE:
            digests.update(self._slice.digest())
        return digests.hexdigest()
