"""A picture of any size has at most as many tokens in the model's inputs as the picture budget allows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from tests.soak import scaled
from tests.unit.fine.families import BUILDERS, FAMILIES
from tests.unit.fine.families.parts import chat_template, make_tokenizer
from tests.unit.fine.families.qwen import QWEN_IMAGE, QWEN_TOKENS

from retllm.errors import ModelUnsuited
from retllm.fine import Content, Injection, Picture, Scorer, load_scorer, prompts
from retllm.fine.model import _image_token
from retllm.fine.prepare import Preparer
from retllm.fine.prompts import picture_budget
from retllm.settings import Settings

#: photographs, panoramas, and what is left of a picture; the first one has more tokens than any budget below
SIZES = (
    *scaled(((2000, 1500), (1500, 2000)), ((4000, 3000), (12_000, 9000), (3000, 4000))),
    *((2000, 100), (100, 2000), (3000, 100), (3, 4), (1, 1)),
)

#: for each family a budget below what its small model uses for a photograph, if the number is variable
BUDGETS = {
    "qwen2_vl": 10, "qwen2_5_vl": 10, "qwen3_vl": 10, "qwen3_5": 10, "glm4v": 40, "llava": 16, "llava_next": 50,
    "llava_onevision": 50, "idefics3": 30, "smolvlm": 16, "internvl": 14, "mistral3": 20, "gemma3": 4, "gemma4": 100,
    "paligemma": 16,
}  # fmt: skip
#: every picture has the same number of tokens, whatever its size
FIXED = {"llava", "gemma3", "paligemma"}


def set_published_limits(family: str, images: Any) -> None:
    """Set the limits of published models for the families whose small models have small limits."""
    if family.startswith("qwen") or family == "glm4v":
        images.size = type(images.size)(shortest_edge=images.size["shortest_edge"], longest_edge=1 << 20)
    elif family == "gemma4":
        images.max_soft_tokens = 280
    elif family == "mistral3":
        images.size = type(images.size)(longest_edge=64)


def make_preparer(family: str, budget: int | None) -> tuple[Preparer, int, Any]:
    torch.manual_seed(7)
    model, processor = BUILDERS[family]()
    set_published_limits(family, processor.image_processor)
    preparer = Preparer(family, processor, None)
    token = _image_token(family, model.config)
    if budget is not None:
        preparer.limit_pictures(budget, model.config, token)
    return preparer, token, model


def tokens_of(preparer: Preparer, token: int, size: tuple[int, int]) -> int:
    pair = preparer.pair(0, [Picture(Image.new("RGB", size, "teal")), "a red square"])
    return int((pair.tokens["input_ids"] == token).sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_of_any_size_stays_within_the_budget(family: str) -> None:
    preparer, token, _ = make_preparer(family, BUDGETS[family])
    counts = {size: tokens_of(preparer, token, size) for size in SIZES}
    assert all(0 < count <= BUDGETS[family] for count in counts.values()), counts
    # small models use only a few tiles; without a budget, the photograph has more tokens
    unlimited, token, _ = make_preparer(family, None)
    assert (tokens_of(unlimited, token, SIZES[0]) > BUDGETS[family]) is (family not in FIXED)


@pytest.mark.parametrize("family", FAMILIES)
def test_two_pictures_in_one_question_have_their_budget_each(family: str) -> None:
    """LLaVA-OneVision has fewer for both: it has no tiles of one picture beside another."""
    preparer, token, model = make_preparer(family, BUDGETS[family])
    pair = preparer.pair(0, [Picture(Image.new("RGB", size)) for size in ((640, 480), (2000, 100))])
    assert 1 < int((pair.tokens["input_ids"] == token).sum()) <= 2 * BUDGETS[family]
    with torch.inference_mode():
        assert model(**pair.tokens, **pair.vision).logits.isfinite().all()


@pytest.mark.parametrize("family", sorted({"qwen2_5_vl", "glm4v", "internvl", "idefics3", "mistral3", "llava_next"}))
def test_the_settings_of_the_processor_alone_keep_a_photograph_within_the_budget(family: str) -> None:
    preparer, _, _ = make_preparer(family, BUDGETS[family])
    photograph = Image.new("RGB", (4000, 3000))
    assert preparer.pixels.fit(photograph) is photograph


def test_gemma_3_adds_no_crops_of_a_picture() -> None:
    """Its processor forbids them in each call at present, but the image processor must not depend on that."""
    model, processor = BUILDERS["gemma3"]()
    images, wide = processor.image_processor, Image.new("RGB", (300, 100))
    images.do_pan_and_scan, images.pan_and_scan_min_crop_size = True, 16
    images.pan_and_scan_max_num_crops, images.pan_and_scan_min_ratio_to_activate = 4, 1.2
    assert list(images(wide)["num_crops"]) == [3]
    Preparer("gemma3", processor, None).limit_pictures(4, model.config, _image_token("gemma3", model.config))
    assert list(images(wide)["num_crops"]) == [0]


@pytest.mark.parametrize("family", ["llava_next", "llava_onevision"])
def test_the_model_and_its_processor_use_the_same_grids_of_tiles(family: str) -> None:
    preparer, _, model = make_preparer(family, BUDGETS[family])
    with torch.inference_mode():
        pair = preparer.pair(0, [Picture(Image.new("RGB", (400, 300))), "a red square"])
        out = model(**pair.tokens, **pair.vision)
    assert out.logits.isfinite().all()
    assert model.config.image_grid_pinpoints == preparer.pixels._wrapped.image_grid_pinpoints


#: of any shape, with sides that no tile divides
ODD_SIZES = ((1, 1), (37, 5), (5, 90), (640, 480), (399, 1201), (2000, 100), (100, 2000), (1177, 803))


def counted(preparer: Preparer, size: tuple[int, int]) -> int:
    """Return the number of tokens that the budget expects of a picture of this size."""
    budget = preparer._budget
    return budget.count(budget._fitting(budget.canvas(size).size))


@pytest.mark.parametrize("family", ["llava_next", "llava_onevision"])
@pytest.mark.parametrize("budget", [40, 2000])
def test_counted_tokens_are_those_of_the_inputs_and_of_the_model(family: str, budget: int) -> None:
    preparer, token, model = make_preparer(family, budget)
    for size in ODD_SIZES:
        pair = preparer.pair(0, [Picture(Image.new("RGB", size)), "a red square"])
        with torch.inference_mode():
            made = model.get_image_features(**pair.vision, return_dict=True).pooler_output
        found = sum(len(part) for part in made), int((pair.tokens["input_ids"] == token).sum())
        assert found == (counted(preparer, size),) * 2, size


@pytest.mark.parametrize("family", FAMILIES)
def test_counted_tokens_are_those_of_the_inputs_with_published_settings(family: str) -> None:
    """Mistral 3's ends of rows count too."""
    processor, config = published_processor(family)
    preparer, token = Preparer(family, processor, None), _image_token(family, config)
    preparer.limit_pictures(1024, config, token, at_least=True)
    for size in ODD_SIZES:
        expected, made = counted(preparer, size), tokens_of(preparer, token, size)
        assert expected == made or (family == "mistral3" and made < expected <= 2 * made), (size, expected, made)


def published_qwen_token_counter(budget: int | None) -> Callable[[tuple[int, int]], int]:
    """Return a function that counts a picture's tokens with Qwen2.5-VL's published preprocessor_config.json."""
    from transformers import Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    tokenizer = make_tokenizer(QWEN_TOKENS)
    images = Qwen2VLImageProcessor(patch_size=14, merge_size=2, min_pixels=3136, max_pixels=12_845_056)
    template = chat_template(QWEN_IMAGE)
    preparer = Preparer("q", Qwen2_5_VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), template), None)
    token = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    if budget is not None:
        preparer.limit_pictures(budget, SimpleNamespace(), token)
    return lambda size: tokens_of(preparer, token, size)


def test_the_default_budget_limits_a_photograph_to_1024_qwen_tokens() -> None:
    assert published_qwen_token_counter(None)((4000, 3000)) == 15_301
    limited = published_qwen_token_counter(picture_budget(Settings().picture_tokens, None))
    assert 900 < limited((4000, 3000)) <= 1024
    assert limited((3000, 100)) == 107 * 4, "a picture within the budget is not changed"
    assert limited((56, 56)) == 4


def published_processor(family: str) -> tuple[Any, Any]:
    """Return a processor with the published settings of its family, and a matching configuration."""
    model, processor = BUILDERS[family]()
    images = processor.image_processor
    if family in ("llava_next", "llava_onevision"):
        tile = {"llava_next": 336, "llava_onevision": 384}[family]
        images.size = type(images.size)(shortest_edge=tile)
        images.crop_size = type(images.size)(height=tile, width=tile)
        grid = [[tile, 2 * tile], [2 * tile, tile], [2 * tile, 2 * tile], [3 * tile, tile], [tile, 3 * tile]]
        images.image_grid_pinpoints = model.config.image_grid_pinpoints = grid
        processor.patch_size, processor.num_image_tokens = 14, 729
    elif family in ("idefics3", "smolvlm"):
        tile, whole = {"idefics3": (364, 1456), "smolvlm": (512, 2048)}[family]
        images.size, images.max_image_size = ({"longest_edge": edge} for edge in (whole, tile))
        processor.image_seq_len = {"idefics3": 169, "smolvlm": 64}[family]
    elif family == "internvl":
        images.size, images.max_patches = type(images.size)(height=448, width=448), 12
        processor.image_seq_length = 256
    elif family == "mistral3":
        images.size = type(images.size)(longest_edge=1540)
        processor.patch_size, processor.spatial_merge_size = 14, 2
    return processor, model.config


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("idefics3", {"longest_edge": 2 * 364}),
        ("smolvlm", {"longest_edge": 3 * 512}),
        ("internvl", 3),
        ("mistral3", {"longest_edge": 31 * 28}),
    ],
)
def test_published_settings_are_lowered_no_further_than_the_budget_requires(family: str, settings: object) -> None:
    processor, config = published_processor(family)
    images = processor.image_processor
    Preparer(family, processor, None).limit_pictures(1024, config, 0)
    assert (images.max_patches if family == "internvl" else dict(images.size)) == settings


@pytest.mark.parametrize(("family", "least"), [("llava_next", 1176), ("llava_onevision", 1485)])
def test_the_error_for_a_budget_below_the_minimum_names_the_minimum(family: str, least: int) -> None:
    processor, config = published_processor(family)
    with pytest.raises(ModelUnsuited, match=f"RETLLM_PICTURE_TOKENS allows 1,024: set it to {least} or more"):
        Preparer(family, processor, None).limit_pictures(1024, config, 0)
    processor, config = published_processor(family)
    Preparer(family, processor, None).limit_pictures(least, config, 0)


@pytest.mark.parametrize(
    ("family", "least"), [("llava_next", 1176), ("llava_onevision", 1485), ("internvl", 1024), ("smolvlm", 1024)]
)
def test_without_a_setting_a_model_that_needs_more_gets_as_few_as_it_needs(family: str, least: int) -> None:
    processor, config = published_processor(family)
    preparer = Preparer(family, processor, None)
    preparer.limit_pictures(picture_budget(None, None), config, 0, at_least=True)
    assert preparer.picture_tokens == least


def test_the_budget_is_that_of_the_profile_or_a_lower_one_that_is_set() -> None:
    assert [picture_budget(None, profiled) for profiled in (None, 16, 1800)] == [1024, 16, 1800]
    assert [picture_budget(512, profiled) for profiled in (None, 16, 1800)] == [512, 16, 512]


def test_what_the_setting_lacks_is_what_the_loaded_model_needs(
    model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "_PICTURE_TOKENS", 20)
    folder = str(model_folder("llava_next"))
    assert load_scorer(folder, device="cpu").info.picture_tokens == 36
    with pytest.raises(ModelUnsuited, match="set it to 36 or more"):
        load_scorer(folder, device="cpu", picture_tokens=20)


def test_tokens_are_measured_if_the_processor_cannot_count_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Qwen2_5_VLProcessor

    monkeypatch.delattr(Qwen2_5_VLProcessor, "_get_num_multimodal_tokens")
    preparer, token, _ = make_preparer("qwen2_5_vl", 10)
    assert preparer.pixels._wrapped.size["longest_edge"] == 1 << 20, "its settings are unknown and not changed"
    assert all(0 < tokens_of(preparer, token, size) <= 10 for size in SIZES)
    # a strip this long exceeds the budget at every size that the model takes, and is padded
    assert 0 < tokens_of(preparer, token, (3000, 20)) <= 10


def test_the_budget_applies_to_query_and_candidate_pictures(
    model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_scorer(str(model_folder("llava")), device="cpu").info.picture_tokens == 1024
    scorer = load_scorer(str(model_folder("qwen2_5_vl")), device="cpu", picture_tokens=8)
    assert dict(scorer.loaded.preparer.pixels._wrapped.size)["longest_edge"] <= 8 * 8 * 8
    photographs = [Content(image=Image.new("RGB", (900, 600 + 10 * at), (at, 90, 90))) for at in range(4)]
    scores = scorer.score(Content(text="a red square"), photographs)
    again = scorer.score(photographs[0], photographs[1:])
    usual = load_scorer(str(model_folder("qwen2_5_vl")), device="cpu")
    more = usual.score(Content(text="a red square"), photographs)
    assert all(few.tokens < many.tokens for few, many in zip(scores, more, strict=True))
    assert all(score.score is not None for score in again)


def test_the_picture_budget_is_part_of_the_scorer_version(qwen: Scorer, model_folder: Callable[[str], Path]) -> None:
    other = load_scorer(str(model_folder("qwen2_5_vl")), device="cpu", picture_tokens=512)
    assert qwen.version(Injection()).endswith("-1024")
    assert other.version(Injection()).endswith("-512")
    assert other.version(Injection()).partition("-")[0] == qwen.version(Injection()).partition("-")[0]
