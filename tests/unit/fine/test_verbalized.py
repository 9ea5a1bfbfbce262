"""The mode ``verbalized`` decodes greedily like transformers, and parses the answer into a score or an error."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.soak import scaled
from tests.unit.fine.families import FAMILIES
from tests.unit.fine.reference import Reference, picture

from retllm.errors import InvalidInput, ScoreUnreadable
from retllm.fine import Content, Injection, PairScore, Scorer, load_prompts, load_scorer
from retllm.fine.engine import Engine, Prompt, PromptAnswer
from retllm.fine.fitting import AskedPair
from retllm.fine.modes import ScoreTask
from retllm.fine.modes.verbalized import Verbalized, most_likely

CAPTION = "a red square is left of a dog"
EAGER = Injection(alpha=0.5, tau=0.66, start=0, end=6, scope="all")
OFF = Injection(trigger="off")
ASK = 'Please output the relevance score from 0 to 1 in a format of "Answer: score". Keep four decimal places'


def question(image: Any, caption: str = CAPTION) -> list[dict[str, Any]]:
    text = f"Does the image match the caption: <{caption}>? {ASK}"
    return [{"type": "image", "image": image}, {"type": "text", "text": text}]


class FinishedAnswers:
    """Answers that are already available."""

    def __init__(self, answers: list[PromptAnswer]) -> None:
        self.read = lambda: answers


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[int]]:
    """The tokens written for each candidate of the latest call, including the one that ended the answer."""
    tokens: dict[int, list[int]] = {}
    plain = Engine.answer

    def recorded(self: Engine, asks: Sequence[Prompt], read: Any) -> Any:
        answers = plain(self, asks, read).read()
        if read is most_likely:
            for ask, answer in zip(asks, answers, strict=True):
                tokens[ask.candidate] = [*ask.answer_tokens, int(answer.values[0])]
        return FinishedAnswers(answers)

    monkeypatch.setattr(Engine, "answer", recorded)
    return tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_equals_the_greedy_decoding_of_transformers(
    family: str,
    decoded: dict[int, list[int]],
    scorer_of: Callable[[str], Scorer],
    reference_of: Callable[[str], Reference],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Up to the end of the answer: end of turn, another control token, or a complete number."""
    reference = reference_of(family)
    # without an end token, it always writes at least as many tokens as the scorer
    monkeypatch.setattr(reference.model.generation_config, "eos_token_id", None)
    pictures = [picture(seed, 16 + 6 * seed, 30 - 4 * seed) for seed in range(2)]
    pool = [Content(image=image) for image in pictures]
    scorer_of(family).score(Content(text=CAPTION), pool, OFF, mode="verbalized")
    for at, image in enumerate(pictures):
        inputs = reference.inputs(question(image))
        whole = reference.model.generate(**inputs, max_new_tokens=16, do_sample=False)
        written = whole[0, inputs["input_ids"].shape[1] :].tolist()
        assert len(decoded[at]) <= len(written) == 16
        assert written[: len(decoded[at])] == decoded[at]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava"])
def test_with_injection_each_token_equals_the_reference(
    family: str,
    decoded: dict[int, list[int]],
    scorer_of: Callable[[str], Scorer],
    reference_of: Callable[[str], Reference],
) -> None:
    """Every pass is injected separately; the score describes the first one."""
    reference = reference_of(family)
    pictures = [picture(seed, 16 + 6 * seed, 30 - 4 * seed) for seed in range(2)]
    pool = [Content(image=image) for image in pictures]
    scores = scorer_of(family).score(Content(text=CAPTION), pool, EAGER, mode="verbalized")
    layers = set()
    for at, (image, score) in enumerate(zip(pictures, scores, strict=True)):
        for step, token in enumerate(decoded[at]):
            run = reference.run(question(image), EAGER, decoded[at][:step])
            assert int(run.logits.argmax()) == token
            layers.add(run.layer)
            if step == 0:
                assert score.injected_layer == run.layer
                assert score.uncertainty == pytest.approx(run.uncertainty, abs=1e-4)
                assert score.tokens == reference.inputs(question(image))["input_ids"].shape[1]
    assert len(layers) > 1, "passes are injected at different layers"


NUMERIC = [*"0.15", "<|im_end|>"]


@pytest.fixture(scope="module")
def numeric_scorer(model_folder: Callable[[str], Path]) -> Callable[[str], Scorer]:
    """Return a scorer that writes only the digits 0, 1 and 5, the decimal point and the end of turn."""
    loaded: dict[str, Scorer] = {}

    def scorer(family: str) -> Scorer:
        if family not in loaded:
            loaded[family] = load_scorer(str(model_folder(family)), device="cpu")
            preparer, weight = loaded[family]._loaded.preparer, loaded[family]._loaded.decoder.head.weight
            allowed = [token for text in NUMERIC for token in preparer.encode(text, continued=True)]
            with torch.no_grad():
                kept = weight[allowed].clone()
                weight.zero_()
                weight[allowed] = kept
        return loaded[family]

    return scorer


def pool() -> list[Content]:
    pictures = [picture(seed, 16 + 5 * seed % 31, 16 + 7 * seed % 29) for seed in range(8)]
    texts = ["a red square", "a small blue circle is left of a red square and " * 3]
    both = [Content(image=picture(20 + at, 30, 20), text=text) for at, text in enumerate(texts)]
    return [*(Content(image=image) for image in pictures), *(Content(text=text) for text in texts), *both]


def assert_same_answer(one: PairScore, other: PairScore) -> None:
    assert (one.score, one.log_odds, one.error) == (other.score, other.log_odds, other.error)
    assert (one.injected_layer, one.tokens) == (other.injected_layer, other.tokens)
    assert one.uncertainty == pytest.approx(other.uncertainty, abs=1e-4)


@pytest.mark.parametrize("settings", [OFF, EAGER, Injection(alpha=0.5, tau=0.66, start=0, end=6, scope="suffix")])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava"])
def test_an_answer_does_not_depend_on_its_batch(
    family: str, settings: Injection, numeric_scorer: Callable[[str], Scorer]
) -> None:
    scorer, query, some = numeric_scorer(family), Content(text=CAPTION), scaled(pool()[1::2], pool())
    alone = [scorer.score(query, [one], settings, mode="verbalized")[0] for one in some]
    order = [int(at) for at in np.random.default_rng(3).permutation([*range(len(some)), 0, 3])]
    found = scorer.score(query, [some[at] for at in order], settings, mode="verbalized")
    for at, score in zip(order, found, strict=True):
        assert_same_answer(score, alone[at])


def test_these_models_write_scores_as_well_as_invalid_answers(numeric_scorer: Callable[[str], Scorer]) -> None:
    """Otherwise the comparison above would show little."""
    scores = [
        score
        for family in ("qwen2_5_vl", "llava")
        for score in numeric_scorer(family).score(Content(text=CAPTION), pool(), OFF, mode="verbalized")
    ]
    assert len({score.score for score in scores if score.score is not None}) > 1
    assert any(score.score is None for score in scores)
    for score in scores:
        assert score.entropy is None
        assert (score.score is None) == (score.log_odds is None) == (score.error is not None)


@dataclass
class Scripted:
    """A fake engine that writes given texts, one token per letter; ``|`` ends the turn."""

    encode: Callable[[str], list[int]]
    end: int
    texts: list[str]

    def __post_init__(self) -> None:
        self.asked: list[dict[int, int]] = []

    def answer(self, asks: Sequence[Prompt], read: Any) -> FinishedAnswers:
        assert read is most_likely
        self.asked.append({ask.candidate: len(ask.answer_tokens) for ask in asks})
        answers = []
        for ask in asks:
            text = self.texts[ask.candidate]
            tokens = [self.end if letter == "|" else self.encode(letter)[0] for letter in text]
            assert list(ask.answer_tokens) == tokens[: len(ask.answer_tokens)], "each pass gets the answer so far"
            length = len(ask.answer_tokens)
            token = tokens[length]
            answers.append(PromptAnswer((float(token),), 4 + length, 0.5, 100 + length))
        return FinishedAnswers(answers)


@pytest.fixture
def score_texts(qwen: Scorer) -> Callable[[list[str]], tuple[list[PairScore], list[dict[int, int]]]]:
    """Return the scores of given texts, and for each pass the candidates with the number of tokens written so far."""
    loaded = qwen._loaded

    def scores(texts: list[str]) -> tuple[list[PairScore], list[dict[int, int]]]:
        encode = lambda text: loaded.preparer.encode(text, continued=True)  # noqa: E731
        engine: Any = Scripted(encode, encode("<|im_end|>")[0], texts)
        query, candidate = Content(text="a"), Content(text="b")
        task = ScoreTask([AskedPair(at, query, candidate) for at in range(len(texts))])
        return Verbalized(load_prompts(), loaded).score(engine, task)(), engine.asked

    return scores


def test_written_scores_are_parsed(score_texts: Any) -> None:
    texts = ["Answer: 0.8750xxxxxx", "0.875|", "1.0|", "1|", ".5|", "0|", "0.25\n....."]
    scores, _ = score_texts(texts)
    assert [score.score for score in scores] == [0.875, 0.875, 1.0, 1.0, 0.5, 0.0, 0.25]
    margin = math.log1p(-1e-6) - math.log(1e-6)
    for score in scores:
        assert score.error is None
        expected = math.log(score.score / (1 - score.score)) if 0 < score.score < 1 else margin * (2 * score.score - 1)
        assert score.log_odds == pytest.approx(expected)
        assert (score.injected_layer, score.uncertainty, score.tokens) == (4, 0.5, 100), (
            "those of the first token's pass"
        )


def test_an_answer_without_a_score_is_an_error_with_the_reason(score_texts: Any) -> None:
    texts = ["high|", "|", "7.5|", "87%", "I can not say at all", "1/10....", "Answer: high, 0.9", "The score: 0.875"]
    scores, _ = score_texts(texts)
    assert [score.error for score in scores] == [
        'The model\'s answer contains no number: "high".',
        "The model's answer was empty, without a score.",
        'The model\'s score is not from 0 to 1: "7.5".',
        'The model\'s answer is not a score from 0 to 1: "87%".',
        'The model wrote no score within 16 tokens: "I can not say at".',
        'The model\'s answer is not a score from 0 to 1: "1/".',
        'The model wrote no score within 16 tokens: "Answer: high, 0.".',
        'The model wrote no score within 16 tokens: "The score: 0.875".',
    ]
    for score in scores:
        assert (score.score, score.log_odds, score.entropy) == (None, None, None)


def test_only_unfinished_answers_are_continued(score_texts: Any) -> None:
    _, asked = score_texts(["1|", "0.5000", "never a number in it", "|"])
    assert len(asked) == 16
    for step, candidates in enumerate(asked):
        lasts = {0: 2, 1: 6, 2: 16, 3: 1}
        assert candidates == {at: step for at, most in lasts.items() if step < most}


@pytest.mark.parametrize("token", [0, 1, 151_643, 262_143])
def test_token_ids_of_the_largest_vocabularies_are_exact_in_float32(token: int) -> None:
    logits = torch.zeros(2, 262_144)
    logits[1, token] = 5
    assert most_likely(logits).tolist()[1] == [float(token)]
    assert most_likely(logits).dtype == torch.float32


def test_nan_logits_are_an_error(qwen: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    head = qwen._loaded.decoder.head
    plain = head.forward
    monkeypatch.setattr(head, "forward", lambda hidden: plain(hidden) * math.nan)
    with pytest.raises(ScoreUnreadable) as caught:
        qwen.score(Content(text="a"), [Content(text="b")], OFF, mode="verbalized")
    assert caught.value.detail["index"] == 0


def test_an_unknown_mode_is_refused(qwen: Scorer) -> None:
    mode: Any = "guess"
    with pytest.raises(InvalidInput, match="true_false, verbalized, choice"):
        qwen.score(Content(text="a"), [Content(text="b")], mode=mode)


def test_each_mode_has_its_own_version(qwen: Scorer) -> None:
    assert len({qwen.version(OFF, "true_false"), qwen.version(OFF, "verbalized"), qwen.version(OFF, "choice")}) == 3
