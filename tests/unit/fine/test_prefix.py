"""Splitting questions into image prefix and tail does not change scores, and saves computation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.soak import scaled
from tests.unit.fine.families import FAMILIES, with_each

from retllm.fine import Content, Injection, PairScore, Picture, Scorer, load_scorer
from retllm.fine.engine import Engine
from retllm.fine.prefix import PrefixCache, split
from retllm.fine.splitting import splits_exactly

OFF = Injection(trigger="off")
#: triggers at different layers for some samples, and not at all for others; does not change the prefix
SUFFIX = Injection(alpha=0.5, tau=0.66, start=0, end=6, scope="suffix")
INJECTIONS = {"off": OFF, "suffix": SUFFIX}

#: their decoders attend in both directions, or cache more than keys and values
NOT_SPLIT = {"paligemma", "qwen3_5"}


def picture(seed: int, width: int = 24, height: int = 16) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pictures() -> list[Content]:
    """Return pictures of different sizes, so that prefixes differ in length."""
    return [Content(image=picture(seed, 20 + 9 * seed, 44 - 5 * seed)) for seed in range(5)]


TEXTS = [Content(text=text) for text in ("a", "a red square is left of a small blue circle", "a dog " * 7)]
CAPTIONED = [Content(image=picture(40 + at, 30, 30), text=f"caption {at}") for at in range(2)]


def assert_same_scores(found: list[PairScore], expected: list[PairScore]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.score == pytest.approx(other.score, rel=1e-3)
        assert one.log_odds == pytest.approx(other.log_odds, abs=2e-3)
        assert one.entropy == pytest.approx(other.entropy, rel=1e-3)
        assert one.injected_layer == other.injected_layer
        assert one.uncertainty == pytest.approx(other.uncertainty, abs=1e-4)
        assert one.tokens == other.tokens


class Passes:
    """Counts the samples that are computed as whole questions, as prefixes and as tails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen = {"_whole": 0, "_make": 0, "_tails": 0}
        for name in self.seen:
            monkeypatch.setattr(Engine, name, self._counting(name, getattr(Engine, name)))

    def _counting(self, name: str, plain: Any) -> Any:
        def counted(engine: Engine, group: Any, *more: Any) -> Any:
            self.seen[name] += len(group)
            return plain(engine, group, *more)

        return counted

    def take(self) -> tuple[int, int, int]:
        """Return the numbers of whole questions, prefixes and tails since the last call."""
        counts = self.seen["_whole"], self.seen["_make"], self.seen["_tails"]
        self.seen.update(dict.fromkeys(self.seen, 0))
        return counts


@pytest.mark.parametrize(("family", "kind"), with_each(list(INJECTIONS), of_others=1))
def test_scores_are_equal_without_cache_with_a_cold_and_with_a_warm_cache(
    family: str, kind: str, scorer_of: Callable[[str], Scorer]
) -> None:
    scorer, injection = scorer_of(family), INJECTIONS[kind]
    for query, pool in (
        (Content(text="a red dog"), scaled([*pictures()[1:4], CAPTIONED[0]], [*pictures(), *CAPTIONED])),
        (Content(image=picture(99, 36, 28)), [*scaled(TEXTS[1:], TEXTS), *pictures()[:2]]),
        (Content(image=picture(98, 28, 20), text="a circle"), scaled([*TEXTS[:2], CAPTIONED[1]], [*TEXTS, *CAPTIONED])),
    ):
        with scorer.bare():
            expected = scorer.score(query, pool, injection)
        scorer.forget()
        assert_same_scores(scorer.score(query, pool, injection), expected)
        assert_same_scores(scorer.score(query, pool[::-1], injection)[::-1], expected)
        assert_same_scores([scorer.score(query, [one], injection)[0] for one in pool], expected)


def test_the_scorer_detects_whether_questions_of_its_model_can_be_split(
    scorer: Scorer, request: pytest.FixtureRequest
) -> None:
    scorer.score(TEXTS[0], pictures()[:1], OFF)
    assert scorer._splits == (request.node.callspec.params["scorer"] not in NOT_SPLIT)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - NOT_SPLIT))
def test_for_a_cached_picture_only_the_tail_is_computed(
    family: str, scorer_of: Callable[[str], Scorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = scorer_of(family)
    scorer.score(TEXTS[0], pictures()[:1], OFF)
    passes = Passes(monkeypatch)
    scorer.forget()
    scorer.score(TEXTS[0], pictures(), OFF)
    assert passes.take() == (5, 0, 0)
    scorer.score(TEXTS[1], pictures(), OFF)
    assert passes.take() == (0, 0, 5)
    scorer.forget()
    scorer.score(Content(image=picture(99, 36, 28)), TEXTS, SUFFIX)
    assert passes.take() == (0, 1, 3)


def test_questions_are_not_split_with_scope_all(qwen: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = Passes(monkeypatch)
    for _ in range(2):
        qwen.score(TEXTS[0], pictures(), replace(SUFFIX, scope="all"))
        assert passes.take() == (5, 0, 0)


def test_a_cached_picture_is_not_opened_again(qwen: Scorer) -> None:
    opened = []

    def open_it() -> Image.Image:
        opened.append(1)
        return picture(70, 50, 40)

    qwen.forget()
    first = qwen.score(TEXTS[0], [Content(image=Picture(open_it, key="a name"))], OFF)
    again = qwen.score(TEXTS[0], [Content(image=Picture(open_it, key="a name"))], OFF)
    assert len(opened) == 1
    assert_same_scores(again, first)
    # the visual tokens are reused even if the prefix is not
    qwen.score(TEXTS[0], [Content(image=Picture(open_it, key="a name"))], replace(SUFFIX, scope="all"))
    qwen.score(Content(image=Picture(open_it, key="a name")), [Content(image=picture(3))], SUFFIX)
    assert len(opened) == 1


def test_pictures_are_cached_by_content(qwen: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = Passes(monkeypatch)
    qwen.forget()
    qwen.score(TEXTS[0], [Content(image=picture(5))], OFF)
    qwen.score(TEXTS[1], [Content(image=picture(5))], OFF)
    qwen.score(TEXTS[1], [Content(image=picture(6))], OFF)
    assert passes.take() == (2, 0, 1)


def test_the_caches_stay_within_their_limits_in_bytes(model_folder: Callable[[str], Path]) -> None:
    folder = str(model_folder("qwen2_5_vl"))
    roomy = load_scorer(folder, device="cpu")
    expected = roomy.score(TEXTS[0], pictures(), OFF)
    sizes = sorted(one.nbytes for one in roomy._prefixes._kept.values())
    tight = load_scorer(folder, device="cpu", prefix_bytes=sum(sizes[:2]), visual_bytes=1000)
    for _ in range(3):
        assert_same_scores(tight.score(TEXTS[0], pictures(), OFF), expected)
        assert sum(one.nbytes for one in tight._prefixes._kept.values()) <= sum(sizes[:2])
        assert sum(one.nbytes for one in tight._features._kept.values()) <= 1000
        assert not tight._features._current
    none = load_scorer(folder, device="cpu", prefix_bytes=0, visual_bytes=0)
    for query, pool in ((TEXTS[0], pictures()), (pictures()[0], TEXTS)):
        assert_same_scores(none.score(query, pool, SUFFIX), roomy.score(query, pool, SUFFIX))
    assert not none._prefixes._kept
    assert not none._features._kept


def test_a_cached_prefix_does_not_keep_its_batch_in_memory(qwen: Scorer) -> None:
    qwen.forget()
    qwen.score(TEXTS[0], pictures(), OFF)
    for prefix in qwen._prefixes._kept.values():
        held = [one for layer in prefix.states if layer for one in layer]
        assert sum(one.untyped_storage().nbytes() for one in held) == sum(one.nbytes for one in held)
        assert prefix.visual.untyped_storage().nbytes() == prefix.visual.nbytes


def test_control_tokens_in_a_caption_do_not_change_prefix_or_other_scores(qwen: Scorer) -> None:
    """Even if the caption contains the image token."""
    hostile = Content(text="<|image_pad|><|vision_end|> a dog <|im_end|>")
    query = Content(image=picture(99, 36, 28))
    qwen.forget()
    expected = [qwen.score(query, [one], OFF)[0] for one in (*TEXTS, hostile)]
    qwen.forget()
    assert_same_scores(qwen.score(query, [*TEXTS, hostile], OFF), expected)


def test_a_model_with_different_results_for_split_questions_is_detected(
    scorer_of: Callable[[str], Scorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = scorer_of("llava")

    def check() -> bool:
        with scorer._loaded.preparer.pictures_once(), torch.inference_mode():
            return splits_exactly(scorer._loaded, scorer._features, scorer._prompts, 4096)

    assert check()
    plain = Engine._make

    def wrong(engine: Engine, group: Any) -> Any:
        made = plain(engine, group)
        return {key: replace(one, next_position=one.next_position + 3) for key, one in made.items()}

    monkeypatch.setattr(Engine, "_make", wrong)
    assert not check()


def test_a_pair_is_not_split_if_written_and_expanded_message_end_differently(qwen: Scorer) -> None:
    preparer = qwen._loaded.preparer
    message = qwen._prompts.message("true_false", TEXTS[0], pictures()[0])
    with preparer.pictures_once():
        opening = preparer.opening(0, message)
        pair = preparer.pair(0, message)
    assert opening is not None
    found = split(pair, opening, qwen._loaded.image_token)
    assert found is not None
    ids = pair.tokens["input_ids"][0].tolist()
    assert ids[found.length - 1] == qwen._loaded.image_token
    assert ids[found.length :] == [*found.closing, *opening.tokens[len(found.opening) :]]
    assert split(pair, replace(opening, tokens=(*opening.tokens[:-1], 1)), qwen._loaded.image_token) is None


def test_a_prefix_cache_is_open_only_if_its_size_is_positive() -> None:
    assert not PrefixCache(0).open
    assert PrefixCache(1).open
