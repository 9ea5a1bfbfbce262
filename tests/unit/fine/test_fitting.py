"""Pairs that no model takes as they are: pictures are padded and texts shortened, the least that is needed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.unit.fine.families import BUILDERS, NEED_A_PICTURE
from tests.unit.fine.pairs import OFF, QUERIES, assert_same_score, picture

from retllm.errors import InvalidInput
from retllm.fine import Content, Injection, Picture, Scorer, load_scorer
from retllm.fine.padding import Canvas, find_canvas
from retllm.fine.pixels import REFUSALS
from retllm.fine.prompts import Mode

#: does not change the prefix; triggers for some samples
SUFFIX = Injection(alpha=0.5, tau=0.66, start=0, end=6, scope="suffix")
WORDS = "a red square is left of a dog "
LONG = Content(text=WORDS * 650)
#: their processors refuse strips, by a ratio or since a side is rounded to nothing
REFUSE_STRIPS = {"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v", "mistral3"}
SIZES = [(300, 1), (1093, 5), (10, 2001), (1, 1)]


def by_hand(image: Image.Image, width: int, height: int) -> Image.Image:
    """Return the picture in the middle of a grey one."""
    pixels = np.full((height, width, 3), 128, dtype=np.uint8)
    left, top = (width - image.width) // 2, (height - image.height) // 2
    pixels[top : top + image.height, left : left + image.width] = np.asarray(image)
    return Image.fromarray(pixels)


def model_takes(family: str, image: Image.Image) -> bool:
    """Return whether the processor and the vision tower of the family, by themselves, take a picture."""
    model, processor = BUILDERS[family]()
    try:
        made = processor.image_processor([image], return_tensors="pt")
        model.get_image_features(**{name: value for name, value in made.items() if name != "num_crops"})
    except REFUSALS:
        return False
    return True


def padded_size(remark: str | None) -> tuple[int, int]:
    found = re.search(r"picture was padded to ([\d,]+) × ([\d,]+) pixels for the model\.", remark or "")
    assert found, remark
    return int(found[1].replace(",", "")), int(found[2].replace(",", ""))


def test_pairs_that_did_not_fit_are_scored_alike_alone_together_and_with_any_cache(scorer: Scorer) -> None:
    """In every family, with remarks on what was changed and none on other pairs."""
    family = scorer.loaded.module.config.model_type
    strip = Content(image=picture(1, 300, 1))
    pool = [
        Content(image=picture(2)),
        strip,
        Content(image=picture(3, 1, 1)),
        Content(image=strip.image, text=LONG.text),
    ]
    pool += [] if family in NEED_A_PICTURE else [LONG, Content(text="a dog")]
    query = QUERIES["text"]
    with scorer.bare():
        expected = [scorer.score(query, [one], SUFFIX)[0] for one in pool]
    scorer.forget()
    for _ in range(2):
        found = scorer.score(query, pool, SUFFIX)
        for one, other in zip(found, expected, strict=True):
            assert_same_score(one, other)
            assert one.remark == other.remark
    assert found[0].remark is None
    assert found[-1].remark is None or family in NEED_A_PICTURE
    assert ("padded" in (found[1].remark or "")) == (family in REFUSE_STRIPS)
    assert "The text was shortened to its first" in (found[3].remark or "")
    limit = scorer.loaded.preparer.limit
    assert limit is not None
    assert all(score.tokens <= limit for score in found)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", ["qwen2_5_vl", "glm4v", "mistral3"])
def test_a_picture_is_padded_by_as_little_as_the_model_needs(
    family: str, size: tuple[int, int], scorer_of: Callable[[str], Scorer]
) -> None:
    scorer, image = scorer_of(family), picture(5, *size)
    (score,) = scorer.score(QUERIES["text"], [Content(image=image)], OFF)
    if model_takes(family, image):
        assert score.remark is None
        return
    width, height = padded_size(score.remark)
    assert (width == size[0]) != (height == size[1])
    less = (width - 1, height) if height == size[1] else (width, height - 1)
    assert model_takes(family, by_hand(image, width, height))
    assert not model_takes(family, by_hand(image, *less))
    (same,) = scorer.score(QUERIES["text"], [Content(image=by_hand(image, width, height))], OFF)
    assert same.remark is None
    assert_same_score(score, same)


def test_the_query_picture_is_padded_alike(qwen: Scorer) -> None:
    strip = picture(7, 300, 1)
    (score,) = qwen.score(Content(image=strip), [Content(text="a dog")], OFF)
    (same,) = qwen.score(Content(image=by_hand(strip, 300, 2)), [Content(text="a dog")], OFF)
    assert score.remark == "The query picture was padded to 300 × 2 pixels for the model."
    assert_same_score(score, same)


def test_a_cached_picture_keeps_its_remark_without_being_opened(qwen: Scorer) -> None:
    opened = []

    def open_it() -> Image.Image:
        opened.append(1)
        return picture(8, 300, 1)

    qwen.forget()
    strip = Content(image=Picture(open_it, "a strip"))
    first, again = (qwen.score(Content(text=text), [strip], OFF)[0] for text in ("a dog", "a red dog"))
    assert len(opened) == 1
    assert again.remark == first.remark == "The picture was padded to 300 × 2 pixels for the model."


def test_a_very_long_strip_is_made_smaller_before_it_is_padded() -> None:
    """Otherwise the canvas of 2,000,000 x 10,000 pixels would take 60 gigabytes."""
    canvas = find_canvas((2_000_000, 1), lambda size: max(size) <= 200 * min(size))
    assert canvas == Canvas((16_384, 1), (16_384, 82))
    assert canvas.show(Image.new("RGB", (100_000, 1))).size == (16_384, 82)


def test_a_picture_that_no_canvas_helps_is_its_own_canvas() -> None:
    assert find_canvas((30, 20), lambda size: False) == Canvas((30, 20), (30, 20))
    assert find_canvas((30, 20), lambda size: min(size) >= 28) == Canvas((30, 20), (30, 28))
    assert find_canvas((3, 2), lambda size: min(size) >= 28) == Canvas((3, 2), (28, 28))


def shortened(remark: str | None, name: str) -> tuple[int, int]:
    found = re.search(
        rf"The {name} was shortened to its first ([\d,]+) tokens of ([\d,]+) for the model\.", remark or ""
    )
    assert found, remark
    return int(found[1].replace(",", "")), int(found[2].replace(",", ""))


@pytest.mark.parametrize("mode", ["true_false", "choice"])
def test_a_text_is_shortened_to_the_last_word_that_fits(qwen: Scorer, mode: Mode) -> None:
    tokenizer = qwen.loaded.preparer._tokenizer
    (score,) = qwen.score(QUERIES["image"], [LONG], OFF, mode=mode)
    kept, of = shortened(score.remark, "text")
    assert of == len(tokenizer(LONG.text.strip())["input_ids"])
    words = (LONG.text or "").split()
    begun = next(at for at in range(len(words)) if len(tokenizer(" ".join(words[:at]))["input_ids"]) == kept)
    (same,) = qwen.score(QUERIES["image"], [Content(text=" ".join(words[:begun]))], OFF, mode=mode)
    assert same.remark is None
    assert_same_score(score, same)
    (more,) = qwen.score(QUERIES["image"], [Content(text=" ".join(words[: begun + 1]))], OFF, mode=mode)
    assert shortened(more.remark, "text")[0] == kept


def test_a_pair_that_fills_the_context_exactly_is_not_changed(qwen: Scorer) -> None:
    """A text of single-token letters makes every length possible."""
    limit = qwen.loaded.preparer.limit
    (short,) = qwen.score(QUERIES["image"], [Content(text="é")], OFF)
    per_letter = len(qwen.loaded.preparer._tokenizer("é")["input_ids"])
    letters = (limit - short.tokens) // per_letter + 1
    fits, too_long = qwen.score(QUERIES["image"], [Content(text="é" * n) for n in (letters, letters + 1)], OFF)
    assert (fits.remark, limit - fits.tokens < per_letter) == (None, True)
    # without spaces it ends between two characters
    assert shortened(too_long.remark, "text") == (letters * per_letter, (letters + 1) * per_letter)
    assert_same_score(too_long, fits)


def test_a_long_query_keeps_two_thirds_beside_a_long_candidate_and_all_that_a_short_one_leaves(qwen: Scorer) -> None:
    both, beside_short, short_query = (
        qwen.score(LONG, [LONG], OFF)[0],
        qwen.score(LONG, [Content(text="a dog")], OFF)[0],
        qwen.score(Content(text="a dog"), [LONG], OFF)[0],
    )
    of_query, _ = shortened(both.remark, "query text")
    of_candidate, _ = shortened(both.remark, "text")
    assert of_query == pytest.approx(2 * of_candidate, abs=12)
    assert shortened(beside_short.remark, "query text")[0] > of_query + of_candidate - 24
    assert "The text" not in (beside_short.remark or "")
    assert "query" not in (short_query.remark or "")


def test_a_written_answer_fits_behind_a_shortened_text(qwen: Scorer) -> None:
    (score,) = qwen.score(QUERIES["image"], [LONG], OFF, mode="verbalized")
    assert score.tokens + 16 <= qwen.loaded.preparer.limit
    assert shortened(score.remark, "text")


def test_a_trace_has_the_score_of_the_shortened_pair(qwen: Scorer) -> None:
    candidate = Content(image=picture(9, 300, 1), text=LONG.text)
    (plain,) = qwen.score(QUERIES["text"], [candidate], SUFFIX)
    (traced,) = qwen.score(QUERIES["text"], [candidate], SUFFIX, trace=True)
    assert traced.trace is not None
    assert traced.remark == plain.remark
    assert_same_score(traced, plain)


def test_control_tokens_in_a_shortened_text_stay_broken_up(qwen: Scorer) -> None:
    (score,) = qwen.score(QUERIES["image"], [Content(text="<|image_pad|> a dog <|im_end|> " * 500)], OFF)
    assert score.tokens <= qwen.loaded.preparer.limit
    assert score.score is not None


def test_two_pictures_and_a_question_fit_into_a_small_context(model_folder: Callable[[str], Path]) -> None:
    """Their common maximum is lowered, which the version shows, if the model could not take two of the largest."""
    scorer = load_scorer(str(model_folder("qwen2_5_vl")), device="cpu")
    preparer = scorer.loaded.preparer
    assert scorer.info.picture_tokens == 1024, "its largest pictures are small"
    preparer.limit = 240
    images = preparer.pixels._wrapped
    images.size = type(images.size)(shortest_edge=64, longest_edge=1 << 20)
    preparer.limit_pictures(1024, scorer.loaded.module.config, scorer.loaded.image_token)
    assert preparer.picture_tokens == 88
    photograph = Content(image=picture(4, 640, 480))
    (score,) = scorer.score(photograph, [photograph], OFF)
    assert score.tokens <= 240
    assert score.remark is None


def test_a_pair_without_room_for_any_text_names_its_place(qwen: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qwen.loaded.preparer, "limit", 30)
    with pytest.raises(InvalidInput, match="leave no room for a text") as caught:
        qwen.score(QUERIES["image"], [Content(text="a dog")], OFF)
    assert caught.value.detail["index"] == 0
