"""Embedders of sentence-transformers give the vectors of the library, with the prompts of the model."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

if find_spec("sentence_transformers") is None:
    pytest.skip("the extra `sentence` is not installed", allow_module_level=True)

from safetensors.torch import load_file, save_file
from tests.unit.embedding import sentence_models
from tests.unit.embedding.sentence_models import edit
from transformers import BertModel

from retllm.embedding import Embedder, EmbedderInfo, can_load, load_embedder, sentence
from retllm.embedding.info import MAX_DIMENSION, checked_dimension
from retllm.errors import InvalidInput, ModelUnsuited

KINDS: dict[str, Callable[[Path], Path]] = {
    "clip": sentence_models.save_clip,
    "text": sentence_models.save_text,
    "pictures": sentence_models.save_pictures,
    "chat": sentence_models.save_chat,
}
TEXTS = ["a red square", "a blue circle left of a dog", "x", "word " * 60]


def _picture(seed: int, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


# two of them have the same size
PICTURES = [_picture(seed, size) for seed, size in enumerate([(64, 48), (48, 64), (64, 48), (33, 90), (20, 20)])]


@dataclasses.dataclass
class Pair:
    """A model as the platform loads it, and as the library does."""

    folder: Path
    ours: Embedder
    theirs: Any


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    from sentence_transformers import SentenceTransformer

    found = {}
    for kind, save in KINDS.items():
        folder = save(tmp_path_factory.mktemp(kind) / "model")
        theirs = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
        found[kind] = Pair(folder, load(folder), theirs)
    return found


def load(folder: Path, more: str = "", **options: str) -> Embedder:
    return load_embedder(f"st:local-dir:{folder}{more}", device="cpu", **options)


@pytest.mark.parametrize("query", [True, False])
@pytest.mark.parametrize("kind", ["clip", "text", "chat"])
def test_the_vectors_of_texts_are_those_of_the_library(pairs: dict[str, Pair], kind: str, query: bool) -> None:
    pair = pairs[kind]
    prompt = ("query" if query else "document") if kind != "text" else ("query" if query else "passage")
    expected = pair.theirs.encode(TEXTS, prompt_name=prompt, normalize_embeddings=True)
    found = pair.ours.embed_texts(TEXTS, query=query)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    for row, text in zip(found, TEXTS, strict=True):
        np.testing.assert_allclose(pair.ours.embed_texts([text], query=query)[0], row, atol=1e-5)


@pytest.mark.parametrize("query", [True, False])
@pytest.mark.parametrize("kind", ["clip", "pictures", "chat"])
def test_the_vectors_of_pictures_are_those_of_the_library(pairs: dict[str, Pair], kind: str, query: bool) -> None:
    pair = pairs[kind]
    encode = pair.theirs.encode_query if query else pair.theirs.encode_document
    expected = encode(PICTURES, normalize_embeddings=True)
    found = pair.ours.embed_images(PICTURES, query=query)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for row, picture in zip(found, PICTURES, strict=True):
        np.testing.assert_allclose(pair.ours.embed_images([picture], query=query)[0], row, atol=1e-5)
    if not query:
        prepared = [pair.ours.prepare(picture) for picture in PICTURES]
        np.testing.assert_allclose(pair.ours.embed_prepared(prepared), expected, atol=1e-5)


def test_a_large_batch_is_computed_in_parts(pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, sizes = pairs["clip"].ours, []
    forward = ours._forward

    def recorded(features: dict[str, Any], query: bool) -> torch.Tensor:
        found: torch.Tensor = forward(features, query)
        sizes.append(len(found))
        return found

    whole = ours.embed_images(PICTURES), ours.embed_texts(TEXTS)
    monkeypatch.setattr(ours, "_forward", recorded)
    monkeypatch.setattr(sentence, "_MOST_VALUES", 2 * 3 * 32 * 32)
    monkeypatch.setattr(sentence, "_MOST_CHARACTERS", 60)
    np.testing.assert_allclose(ours.embed_images(PICTURES), whole[0], atol=1e-6)
    assert sizes == [2, 2, 1]
    sizes.clear()
    np.testing.assert_allclose(ours.embed_texts(TEXTS), whole[1], atol=1e-6)
    # by length: 1, 12 and 27 characters would be 81, and 300 are above the limit by themselves
    assert sizes == [2, 1, 1]


def test_queries_and_items_have_their_own_prompts(pairs: dict[str, Pair]) -> None:
    for kind, differ in (("clip", False), ("text", True), ("chat", True)):
        ours = pairs[kind].ours
        assert ours.info.asymmetric is differ
        equal = np.allclose(ours.embed_texts(TEXTS, query=True), ours.embed_texts(TEXTS), atol=1e-4)
        assert equal is not differ
    chat = pairs["chat"].ours
    assert not np.allclose(chat.embed_images(PICTURES, query=True), chat.embed_images(PICTURES), atol=1e-4)


def test_an_embedder_knows_what_it_takes(pairs: dict[str, Pair]) -> None:
    takes = {kind: (pair.ours.info.pictures, pair.ours.info.texts) for kind, pair in pairs.items()}
    assert takes == {"clip": (True, True), "text": (False, True), "pictures": (True, False), "chat": (True, True)}
    for kind, refused, advice in (("text", "picture", "Give it a text"), ("pictures", "text", "Give it a picture")):
        info = pairs[kind].ours.info
        error = info.refusal("query", picture=refused == "picture", text=refused == "text")
        assert isinstance(error, InvalidInput)
        assert advice in error.message
        assert "/" not in error.message, "the folder of the model is nobody's business"
        assert info.refusal("item", picture=True, text=True) is None


def test_what_a_model_takes_is_told_before_it_is_loaded(pairs: dict[str, Pair], tmp_path: Path) -> None:
    said = {kind: can_load(f"st:local-dir:{pair.folder}").message for kind, pair in pairs.items()}
    assert said["text"].endswith(
        "is a local folder. It takes texts only: pictures get no vector unless they have a "
        "caption, and a picture can't be a query."
    )
    assert said["pictures"].endswith("It takes pictures only: texts get no vector, and a text can't be a query.")
    for kind in ("clip", "chat"):
        assert said[kind].endswith("is a local folder.")
    # saved by an older version of the library
    old = tmp_path / "old"
    shutil.copytree(pairs["text"].folder, old)
    (old / "sentence_bert_config.json").write_text('{"max_seq_length": 64, "do_lower_case": false}')
    assert "It takes texts only" in can_load(f"st:local-dir:{old}").message
    assert not load(old).info.pictures


def test_no_pictures_and_no_texts_have_no_rows(pairs: dict[str, Pair]) -> None:
    assert pairs["clip"].ours.embed_images([]).shape == (0, 16)
    assert pairs["clip"].ours.embed_texts([]).shape == (0, 16)


def test_pictures_are_decoded_at_twice_the_size_that_the_model_sees(pairs: dict[str, Pair]) -> None:
    assert pairs["clip"].ours.least_side == 2 * 32
    # the processor of the chat model limits the area: 64 x 64 pixels
    assert pairs["chat"].ours.least_side == 2 * 64
    assert pairs["text"].ours.least_side == 0


@pytest.mark.parametrize(
    ("settings", "side"),
    [
        ({"size": {"height": 384, "width": 384}}, 384),
        ({"size": {"shortest_edge": 65536, "longest_edge": 1000**2}, "merge_size": 2}, 1000),
        ({"size": {"height": 384, "width": 384}, "max_patches": 12}, 0),
        ({"size": {"shortest_edge": 336}, "image_grid_pinpoints": [[336, 672]]}, 0),
        ({}, 0),
    ],
)
def test_the_size_that_a_model_sees_follows_from_its_processor(settings: dict[str, Any], side: int) -> None:
    assert sentence._side(type("Images", (), settings)()) == side


def test_vectors_can_be_cut_to_a_length(pairs: dict[str, Pair]) -> None:
    cut = load(pairs["text"].folder, "#8")
    assert cut.info.dimension == 8
    expected = pairs["text"].theirs.encode(TEXTS, prompt_name="query", truncate_dim=8, normalize_embeddings=True)
    np.testing.assert_allclose(cut.embed_texts(TEXTS, query=True), expected, atol=1e-5)
    with pytest.raises(ModelUnsuited, match="have 24 dimensions and can't be cut to 25"):
        load(pairs["text"].folder, "#25")


def test_vectors_that_cannot_be_indexed_are_refused() -> None:
    assert checked_dimension("st:some/model", MAX_DIMENSION) == 4000
    with pytest.raises(ModelUnsuited, match="#1024"):
        checked_dimension("st:some/model", 4096)


def test_bfloat16_vectors_are_close_to_float32_vectors(pairs: dict[str, Pair]) -> None:
    low, high = load(pairs["clip"].folder, dtype="bfloat16"), pairs["clip"].ours
    assert (low.embed_texts(TEXTS) * high.embed_texts(TEXTS)).sum(axis=1).min() > 0.99
    assert (low.embed_images(PICTURES) * high.embed_images(PICTURES)).sum(axis=1).min() > 0.99
    assert np.abs(np.linalg.norm(low.embed_texts(TEXTS), axis=1) - 1).max() < 1e-6


def test_a_control_token_in_a_text_is_plain_text(pairs: dict[str, Pair]) -> None:
    for ours in (pairs["chat"].ours, pairs["text"].ours):
        control, plain = ours.embed_texts(["a cat<|im_end|> on a car", "a cat  im_end   on a car"])
        np.testing.assert_allclose(control, plain, atol=1e-5)


def test_the_error_for_a_broken_picture_has_its_index(pairs: dict[str, Pair], tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    _picture(1, (200, 200)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    for kind in ("clip", "chat"):
        with Image.open(path) as broken, pytest.raises(InvalidInput) as caught:
            pairs[kind].ours.embed_images([PICTURES[0], broken])
        assert caught.value.detail["index"] == 1


def test_the_revision_depends_on_the_files_of_all_modules_and_not_on_the_folder(
    pairs: dict[str, Pair], tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(pairs["text"].folder, copy)
    known = pairs["text"].ours.info
    assert load(copy).info.revision == known.revision
    weights = copy / "2_Dense" / "model.safetensors"
    save_file({name: tensor + 0.1 for name, tensor in load_file(weights).items()}, weights)
    assert load(copy).info.revision != known.revision


def test_the_preprocessing_hash_depends_on_prompts_and_pictures(pairs: dict[str, Pair], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(pairs["text"].folder, copy)
    edit(copy / "config_sentence_transformers.json", prompts={"query": "other: "})
    infos: list[EmbedderInfo] = [pairs["text"].ours.info, load(copy).info]
    infos.append(load(copy, picture_source="copy:1600").info)
    assert len({info.preprocessing_hash for info in infos}) == 3


def test_weights_in_several_files_are_loaded(pairs: dict[str, Pair], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(pairs["text"].folder, copy)
    model = BertModel.from_pretrained(copy)
    (copy / "model.safetensors").unlink()
    model.save_pretrained(copy, max_shard_size="20KB")
    assert (copy / "model.safetensors.index.json").exists()
    np.testing.assert_array_equal(load(copy).embed_texts(TEXTS), pairs["text"].ours.embed_texts(TEXTS))
