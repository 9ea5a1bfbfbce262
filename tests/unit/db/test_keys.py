"""Keys are UUIDs of version 7 in the order of their creation, and keep to the clock however many are made."""

from __future__ import annotations

import time
import uuid

from retllm.db.base import new_id


def test_many_keys_are_in_order_and_none_is_ahead_of_the_clock() -> None:
    before = time.time()
    keys = [new_id() for _ in range(50_000)]
    after = time.time()
    assert keys == sorted(set(keys))
    assert {(key.version, key.variant) for key in keys} == {(7, uuid.RFC_4122)}
    # a key has whole milliseconds and a 4,096th of one; a fast machine may be ahead by a part of the loop's time
    made_at = [(key.int >> 80) / 1000 for key in keys]
    assert before - 0.001 <= made_at[0]
    assert made_at[-1] <= after + 50_000 / 4096 / 1000
