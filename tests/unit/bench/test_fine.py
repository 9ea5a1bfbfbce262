"""``retllm bench fine`` measures the same pairs in each of the described ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from retllm.bench.fine import DIRECTIONS, WAYS, captions, measure_fine, pictures, published_shape
from retllm.bench.rivals import CrossEncoder, forward_alone
from retllm.cli.bench import fine
from retllm.cli.main import main
from retllm.fine import Content, Injection, Scorer, load_scorer
from retllm.fine.engine import Engine
from retllm.fine.labels import both_labels
from retllm_tools.random_model import Size, save_random_model

SMALL = Size(width=128, layers=4, vocabulary=2100, picture=84)
OFF = Injection(trigger="off")


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    folder = tmp_path_factory.mktemp("random")
    save_random_model(folder, SMALL, captions(40, 0))
    return load_scorer(str(folder), device="cpu")


def test_the_random_model_has_the_requested_size(tmp_path: Path, scorer: Scorer) -> None:
    parameters = save_random_model(tmp_path, SMALL, captions(5, 0))
    assert parameters == sum(one.numel() for one in scorer.loaded.module.parameters())
    [score] = scorer.score(Content(text="a"), [Content(image=one) for one in pictures(1, 84, 0)], OFF)
    assert (84 // 28) ** 2 < score.tokens < (84 // 28) ** 2 + 60, "words of the question are single tokens"


def test_captions_and_pictures_are_all_different() -> None:
    assert len(set(captions(60, 1))) == 60
    assert len({one.tobytes() for one in pictures(8, 28, 1)}) == 8


def test_the_published_shape_applies_the_head_to_every_layer_and_position(scorer: Scorer) -> None:
    seen: list[int] = []
    head = scorer.loaded.decoder.head
    handle = head.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[1]))
    try:
        published_shape(scorer, Content(text="a"), [Content(image=one) for one in pictures(2, 84, 3)])
    finally:
        handle.remove()
    assert len(seen) == 2 * (SMALL.layers + 1)
    assert min(seen) > 9
    assert all(not layer._forward_hooks for layer in scorer.loaded.decoder.layers)


def test_each_way_makes_the_expected_forward_passes(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[tuple[str, int]] = []
    for name in ("_whole", "_make", "_tails"):
        plain = getattr(Engine, name)

        def counted(engine: Engine, group: Any, *more: Any, name: str = name, plain: Any = plain) -> Any:
            passes.append((name, len(group)))
            return plain(engine, group, *more)

        monkeypatch.setattr(Engine, name, counted)
    scorer.score(Content(text="a"), [Content(image=pictures(1, 84, 9)[0])], OFF)
    passes.clear()
    speed = measure_fine(scorer, 3, 84, 1, OFF)
    warm_up, counted_round = passes[: len(passes) // 2], passes[len(passes) // 2 :]
    assert counted_round == warm_up
    assert counted_round == [
        *[("_whole", 1)] * 3, ("_whole", 3), ("_tails", 3),
        *[("_whole", 1)] * 3, ("_make", 1), ("_tails", 3), ("_tails", 3),
    ]  # fmt: skip
    measured = set(WAYS) - {"cross_encoder"}
    assert all(set(speed.pairs_per_second[one]) == measured for one in DIRECTIONS)
    assert all(value > 0 for ways in speed.pairs_per_second.values() for value in ways.values())


def test_limit_and_rival_answer_the_questions_of_the_scorer(scorer: Scorer) -> None:
    """Their log-odds of True against False are those of the published code's plain forward pass, pair by pair."""
    rival = CrossEncoder(scorer)
    text, picture = Content(text="a dog {{ 7 }} {% raw %}"), Content(image=pictures(1, 84, 7)[0])
    some_pictures = [Content(image=one) for one in pictures(3, 84, 8)]
    some_texts = [Content(text=one) for one in ("a", "a red house beside a river", "two boats")]
    (true, *_), (false, *_) = both_labels(scorer.loaded.preparer, scorer.prompts, "true_false")
    for query, pool in ((text, some_pictures), (picture, some_texts)):
        expected = [_plain_odds(scorer, query, candidate, true, false) for candidate in pool]
        assert forward_alone(scorer, query, pool)() == pytest.approx(expected, abs=1e-4)
        assert rival.scored(query, pool) == pytest.approx(expected, abs=1e-4)


def _plain_odds(scorer: Scorer, query: Content, candidate: Content, true: int, false: int) -> float:
    scorer.forget()
    pair = scorer.loaded.preparer.pair(0, scorer.prompts.message("true_false", query, candidate))
    with torch.inference_mode():
        logits = scorer.loaded.module(**pair.tokens, **pair.vision).logits[0, -1]
    return float(logits[true] - logits[false])


def test_a_comparison_does_not_change_the_scorer(scorer: Scorer) -> None:
    query, pool = Content(text="a dog"), [Content(image=one) for one in pictures(2, 84, 5)]
    expected = scorer.score(query, pool, OFF)
    with scorer.bare():
        bare = scorer.score(query, pool, OFF)
    again = scorer.score(query, pool, OFF)
    for one, other, third in zip(expected, bare, again, strict=True):
        assert one.log_odds == pytest.approx(other.log_odds, abs=1e-4)
        assert one.log_odds == pytest.approx(third.log_odds, abs=1e-4)
    assert not torch.is_inference_mode_enabled()


def test_the_command_prints_the_documented_json(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--width", "128", "--layers", "4", "--picture", "56", "-k", "2", "--rounds", "1", "--json"]
    with pytest.raises(SystemExit) as caught:
        main(["bench", "fine", *options])
    assert not caught.value.code
    result = json.loads(capsys.readouterr().out)
    assert {"parameters", "k", "device", "t2i", "i2t"} <= set(result)
    assert set(result["t2i"]) == set(result["i2t"]) == set(WAYS)
    assert result["k"] == 2


def test_a_width_that_is_not_a_multiple_of_64_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bench", "fine", "--width", "200"])
    assert caught.value.code == 2
    assert "multiple of 64" in capsys.readouterr().err


def test_a_model_is_measured_as_a_worker_would_serve_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_random_model(tmp_path / "model", SMALL, captions(40, 0))
    mine = tmp_path / "mine.toml"
    mine.write_text('[ask]\ntrue_false = "True or False?"', encoding="utf-8")
    measured: list[Scorer] = []

    class Enough(Exception):
        """The scorer is known."""

    def kept(scorer: Scorer, *_: Any, **__: Any) -> None:
        measured.append(scorer)
        raise Enough

    monkeypatch.setattr("retllm.bench.fine.measure_fine", kept)
    given = {"PROFILE": str(mine), "DTYPE": "bfloat16", "TOKEN_BUDGET": "300", "PICTURE_TOKENS": "100"}
    for name, value in given.items():
        monkeypatch.setenv(f"RETLLM_{name}", value)
    for options in (["--model", str(tmp_path / "model")], ["--width", "128", "--layers", "4"]):
        with pytest.raises(Enough):
            fine.main(options, standalone_mode=False)
    told = [(one.info.dtype, one.token_budget, one.info.picture_tokens, one.prompts.profile) for one in measured]
    assert told == [("bfloat16", 300, 100, "mine"), ("bfloat16", 300, 100, "qwen2_5_vl")]


@pytest.mark.parametrize("more", [[], ["--concurrent", "2"]])
def test_a_scorer_on_a_server_is_not_measured(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bench", "fine", "--model", "openai+http://127.0.0.1:1#any", *more])
    assert caught.value.code == 2
    assert "A scorer on a server can't be measured" in capsys.readouterr().err
