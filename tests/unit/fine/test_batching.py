"""Pairs are grouped within the token budget, and the layout of a batch is correct."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from retllm.fine.batching import Pair, collate, join, kind_of, pack

IMAGE = 9


def pair(index: int, length: int, visual: int = 0, pictures: int = 0) -> Pair:
    ids = torch.ones(1, length, dtype=torch.long)
    ids[0, 1 : 1 + visual] = IMAGE
    vision = {"pixel_values": torch.ones(pictures, 3)} if pictures else {}
    return Pair(
        index, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, vision, tuple(map(str, range(pictures)))
    )


PAIRS = st.lists(st.tuples(st.integers(3, 60), st.integers(0, 2)), max_size=30).map(
    lambda rows: [pair(at, length, visual=1 if n else 0, pictures=n) for at, (length, n) in enumerate(rows)]
)


@given(PAIRS, st.integers(1, 300))
def test_every_pair_is_in_exactly_one_group_and_no_group_exceeds_the_budget(pairs: list[Pair], budget: int) -> None:
    groups = pack(pairs, budget, kind_of)
    assert sorted(one.index for group in groups for one in group) == list(range(len(pairs)))
    for group in groups:
        assert len(group) == 1 or max(one.length for one in group) * len(group) <= budget
        assert len({len(one.pictures) for one in group}) == 1


@given(PAIRS)
def test_pairs_with_equally_many_pictures_share_a_group_sorted_by_length(pairs: list[Pair]) -> None:
    groups = pack(pairs, 10**6, kind_of)
    assert len(groups) <= 3
    for group in groups:
        lengths = [one.length for one in group]
        assert lengths == sorted(lengths, reverse=True)
    assert sum(len(group) for group in groups) == len(pairs)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(2, 9)), min_size=1, max_size=6))
def test_the_layout_of_a_batch_marks_real_visual_and_suffix_positions(rows: list[tuple[int, int]]) -> None:
    pairs = [pair(at, 1 + visual + rest, visual=visual) for at, (visual, rest) in enumerate(rows)]
    batch = collate(pairs, pad_token=0, image_token=IMAGE)
    layout, ids = batch.layout, batch.inputs["input_ids"]
    for at, one in enumerate(pairs):
        visual = rows[at][0]
        assert int(layout.last[at]) == one.length - 1
        assert layout.real[at].tolist() == [place < one.length for place in range(ids.shape[1])]
        assert batch.inputs["attention_mask"][at].tolist() == layout.real[at].long().tolist()
        assert layout.visual[at][layout.visual_real[at]].tolist() == list(range(1, 1 + visual))
        first_after = 1 + visual if visual else 0
        expected = [first_after <= place < one.length for place in range(ids.shape[1])]
        assert layout.suffix[at].tolist() == expected
        assert ids[at, one.length :].tolist() == [0] * (ids.shape[1] - one.length)


def test_padding_with_the_image_token_is_not_counted_as_visual() -> None:
    batch = collate([pair(0, 5, visual=2), pair(1, 9, visual=1)], pad_token=IMAGE, image_token=IMAGE)
    assert batch.layout.visual_real.sum(dim=1).tolist() == [2, 1]


def test_pixel_values_of_different_shapes_are_padded_with_zeros() -> None:
    joined = join([torch.ones(1, 2, 3), torch.ones(2, 1, 4)])
    assert joined.shape == (3, 2, 4)
    assert joined[0].tolist() == [[1, 1, 1, 0], [1, 1, 1, 0]]
    assert joined[1].tolist() == [[1, 1, 1, 1], [0, 0, 0, 0]]
