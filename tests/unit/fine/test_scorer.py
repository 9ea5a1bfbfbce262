"""A score depends only on its pair and the settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.soak import scaled
from tests.unit.fine.families import FAMILIES, NEED_A_PICTURE, processor_inputs, with_each
from tests.unit.fine.pairs import EAGER, OFF, QUERIES, assert_same_score, candidates, picture, pool_for, token_budget
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForImageTextToText, AutoProcessor

from retllm.errors import InvalidInput
from retllm.fine import Content, Injection, PairScore, Scorer, hooks, load_scorer
from retllm.fine.pixels import PixelMemo


@pytest.fixture(scope="module")
def single_score() -> Callable[[Scorer, str, int], PairScore]:
    """Return the score of a candidate from a call of its own; candidates are numbered as in ``candidates()``."""
    pool = candidates()
    known: dict[tuple[int, str, int], PairScore] = {}

    def score(scorer: Scorer, query: str, at: int) -> PairScore:
        key = (id(scorer), query, at)
        if key not in known:
            known[key] = scorer.score(QUERIES[query], [pool[at]], EAGER)[0]
        return known[key]

    return score


#: two of each modality, as different as possible; all in a long run
VARIED = scaled((1, 4, 7, 8, 10, 12), tuple(range(len(candidates()))))


def varied(scorer: Scorer, query: str) -> list[int]:
    """Return the numbers of the candidates that the family can compare with the query."""
    pool, possible = candidates(), pool_for(scorer, query)
    return [at for at in VARIED if len(possible) == len(pool) or pool[at].image is not None]


@pytest.mark.parametrize(("family", "query"), with_each(list(QUERIES), of_others=1))
def test_a_score_does_not_depend_on_its_batch(
    family: str,
    query: str,
    scorer_of: Callable[[str], Scorer],
    single_score: Callable[[Scorer, str, int], PairScore],
) -> None:
    """In every family and for every modality, in random orders, with two budgets and with injection."""
    scorer, pool = scorer_of(family), candidates()
    rng = np.random.default_rng(3)
    for budget in (250, 100_000):
        order = [int(at) for at in rng.permutation(varied(scorer, query))]
        with token_budget(scorer, budget):
            found = scorer.score(QUERIES[query], [pool[at] for at in order], EAGER)
        for at, score in zip(order, found, strict=True):
            assert_same_score(score, single_score(scorer, query, at))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava", "gemma4"])
def test_pairs_of_several_queries_in_one_call_have_the_scores_of_calls_of_their_own(
    family: str, scorer_of: Callable[[str], Scorer], single_score: Callable[[Scorer, str, int], PairScore]
) -> None:
    """Pictures and texts as queries, alternating, over several windows and passes."""
    scorer, pool = scorer_of(family), candidates()
    asked = [(query, at) for at in VARIED for query in QUERIES if at in varied(scorer, query)]
    with token_budget(scorer, 400):
        found = scorer.score_pairs([(QUERIES[query], pool[at]) for query, at in asked], EAGER)
    for (query, at), score in zip(asked, found, strict=True):
        assert_same_score(score, single_score(scorer, query, at))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.lists(st.integers(0, 12), min_size=1, max_size=16),
    budget=st.sampled_from([1, 100, 200, 500, 100_000]),
    query=st.sampled_from(list(QUERIES)),
    family=st.sampled_from(["qwen2_5_vl", "qwen3_vl"]),
)
def test_any_batch_of_any_candidates_gives_the_same_scores_as_single_calls(
    order: Sequence[int],
    budget: int,
    query: str,
    family: str,
    scorer_of: Callable[[str], Scorer],
    single_score: Callable[[Scorer, str, int], PairScore],
) -> None:
    """Also with repeated candidates."""
    scorer, pool = scorer_of(family), candidates()
    with token_budget(scorer, budget):
        found = scorer.score(QUERIES[query], [pool[at] for at in order], EAGER)
    for at, score in zip(order, found, strict=True):
        assert_same_score(score, single_score(scorer, query, at))


def test_these_candidates_trigger_at_different_layers_or_not_at_all(
    scorer_of: Callable[[str], Scorer], single_score: Callable[[Scorer, str, int], PairScore]
) -> None:
    scorer = scorer_of("qwen2_5_vl")
    layers = {single_score(scorer, "text", at).injected_layer for at in range(len(candidates()))}
    assert None in layers
    assert len(layers) >= 3


def test_scores_of_many_candidates_are_in_the_order_of_the_candidates(qwen: Scorer) -> None:
    """The candidates span several windows."""
    pool = candidates()
    many = [pool[at % len(pool)] for at in range(150)]
    found = qwen.score(QUERIES["text"], many, EAGER)
    assert len(found) == 150
    for at, score in enumerate(found):
        assert_same_score(score, found[at % len(pool)])


def test_only_the_pixels_of_the_query_are_kept_between_windows(qwen: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call with thousands of pictures must not keep all of them in memory."""
    monkeypatch.setattr("retllm.fine.scorer._WINDOW", 3)
    query = Content(image=picture(7, 20, 20).convert("RGBA"), text="a dog")
    many = [Content(image=picture(100 + seed % 9, 16 + seed % 9, 20).convert("RGBA")) for seed in range(30)]
    held: list[int] = []
    left: list[int] = []
    kept = PixelMemo.keep_only

    def recorded(self: PixelMemo, keys: set[str]) -> None:
        held.append(len(self._answers or {}))
        kept(self, keys)
        assert len(self._answers or {}) == len(keys)
        left.append(len(keys))

    monkeypatch.setattr(PixelMemo, "keep_only", recorded)
    qwen.forget()
    found = qwen.score(query, many, EAGER)
    assert max(held) == 4
    assert left == [1] * 9 + [0]
    for at, score in enumerate(found):
        assert_same_score(score, found[at % 9])


def test_as_many_pairs_are_asked_for_as_fit_two_passes_and_take_some_seconds(
    scorer_of: Callable[[str], Scorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = scorer_of("qwen2_5_vl")
    now = [0.0]
    monkeypatch.setattr("retllm.fine.scorer.time.monotonic", lambda: now[0])

    def score_pairs_for(seconds: float) -> None:
        """Let the clock show so many seconds for each pair."""
        read = Scorer._remark

        def remark(self: Scorer, pair: Any) -> str | None:
            now[0] += seconds
            return read(self, pair)

        monkeypatch.setattr(Scorer, "_remark", remark)
        for _ in range(40):
            scores = scorer.score(QUERIES["text"], candidates()[:2], OFF)
        tokens.append(sum(score.tokens for score in scores) / 2)
        monkeypatch.setattr(Scorer, "_remark", read)

    tokens: list[float] = []
    monkeypatch.setattr(loaded.loaded.preparer, "picture_tokens", 64)
    scorer = Scorer("new", loaded.loaded, loaded.prompts, 1000, 0, 0)
    assert scorer.pairs_at_once == 2 * 1000 // 64
    score_pairs_for(0.001)
    assert scorer.pairs_at_once == pytest.approx(2 * 1000 / tokens[-1], abs=1)
    score_pairs_for(0.5)
    assert scorer.pairs_at_once in (3, 4)
    score_pairs_for(60)
    assert scorer.pairs_at_once == 1
    loaded._features.attach()


def test_no_candidates_give_no_scores(qwen: Scorer) -> None:
    assert qwen.score(QUERIES["text"], []) == []


NO_EFFECT = {
    "alpha 0": Injection(alpha=0, tau=0, start=0, end=6),
    "nothing triggers": Injection(tau=1, start=0, end=6),
    "empty range of layers": Injection(tau=0, start=3, end=4),
}


def test_settings_without_effect_give_exactly_the_scores_of_the_plain_model(scorer: Scorer) -> None:
    for (name, query), usual in zip(QUERIES.items(), NO_EFFECT, strict=True):
        # at least one candidate of each modality
        pool = [candidates()[at] for at in varied(scorer, name)[:: scaled(2, 3)]]
        tested = {kind: NO_EFFECT[kind] for kind in scaled([usual], list(NO_EFFECT))}
        with scorer.bare():
            plain = scorer.score(query, pool, OFF)
            assert all(score.injected_layer is None and score.uncertainty is None for score in plain)
            for kind, without_effect in tested.items():
                assert scorer.score(query, pool, without_effect) == plain, kind
        scorer.score(query, pool, OFF)
        split_scores = scorer.score(query, pool, OFF)
        for kind, without_effect in tested.items():
            assert scorer.score(query, pool, replace(without_effect, scope="suffix")) == split_scores, kind


def last_logits(family: str, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    if family != "gemma4":
        logits: torch.Tensor = model(**inputs, logits_to_keep=1).logits[:, -1]
        return logits
    # with logits_to_keep=1 the model computes its last layers for that position only, with other rounding
    cap = model.config.text_config.final_logit_softcapping
    hidden = model.model(**inputs).last_hidden_state[:, -1:]
    return torch.tanh(model.lm_head(hidden)[:, -1] / cap) * cap


@pytest.mark.parametrize("family", FAMILIES)
def test_with_the_trigger_off_scores_equal_those_of_transformers_exactly(
    family: str, scorer_of: Callable[[str], Scorer], model_folder: Callable[[str], Path]
) -> None:
    """The model and the processor are loaded and called as documented by transformers."""
    model = AutoModelForImageTextToText.from_pretrained(model_folder(family)).eval()
    processor = AutoProcessor.from_pretrained(model_folder(family))
    image = picture(5, 30, 22)
    question = "Does the image match the caption: <a dog>? Please directly output True or False"
    inputs = processor_inputs(processor, [{"type": "image", "image": image}, {"type": "text", "text": question}])
    with torch.no_grad():
        logits = last_logits(family, model, inputs)
    p = torch.softmax(logits.float(), dim=-1)
    vocabulary = processor.tokenizer.get_vocab()
    labels = sorted(vocabulary[word] for word in ("True", "ĠTrue") if word in vocabulary)
    scorer = scorer_of(family)
    scorer.forget()
    [found] = scorer.score(Content(text="a dog"), [Content(image=image)], OFF)
    assert found.score == p[:, labels].sum().item()
    assert found.entropy == torch.special.entr(p).sum().item()


def test_injection_changes_scores(scorer: Scorer) -> None:
    pool = [Content(image=picture(seed)) for seed in range(3)]
    plain = scorer.score(QUERIES["text"], pool, OFF)
    for layer in range(scorer.info.layers):
        mixed = scorer.score(QUERIES["text"], pool, Injection(trigger="fixed", fixed_layer=layer))
        for one, other in zip(plain, mixed, strict=True):
            assert one.score != other.score
            assert other.injected_layer == layer


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in NEED_A_PICTURE])
def test_pairs_without_a_picture_are_not_injected(family: str, scorer_of: Callable[[str], Scorer]) -> None:
    scorer, texts = scorer_of(family), [Content(text="a dog"), Content(text="a red square")]
    always = Injection(trigger="fixed", fixed_layer=2)
    assert scorer.score(QUERIES["text"], texts, always) == scorer.score(QUERIES["text"], texts, OFF)


@pytest.mark.parametrize("family", sorted(NEED_A_PICTURE))
def test_a_pair_without_a_picture_is_refused_by_a_model_that_requires_one(
    family: str, scorer_of: Callable[[str], Scorer]
) -> None:
    pool = [Content(image=picture(1)), Content(text="a dog")]
    with pytest.raises(InvalidInput, match=r"^The model takes no pair without a picture\.$") as caught:
        scorer_of(family).score(QUERIES["text"], pool, EAGER)
    assert caught.value.detail["index"] == 1


def test_the_head_is_computed_only_at_the_last_position(scorer: Scorer) -> None:
    head = scorer._loaded.decoder.head
    seen: list[tuple[int, ...]] = []
    handle = head.register_forward_hook(lambda _, __, output: seen.append(tuple(output.shape)))
    try:
        scorer.score(QUERIES["text"], candidates()[:6], EAGER)
    finally:
        handle.remove()
    assert sum(shape[0] for shape in seen) == 6, "one forward pass for each pair"
    assert all(shape[1] == 1 for shape in seen)


def test_scorers_do_not_affect_each_other(
    scorer_of: Callable[[str], Scorer], model_folder: Callable[[str], Path]
) -> None:
    first, second = scorer_of("qwen2_5_vl"), load_scorer(str(model_folder("qwen2_5_vl")), device="cpu")
    other = scorer_of("llava")
    expected = first.score(QUERIES["text"], candidates(), EAGER)
    other.score(QUERIES["text"], candidates(), EAGER)
    assert second.score(QUERIES["text"], candidates(), EAGER) == expected
    assert first.score(QUERIES["text"], candidates(), EAGER) == expected


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_the_vision_tower_encodes_each_picture_once_per_call(family: str, scorer_of: Callable[[str], Scorer]) -> None:
    scorer = scorer_of(family)
    seen: list[int] = []
    visual = scorer._loaded.module.model.visual
    handle = visual.register_forward_hook(
        lambda _, args, kwargs, __: seen.append(len(kwargs["grid_thw"])), with_kwargs=True
    )
    shared = Content(image=picture(3))
    try:
        texts = [Content(text=f"caption {at} " * (at + 1)) for at in range(10)]
        scorer.forget()
        with token_budget(scorer, 200):
            scorer.score(QUERIES["image"], texts, EAGER)
        assert sum(seen) == 1
        scorer.forget()
        seen.clear()
        # the query's picture, the shared picture, and three others
        scorer.score(QUERIES["image"], [shared, shared, *candidates()[:3]], EAGER)
        assert sum(seen) == 5
    finally:
        handle.remove()


def test_the_image_processor_runs_once_per_picture_and_call(qwen: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = qwen._loaded.preparer.pixels._wrapped
    calls: list[int] = []
    kind = type(wrapped)
    plain = kind.__call__
    monkeypatch.setattr(kind, "__call__", lambda self, *args, **more: (calls.append(1), plain(self, *args, **more))[1])
    qwen.forget()
    qwen.score(QUERIES["image"], [*candidates()[:4], Content(text="a"), Content(text="b")], EAGER)
    assert len(calls) == 5


class NoDeviceSync(TorchDispatchMode):
    """Fails on operations that make the host wait for a GPU: reading a value, or a shape that depends on values."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not any(name in str(func) for name in self.FORBIDDEN), f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["keep_visual", "observe", "mix"])
def test_the_hooks_do_not_synchronise_with_the_device(
    qwen: Scorer, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = getattr(hooks.Reinjection, method)
    calls = []

    def recorded(*args: Any) -> Any:
        calls.append(1)
        with NoDeviceSync():
            return plain(*args)

    monkeypatch.setattr(hooks.Reinjection, method, recorded)
    qwen.score(QUERIES["text"], candidates(), EAGER)
    assert calls


@pytest.mark.parametrize("tau", [0.0, EAGER.tau, 1.0])
def test_on_a_cpu_a_layer_without_need_is_neither_read_nor_mixed(
    qwen: Scorer, tau: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores are those of a GPU, where every planned layer is read and mixed."""
    done: dict[str, set[int]] = {"observe": set(), "mix": set()}

    def recorded(name: str) -> None:
        plain = getattr(hooks.Reinjection, name)
        monkeypatch.setattr(hooks.Reinjection, name, lambda *args: (done[name].add(args[1]), plain(*args))[1])

    recorded("observe")
    recorded("mix")
    pictures, settings = [one for one in candidates() if one.image is not None], replace(EAGER, tau=tau)
    watched = settings.plan(qwen.info.layers).watched
    found = qwen.score(QUERIES["text"], pictures, settings)
    layers = [score.injected_layer for score in found]
    # at once, at different layers, and never
    assert {0.0: set(layers) == {watched[0] + 1}, EAGER.tau: len(set(layers)) > 1, 1.0: set(layers) == {None}}[tau]
    last = max(watched) if None in layers else max(layer or 0 for layer in layers) - 1
    assert done == {"observe": {layer for layer in watched if layer <= last}, "mix": set(layers) - {None}}
    for name in ("needs_reading", "needs_mixing"):
        monkeypatch.setattr(hooks.Reinjection, name, lambda *_: True)
    qwen.forget()
    assert qwen.score(QUERIES["text"], pictures, settings) == found
    assert done == {"observe": set(watched), "mix": {layer + 1 for layer in watched}}


def test_the_check_for_device_synchronisation_detects_one() -> None:
    with pytest.raises(AssertionError), NoDeviceSync():
        bool(torch.ones(1) > 0)
