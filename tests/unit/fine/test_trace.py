"""Traces equal the reference implementation and untraced scores, and round-trip through JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.soak import scaled
from tests.unit.fine.families import NEED_A_PICTURE, with_each
from tests.unit.fine.reference import Reference, picture

from retllm.errors import ModelUnsuited
from retllm.fine import Content, Injection, PairScore, Scorer, Trace, engine
from retllm.fine.batching import Pair
from retllm.fine.model import LoadedModel
from retllm.fine.prompts import Mode
from retllm.fine.trace import Weights
from retllm.fine.tracing import grids_of

CAPTION = "a red square is left of a dog"
QUERY = Content(text=CAPTION)
EAGER = Injection(alpha=0.5, tau=0.66, start=0, end=6, scope="all")
OFF = Injection(trigger="off")
SETTINGS = {
    "entropy": EAGER,
    "nothing triggers": Injection(tau=1, start=0, end=6),
    "off": OFF,
    "off, bare formula": Injection(trigger="off", scaling=False),
    "fixed": Injection(trigger="fixed", fixed_layer=3),
    "suffix": Injection(alpha=0.5, tau=0.66, start=0, end=6, scope="suffix"),
    "gate": Injection(trigger="fixed", fixed_layer=2, key_weight="gate"),
    "bare formula": Injection(trigger="fixed", fixed_layer=2, scaling=False, alpha=0.2),
}
MODES: tuple[Mode, ...] = ("true_false", "verbalized", "choice")
ASKS: dict[Mode, str] = {
    "true_false": "Please directly output True or False",
    "verbalized": 'Please output the relevance score from 0 to 1 in a format of "Answer: score". '
    "Keep four decimal places",
    "choice": "A: they match. B: they do not match. Please directly output A or B",
}


def pictures() -> list[Any]:
    return [picture(seed, 16 + 6 * seed, 30 - 4 * seed) for seed in range(4)]


def traced(scorer: Scorer, settings: Injection, mode: Mode = "true_false") -> list[PairScore]:
    return scorer.score(QUERY, [Content(image=image) for image in pictures()], settings, mode=mode, trace=True)


def expected_map(reference: Reference, run: Any, settings: Injection, readings: list[float], z: np.ndarray) -> Any:
    """Return the layer of the map, and phi(<x, k_j>) there."""
    layer = run.layer
    if layer is None:
        # with six layers, the defaults watch only layer 2
        watched = [at for at in range(5) if settings.start < at < settings.end] if settings.active else [2]
        layer = max(watched, key=lambda at: readings[at]) + 1
    return layer, np.array([reference.phi(np.array(run.x[layer] @ key)) for key in reference.keys(layer, z, settings)])


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "llava", "gemma3"])
def test_early_readings_and_weights_equal_the_reference(
    family: str,
    settings: Injection,
    scorer_of: Callable[[str], Scorer],
    reference_of: Callable[[str], Reference],
) -> None:
    reference = reference_of(family)
    for image, score in zip(pictures(), traced(scorer_of(family), settings), strict=True):
        text = f"Does the image match the caption: <{CAPTION}>? {ASKS['true_false']}"
        content = [{"type": "image", "image": image}, {"type": "text", "text": text}]
        run = reference.run(content, settings)
        readings = [reference.early(hidden) for hidden in run.hidden]
        trace = score.trace
        assert trace is not None
        assert trace.uncertainty == pytest.approx(readings, abs=1e-3)
        assert (trace.armed_layer, score.injected_layer) == (run.layer, run.layer)
        layer, weights = expected_map(
            reference, run, settings, readings, reference.visual_tokens(reference.inputs(content))
        )
        assert trace.map_layer == layer
        assert trace.weights is not None
        np.testing.assert_allclose(trace.weights.values(), weights, atol=trace.weights.scale / 2 + 1e-3)
        assert np.ptp(weights) > 10 * trace.weights.scale
        assert trace.plain_score == pytest.approx(reference.score(content, OFF).score, rel=2e-3)
        injected = reference.score(content, settings).score if settings.active else None
        assert trace.injected_score == (None if injected is None else pytest.approx(injected, rel=2e-3))


@pytest.mark.parametrize("mode", ["choice", "verbalized"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava"])
def test_in_the_other_modes_the_trace_describes_the_first_pass(
    family: str, mode: Mode, scorer_of: Callable[[str], Scorer], reference_of: Callable[[str], Reference]
) -> None:
    reference = reference_of(family)
    for image, score in zip(pictures(), traced(scorer_of(family), EAGER, mode), strict=True):
        text = f"Does the image match the caption: <{CAPTION}>? {ASKS[mode]}"
        content = [{"type": "image", "image": image}, {"type": "text", "text": text}]
        run = reference.run(content, EAGER)
        readings = [reference.early(hidden) for hidden in run.hidden]
        assert score.trace is not None
        assert score.trace.uncertainty == pytest.approx(readings, abs=1e-3)
        layer, weights = expected_map(
            reference, run, EAGER, readings, reference.visual_tokens(reference.inputs(content))
        )
        assert score.trace.map_layer == layer
        assert score.trace.weights is not None
        np.testing.assert_allclose(score.trace.weights.values(), weights, atol=score.trace.weights.scale / 2 + 1e-3)


def mixed_pool(scorer: Scorer) -> list[Content]:
    texts = ["a dog", "a small blue circle is left of a red square and " * 3]
    shown = [Content(image=image) for image in scaled(pictures()[2:3], pictures())]
    both = [Content(image=picture(20 + at, 30, 20), text=text) for at, text in enumerate(texts)]
    if scorer._loaded.module.config.model_type in NEED_A_PICTURE:
        return [*shown, *both]
    return [*shown, *(Content(text=text) for text in texts), *both]


def approximately(value: float | None, **tolerance: float) -> Any:
    return None if value is None else pytest.approx(value, **tolerance)


FAMILIES_AND_MODES = [
    *with_each(["true_false", "choice"], of_others=1),
    *((family, "verbalized") for family in ("qwen2_5_vl", "llava")),
]


@pytest.mark.parametrize(("family", "mode"), FAMILIES_AND_MODES)
def test_tracing_does_not_change_a_score(family: str, mode: Mode, scorer_of: Callable[[str], Scorer]) -> None:
    """The scores in the trace are those of two untraced calls."""
    scorer = scorer_of(family)
    pool = mixed_pool(scorer)
    untraced = scorer.score(QUERY, pool, EAGER, mode=mode)
    plain = scorer.score(QUERY, pool, OFF, mode=mode)
    found = scorer.score(QUERY, pool, EAGER, mode=mode, trace=True)
    for one, without, score, content in zip(untraced, plain, found, pool, strict=True):
        assert one.trace is None
        assert score.score == approximately(one.score, rel=1e-3)
        assert score.log_odds == approximately(one.log_odds, abs=1e-3)
        assert score.entropy == approximately(one.entropy, rel=1e-3)
        assert (score.injected_layer, score.tokens, score.error) == (one.injected_layer, one.tokens, one.error)
        assert score.uncertainty == approximately(one.uncertainty, abs=1e-4)
        assert (score.trace is None) == (content.image is None)
        if score.trace is not None:
            assert score.trace.armed_layer == score.injected_layer
            assert score.trace.injected_score == score.score
            assert score.trace.plain_score == approximately(without.score, rel=1e-3)
            assert len(score.trace.uncertainty) == scorer.info.layers


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava"])
def test_a_trace_does_not_depend_on_its_batch(family: str, scorer_of: Callable[[str], Scorer]) -> None:
    scorer = scorer_of(family)
    pool = mixed_pool(scorer)
    alone = [scorer.score(QUERY, [one], EAGER, trace=True)[0].trace for one in pool]
    order = [int(at) for at in np.random.default_rng(5).permutation(len(pool))]
    for at, score in zip(order, scorer.score(QUERY, [pool[at] for at in order], EAGER, trace=True), strict=True):
        one, other = score.trace, alone[at]
        if one is None or other is None:
            assert one is other is None
            continue
        assert one.uncertainty == pytest.approx(other.uncertainty, abs=1e-3)
        assert (one.armed_layer, one.map_layer, one.shown, one.grids) == (
            other.armed_layer, other.map_layer, other.shown, other.grids,
        )  # fmt: skip
        assert one.weights is not None
        assert other.weights is not None
        np.testing.assert_allclose(one.weights.values(), other.weights.values(), atol=1.01 * one.weights.scale + 1e-4)


def test_many_candidates_are_traced_separately(qwen: Scorer) -> None:
    """The candidates span several windows."""
    pool = [Content(image=image) for image in pictures()]
    found = qwen.score(QUERY, [pool[at % 4] for at in range(70)], EAGER, trace=True)
    for at, score in enumerate(found):
        assert score.trace is not None
        assert found[at % 4].trace is not None
        assert score.trace.uncertainty == pytest.approx(found[at % 4].trace.uncertainty, abs=1e-3)


def hooks_of(module: torch.nn.Module) -> int:
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in module.modules())


def test_hooks_for_tracing_are_registered_only_if_requested(qwen: Scorer) -> None:
    model = qwen._loaded.module
    seen: list[int] = []

    def most_hooks(trace: bool) -> int:
        seen.clear()
        qwen.score(QUERY, [Content(image=image) for image in pictures()], OFF, trace=trace)
        return max(seen)

    # fills the prefix cache, whose passes have one more hook
    qwen.score(QUERY, [Content(image=image) for image in pictures()], OFF)
    count = model.register_forward_pre_hook(lambda *_: seen.append(hooks_of(model)))
    try:
        # two hooks of the head, and the one of this test
        assert most_hooks(False) == 3
        assert most_hooks(True) == 3 + 1 + 2 * qwen.info.layers
    finally:
        count.remove()


class Broken(RuntimeError):
    """An error inside the model."""


@pytest.mark.parametrize("where", ["layer", "head"])
@pytest.mark.parametrize("settings", [EAGER, OFF], ids=["entropy", "off"])
def test_hooks_are_removed_after_a_trace_and_after_an_error(
    qwen: Scorer, settings: Injection, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = qwen._loaded.module
    before = hooks_of(model)
    expected = traced(qwen, settings)
    assert hooks_of(model) == before
    part = {"layer": qwen._loaded.decoder.layers[3].mlp, "head": qwen._loaded.decoder.head}[where]

    def fail(*_: Any, **__: Any) -> None:
        raise Broken

    with monkeypatch.context() as patch:
        patch.setattr(part, "forward", fail)
        with pytest.raises(Broken):
            traced(qwen, settings)
    assert hooks_of(model) == before
    assert traced(qwen, settings) == expected


def test_a_batch_that_runs_out_of_memory_is_traced_in_halves(qwen: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = traced(qwen, EAGER)
    plain = engine.collate

    def limited(pairs: Any, **more: Any) -> Any:
        if len(pairs) > 1:
            raise torch.OutOfMemoryError
        return plain(pairs, **more)

    monkeypatch.setattr(engine, "collate", limited)
    for one, other in zip(traced(qwen, EAGER), expected, strict=True):
        assert one.trace is not None
        assert other.trace is not None
        assert one.trace.uncertainty == pytest.approx(other.trace.uncertainty, abs=1e-3)
        assert one.trace.map_layer == other.trace.map_layer


def test_layers_without_a_dense_network_are_traced_without_a_map(qwen: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mixture of experts, for example, is still scored and traced with the trigger off."""

    def refuse(self: LoadedModel, number: int) -> Any:
        raise ModelUnsuited("no dense layers")

    monkeypatch.setattr(LoadedModel, "feed_forward", refuse)
    for score in traced(qwen, OFF):
        assert score.trace is not None
        assert (score.trace.map_layer, score.trace.weights) == (None, None)
        assert score.trace.picture_weights(0) is None
        assert len(score.trace.uncertainty) == 6


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "glm4v"])
def test_two_pictures_have_separate_grids_in_the_order_of_the_prompt(
    family: str, scorer_of: Callable[[str], Scorer], reference_of: Callable[[str], Reference]
) -> None:
    scorer, reference = scorer_of(family), reference_of(family)
    query = Content(image=picture(8, 40, 16), text="a dog")
    for image in (picture(9, 16, 32), picture(10, 24, 24)):
        [score] = scorer.score(query, [Content(image=image, text="a cat")], EAGER, trace=True)
        trace = score.trace
        assert trace is not None
        assert trace.shown == ("query", "candidate")
        for at, shown in enumerate((query.image, image)):
            [(_, rows, columns)] = reference.inputs([{"type": "image", "image": shown}])["image_grid_thw"].tolist()
            assert trace.grids[at] == (rows // 2, columns // 2)
            assert len(trace.picture_weights(at) or ()) == rows * columns // 4
        assert trace.weights is not None
        assert (trace.picture_weights(0) or []) + (trace.picture_weights(1) or []) == trace.weights.values()


def test_a_trace_names_the_sides_that_have_a_picture(qwen: Scorer) -> None:
    [score] = qwen.score(Content(image=picture(1, 20, 20)), [Content(text="a dog")], EAGER, trace=True)
    assert score.trace is not None
    assert score.trace.shown == ("query",)
    assert [score.trace.shown for score in traced(qwen, EAGER) if score.trace] == [("candidate",)] * 4


GRIDS = {
    "qwen2_5_vl": (2, 3), "qwen2_vl": (2, 3), "qwen3_vl": (2, 3), "qwen3_5": (2, 3), "glm4v": (2, 3),
    "llava": (4, 4), "gemma3": (2, 2), "paligemma": (4, 4), "llava_next": None, "llava_onevision": None,
    "idefics3": None, "smolvlm": None, "internvl": None, "mistral3": None, "gemma4": None,
}  # fmt: skip


def test_a_trace_has_a_grid_only_if_the_visual_tokens_form_one(scorer: Scorer) -> None:
    """Tiles, thumbnails and row ends form none, even if their number is a square."""
    [score] = scorer.score(QUERY, [Content(image=picture(0, 24, 16))], OFF, trace=True)
    assert score.trace is not None
    assert score.trace.grids == (GRIDS[scorer._loaded.module.config.model_type],)


def pair_of(pixels: tuple[int, ...] | None, pictures: int = 1) -> Pair:
    vision = {} if pixels is None else {"pixel_values": torch.zeros(pixels)}
    return Pair(0, {}, vision, tuple(map(str, range(pictures))))


def test_a_square_grid_is_assumed_only_for_a_single_square_tile() -> None:
    positions = list(range(3, 19))
    assert grids_of(pair_of((1, 3, 8, 8)), positions) == ((4, 4),)
    assert grids_of(pair_of((1, 1, 3, 8, 8)), positions) == ((4, 4),)
    for pixels in ((4, 3, 8, 8), (1, 4, 3, 8, 8), (1, 3, 8, 16), (1, 64, 12), None):
        assert grids_of(pair_of(pixels), positions) == (None,)
    assert grids_of(pair_of((1, 3, 8, 8)), positions[:15]) == (None,)
    assert grids_of(pair_of((1, 3, 8, 8)), [*positions[:15], 40]) == (None,), "not contiguous"
    assert grids_of(pair_of((2, 3, 8, 8), pictures=2), positions) == (None, None)


def test_a_grid_must_match_the_number_of_visual_tokens() -> None:
    def pair(*patches: list[int]) -> Pair:
        return Pair(0, {}, {"image_grid_thw": torch.tensor(patches)}, tuple(map(str, range(len(patches)))))

    assert grids_of(pair([1, 4, 6]), range(6)) == ((2, 3),)
    assert grids_of(pair([1, 4, 6], [1, 2, 2]), range(7)) == ((2, 3), (1, 1))
    assert grids_of(pair([1, 4, 6]), range(24)) == ((4, 6),)
    assert grids_of(pair([1, 4, 6]), range(7)) == (None,)
    assert grids_of(pair([2, 4, 6]), range(12)) == (None,), "two frames"
    assert grids_of(pair([1, 4, 6]), range(100)) == (None,)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_quantised_weights_are_exact_to_half_a_step_and_at_both_ends(values: list[float]) -> None:
    weights = Weights.of(values)
    assert weights.values() == pytest.approx(values, abs=weights.scale * 0.501 + 1e-9)
    assert min(weights.values()) == min(values)
    assert max(weights.values()) == pytest.approx(max(values), abs=1e-12 * max(map(abs, values)))
    assert len(weights.codes) == len(values)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_empty_and_non_finite_weights_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        Weights.of(values)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava", "idefics3"])
def test_a_trace_round_trips_through_json(family: str, mode: Mode, scorer_of: Callable[[str], Scorer]) -> None:
    query = Content(image=picture(7, 20, 20), text="a dog")
    pool = [Content(text="a cat"), Content(image=picture(3, 24, 16))]
    for score in scorer_of(family).score(query, pool, EAGER, mode=mode, trace=True):
        assert score.trace is not None
        stored = json.dumps(score.trace.as_json())
        assert Trace.from_json(json.loads(stored)) == score.trace
        count = len(score.trace.weights.codes) if score.trace.weights else 0
        assert len(stored) < 500 + 1.5 * count


def test_a_trace_without_a_map_round_trips_through_json() -> None:
    trace = Trace((0.5,), None, None, None, None, None, ("candidate",), (None,))
    assert Trace.from_json(json.loads(json.dumps(trace.as_json()))) == trace
    with pytest.raises((KeyError, TypeError)):
        Trace.from_json({})
