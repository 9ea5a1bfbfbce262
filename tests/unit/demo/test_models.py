"""The two shipped models load offline, are small, accept any picture, and reach the quality of their cards."""

from __future__ import annotations

import json
import os

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor

from retllm.demo import models_dir
from retllm.demo.claims import caption
from retllm.demo.scenes import render
from retllm.demo.variants import gallery, hard_pairs
from retllm.demo.world import write_collection
from retllm.embedding import load_embedder
from retllm.evaluation.benchmarks import make_scenes
from retllm.evaluation.coarse import KeptVectors
from retllm.evaluation.fine import CachingScorer
from retllm.evaluation.metrics import mean_of_parts
from retllm.evaluation.run import Part, evaluate_section
from retllm.evaluation.scores import KeptScores
from retllm.evaluation.variants import Variant
from retllm.fine import Content, load_scorer

CLIP, MLLM = models_dir() / "clip", models_dir() / "mllm"
#: a seed that nothing else uses
SEED = 907


@pytest.fixture(scope="module")
def scorer():
    return load_scorer(str(MLLM), device="cpu")


@pytest.fixture(scope="module")
def embedder():
    return load_embedder(f"local-dir:{CLIP}", device="cpu")


def test_both_models_together_are_small():
    """Under 15 MB, weights in half precision, and nothing but text and safetensors."""
    files = [path for folder in (CLIP, MLLM) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 15_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".jinja", ".txt"}
    for weights in (path for path in files if path.suffix == ".safetensors"):
        with safe_open(weights, "pt") as tensors:
            assert {str(tensors.get_slice(key).get_dtype()) for key in tensors.keys()} == {"F16"}  # noqa: SIM118


def test_both_models_load_offline_with_the_standard_loaders(monkeypatch):
    """open_clip by ``local-dir:``, transformers by the Auto classes, with the hub switched off."""
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{CLIP}")
    tokens = open_clip.get_tokenizer(f"local-dir:{CLIP}")(["a red circle above a blue square"])
    picture = preprocess(Image.new("RGB", (90, 70), "red"))[None]
    with torch.inference_mode():
        assert model.encode_text(tokens).shape == model.encode_image(picture).shape
    processor = AutoProcessor.from_pretrained(MLLM)
    model = AutoModelForImageTextToText.from_pretrained(MLLM)
    assert type(model).__name__ == "Qwen3VLForConditionalGeneration"
    assert 1e6 < sum(parameter.numel() for parameter in model.parameters()) < 3e6
    for word in ("True", "False", " True", " False"):
        assert len(processor.tokenizer.encode(word)) == 1


def test_any_text_can_be_tokenized():
    """The byte-level vocabularies of both models can encode unknown words."""
    text = "Zwölf Boxkämpfer jagen 東京 🙂 <|nothing|>"
    tokenizer = AutoProcessor.from_pretrained(MLLM).tokenizer
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert open_clip.get_tokenizer(f"local-dir:{CLIP}")([text * 20]).shape == (1, 40)


@pytest.mark.parametrize("size", [(600, 400), (400, 600), (64, 64), (20, 9), (1200, 90), (1, 1)])
def test_a_picture_of_any_size_can_be_scored_and_embedded(scorer, embedder, size):
    """Score and entropy are valid for a query with a text, a picture, or both."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    other = Image.new("RGB", (64, 64), "green")
    for query in (Content(text="a boat on the water"), Content(image=other), Content(image=other, text="a boat")):
        (scored,) = scorer.score(query, [Content(image=picture)])
        assert 0 <= scored.score <= 1
        assert scored.entropy >= 0
    assert np.isfinite(embedder.embed_images([picture])).all()


def test_almost_all_probability_is_on_the_answers_true_and_false(scorer):
    """So the entropy of a confident answer is near zero."""
    pair = hard_pairs("replace_attribute", 1, SEED)[0]
    picture = Content(image=render(pair.scene, 256))
    true, false = scorer.score(picture, [Content(text=str(pair.true)), Content(text=str(pair.false))])
    assert true.score > 0.5 > false.score
    assert max(true.entropy, false.entropy) < np.log(2) + 0.1


class Unseen:
    """Shows no progress."""

    def stage(self, name, total):
        return lambda done: None


def measured(folder, tasks, embedder, scorer) -> list[Part]:
    with KeptScores(folder / "scores.sqlite") as kept:
        caching_scorer = CachingScorer(scorer, kept)
        vectors = KeptVectors(folder / "vectors", embedder)
        (result,) = evaluate_section("t", tasks, [Variant("all", 10)], vectors, caching_scorer, Unseen())
    return list(result.parts)


def test_the_fine_stage_corrects_errors_of_the_coarse_stage(tmp_path, scorer, embedder):
    """In six held-out families the first candidate of the fine stage is right far more often."""
    (part,) = measured(tmp_path, make_scenes(6, 0, SEED).sections["t2i"], embedder, scorer)
    assert part.coarse[10].mean() >= 0.9
    assert part.fine[1].mean() >= part.coarse[1].mean() + 0.2
    assert part.fine[1].mean() >= 0.8
    assert part.fine[10].mean() == part.coarse[10].mean()


def test_swaps_need_the_fine_stage(tmp_path, scorer, embedder):
    """On captions with the same words the embedder is near chance, the scorer is not."""
    swaps = [task for task in make_scenes(1, 40, SEED).sections["choice"] if task.group == "swap"]
    parts = measured(tmp_path, swaps, embedder, scorer)
    assert [part.name for part in parts] == ["swap_object", "swap_attribute"]
    for part in parts:
        assert mean_of_parts([part.fine[1]]) >= 0.8
        assert mean_of_parts([part.coarse[1]]) <= 0.8


def test_the_demo_collection_has_pictures_with_captions_and_is_reproducible_by_seed(tmp_path):
    """The pictures are PNG files of held-out scenes with one line each in captions.jsonl."""
    queries = write_collection(tmp_path / "one", families=2, seed=SEED)
    again = write_collection(tmp_path / "two", families=2, seed=SEED)
    assert queries == again
    lines = [json.loads(line) for line in (tmp_path / "one" / "captions.jsonl").read_text().splitlines()]
    assert lines == [{"file": query.file, "caption": query.query} for query in queries]
    assert [query.query for query in queries] == [caption(scene) for family in gallery(2, SEED) for scene in family]
    for query in queries:
        with Image.open(tmp_path / "one" / query.file) as picture:
            assert (picture.format, picture.size) == ("PNG", (256, 256))
        assert (tmp_path / "one" / query.file).read_bytes() == (tmp_path / "two" / query.file).read_bytes()
