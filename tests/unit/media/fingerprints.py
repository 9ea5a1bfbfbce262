"""The fingerprint of a file by its definition, for comparison."""

from __future__ import annotations

import hashlib


def fingerprint(content: bytes, size: int = 4 << 20) -> str:
    """Return the SHA-256 of the SHA-256 digests of the slices of ``content``."""
    slices = (content[start : start + size] for start in range(0, len(content), size))
    return hashlib.sha256(b"".join(hashlib.sha256(one).digest() for one in slices)).hexdigest()
