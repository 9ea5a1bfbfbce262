"""Groups are formed around a picture to which all others are near; what was dismissed does not come back."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

import numpy as np

from retllm.duplicates.grouping import HASH_DISTANCE, LARGEST, SIMILAR_DISTANCE, Similar, form_groups

SOME, OTHER = 0x0123456789ABCDEF, 0xFEDCBA9876543210


def turned(value: int, bits: int, first: int = 0) -> int:
    """The value with so many bits turned, from the bit ``first`` on."""
    return value ^ (((1 << bits) - 1) << first)


def groups(
    hashes: Sequence[int], similar: Sequence[Similar] = (), dismissed: dict[int, frozenset[UUID]] | None = None
) -> list[list[int]]:
    found = form_groups(np.array(hashes, dtype=np.uint64), similar, dismissed or {})
    return [[member.place for member in group] for group in found]


def test_pictures_whose_hashes_are_near_form_a_group_with_their_distances() -> None:
    hashes = np.array([SOME, OTHER, turned(SOME, 2), turned(SOME, HASH_DISTANCE + 1, 30), SOME], dtype=np.uint64)
    (group,) = form_groups(hashes, [], {})
    assert [tuple(member) for member in group] == [(0, 0, None), (4, 0, None), (2, 2, None)]


def test_similar_vectors_count_if_the_hashes_do_not_differ_much() -> None:
    hashes = [SOME, turned(SOME, SIMILAR_DISTANCE), OTHER, turned(OTHER, SIMILAR_DISTANCE + 1)]
    assert groups(hashes, [Similar(0, 1, 0.99), Similar(2, 3, 0.99)]) == [[0, 1]]
    (group,) = form_groups(np.array(hashes[:2], dtype=np.uint64), [Similar(0, 1, 0.99)], {})
    assert tuple(group[1]) == (1, SIMILAR_DISTANCE, 0.99)


def test_pictures_that_show_too_little_are_in_no_group() -> None:
    assert groups([0, 0, 0, SOME], [Similar(0, 1, 1.0), Similar(0, 3, 1.0)]) == []


def test_a_chain_is_no_group_each_picture_is_near_to_the_first_one() -> None:
    step = HASH_DISTANCE
    chain = [turned(SOME, step * number) for number in range(7)]
    found = groups(chain)
    assert sorted(place for group in found for place in group) != []
    for group in found:
        for place in group[1:]:
            assert (chain[place] ^ chain[group[0]]).bit_count() <= HASH_DISTANCE
    assert len({place for group in found for place in group}) == sum(map(len, found)), "each in one group at most"


def test_the_largest_group_is_first_and_a_very_large_one_is_divided() -> None:
    found = groups([OTHER, OTHER, *[SOME] * (2 * LARGEST + 1)])
    assert [len(group) for group in found] == [34, 34, 33, 2]
    assert sorted(place for group in found for place in group) == list(range(2 * LARGEST + 3))


def test_pictures_that_were_dismissed_together_are_not_brought_together_again() -> None:
    dismissal = frozenset([uuid4()])
    alike = [SOME, SOME, turned(SOME, 1)]
    assert groups(alike, dismissed=dict.fromkeys(range(3), dismissal)) == []
    similar = [Similar(0, 2, 0.99)]
    assert groups(alike, similar, dict.fromkeys(range(3), dismissal)) == [], "nor by their vectors"


def test_a_new_picture_forms_a_group_with_those_that_were_dismissed_among_themselves() -> None:
    dismissal = frozenset([uuid4()])
    assert groups([SOME, SOME, SOME], dismissed={0: dismissal, 1: dismissal}) == [[2, 0, 1]]
    other = {0: frozenset([uuid4()]), 1: frozenset([uuid4()])}
    assert groups([SOME, SOME], dismissed=other) == [[0, 1]], "they were dismissed with others"
