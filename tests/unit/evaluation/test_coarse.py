"""The coarse stage of an evaluation, in memory."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tests.unit.evaluation.stages import ColourEmbedder, write_picture

from retllm.embedding import fuse
from retllm.errors import InvalidInput
from retllm.evaluation import coarse
from retllm.evaluation.benchmark import Item, Task, picture_item, text_item
from retllm.fine import Picture


def ignore(_: int) -> None: ...


@pytest.fixture
def pictures(tmp_path):
    return [
        picture_item(write_picture(tmp_path / f"{name}.png", name), f"{name}.png") for name in ("red", "green", "blue")
    ]


def test_candidates_are_ordered_by_similarity_and_ties_keep_their_order():
    """The result is compared with a plain loop over all pairs, for several limits of memory."""
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((23, 6)).astype(np.float32)
    candidates = np.repeat(rng.standard_normal((9, 6)), 2, axis=0).astype(np.float32)
    for cells in (1, 50, 2**25):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(coarse, "_CELLS", cells)
            order, similarity = coarse.nearest(queries, candidates, None, 5)
        for row, query in enumerate(queries):
            products = [round(float(query @ candidate), 4) for candidate in candidates]
            wanted = sorted(range(18), key=lambda place: (-products[place], place))[:5]
            assert order[row].tolist() == wanted
            assert similarity[row].tolist() == pytest.approx([products[place] for place in wanted], abs=1e-3)


def test_a_query_is_compared_only_with_its_own_candidates():
    queries = np.eye(3, dtype=np.float32)
    candidates = np.array([[1, 0, 0], [0.5, 0.5, 0], [0, 0, 1], [0, 1, 0]], dtype=np.float32)
    order, similarity = coarse.nearest(queries, candidates, [(3, 1), (0, 2, 3), (2,)], depth=3)
    assert order.tolist() == [[1, 3, -1], [3, 0, 2], [2, -1, -1]]
    assert np.isnan(similarity[0, 2])


def test_an_item_with_picture_and_text_has_the_fused_embedding(embedder, pictures):
    both = Item("both", text="blue", picture=pictures[0].picture)
    (vector,) = coarse.embedded(embedder, [both], 0.7)
    wanted = fuse(embedder.embed_images([pictures[0].picture.rgb()]), embedder.embed_texts(["blue"]), 0.7)[0]
    assert vector == pytest.approx(wanted)


def test_an_item_with_nothing_that_the_embedder_takes_is_refused(pictures):
    embedder = ColourEmbedder()
    embedder.info = dataclasses.replace(embedder.info, pictures=False)
    both = Item("both", text="blue", picture=pictures[0].picture)
    (vector,) = coarse.embedded(embedder, [both], 0.7)
    assert vector == pytest.approx(embedder.embed_texts(["blue"])[0])
    with pytest.raises(InvalidInput, match="takes only texts"):
        coarse.embedded(embedder, [both, pictures[0]], 0.7)


def test_queries_have_embeddings_of_their_own_if_the_model_has_prompts(tmp_path):
    for asymmetric, texts in ((False, 1), (True, 2)):
        embedder = ColourEmbedder()
        embedder.info = dataclasses.replace(embedder.info, revision=str(asymmetric), asymmetric=asymmetric)
        kept = coarse.KeptVectors(tmp_path, embedder)
        for query in (True, False):
            kept.of([text_item("a red thing")], 0.7, ignore, query=query)
        assert embedder.texts == texts


def test_embeddings_are_computed_once(tmp_path, embedder, pictures):
    task = Task("t2i", "ranking", [text_item("a red thing")], pictures, [frozenset({0})])
    first = coarse.rank(task, coarse.KeptVectors(tmp_path / "kept", embedder), 3, ignore)
    another = ColourEmbedder()
    again = coarse.rank(task, coarse.KeptVectors(tmp_path / "kept", another), 3, ignore)
    assert (another.pictures, another.texts) == (0, 0)
    assert again.order.tolist() == first.order.tolist()
    assert first.order[0, 0] == 0
    assert again.seconds > 0


def test_kept_embeddings_of_another_model_or_other_items_are_not_used(tmp_path, pictures):
    for revision, items in (("1", pictures), ("2", pictures), ("2", pictures[:2])):
        embedder = ColourEmbedder()
        embedder.info = dataclasses.replace(embedder.info, revision=revision)
        vectors, _ = coarse.KeptVectors(tmp_path / "kept", embedder).of(items, 0.7, ignore)
        assert embedder.pictures == len(items) == len(vectors)


def test_another_picture_weight_embeds_only_items_with_picture_and_text_again(tmp_path, embedder, pictures):
    """The picture weight has no effect on items without a text."""
    kept = coarse.KeptVectors(tmp_path, embedder)
    for weight in (0.7, 0.8):
        kept.of(pictures, weight, ignore)
        kept.of([Item("both", text="blue", picture=pictures[0].picture)], weight, ignore)
    assert (embedder.pictures, embedder.texts) == (3 + 2, 2)


@pytest.mark.parametrize("keep", [0, 30, -30])
def test_a_damaged_file_of_embeddings_is_computed_again(tmp_path, embedder, pictures, keep):
    vectors, _ = coarse.KeptVectors(tmp_path / "kept", embedder).of(pictures, 0.7, ignore)
    (path,) = (tmp_path / "kept").iterdir()
    path.write_bytes(path.read_bytes()[:keep])
    recomputed, _ = coarse.KeptVectors(tmp_path / "kept", embedder).of(pictures, 0.7, ignore)
    assert recomputed.tolist() == vectors.tolist()
    assert embedder.pictures == 6


def test_an_interrupted_embedding_continues_after_its_last_chunk(tmp_path, embedder, pictures, monkeypatch):
    monkeypatch.setattr(coarse, "_CHUNK", 1)
    bad = Item("bad", picture=Picture(lambda: 1 / 0, "bad"))
    with pytest.raises(ZeroDivisionError):
        coarse.KeptVectors(tmp_path, embedder).of([*pictures, bad], 0.7, ignore)
    seen = embedder.pictures
    coarse.KeptVectors(tmp_path, embedder).of(pictures, 0.7, ignore)
    assert (seen, embedder.pictures) == (3, 3)
