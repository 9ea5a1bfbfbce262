"""The fingerprint of a large file does not depend on how its bytes come."""

from __future__ import annotations

import random

import pytest
from tests.unit.media.fingerprints import fingerprint

from retllm.media.fingerprints import SLICE, Fingerprint


@pytest.mark.parametrize("size", [0, 1, SLICE - 1, SLICE, SLICE + 1, 2 * SLICE, 2 * SLICE + 5])
@pytest.mark.parametrize("piece", [1 << 16, SLICE - 3, 3 * SLICE])
def test_it_is_that_of_the_slices_however_the_bytes_come(size: int, piece: int) -> None:
    content = random.Random(size).randbytes(size)
    computed = Fingerprint()
    for start in range(0, size, piece):
        computed.update(content[start : start + piece])
    assert computed.hexdigest() == computed.hexdigest() == fingerprint(content)


def test_every_byte_counts() -> None:
    content = bytes(2 * SLICE + 1)
    found = {fingerprint(content)}
    for place in (0, SLICE - 1, SLICE, 2 * SLICE):
        computed = Fingerprint()
        computed.update(content[:place] + b"x" + content[place + 1 :])
        found.add(computed.hexdigest())
    assert len(found) == 5
