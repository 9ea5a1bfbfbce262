"""Training: the targets of each stage, and that an interrupted run can be resumed."""

from __future__ import annotations

import json
import random

import pytest
import torch

from retllm.demo.scenes import COLOURS, SHAPES, SIZES, Scene, SceneObject, Single
from retllm.demo.variants import gallery, hard_pairs
from retllm_tools import train_mllm as training
from retllm_tools.lessons import Mix, around, ask, judge
from retllm_tools.mllm import GRID, build_processor, load
from retllm_tools.packed import Packer
from retllm_tools.train_clip import recall
from retllm_tools.train_mllm import JudgeStage, MllmRecipe, _Run, train_mllm
from retllm_tools.train_sight import SightRecipe, cells, rate, sight_loss

RED, BLUE = SceneObject("large", "red", "circle"), SceneObject("small", "blue", "square")
TINY = MllmRecipe(
    sight=SightRecipe(steps=4, pictures=4, warm_up=1),
    describe_steps=2,
    judge=(
        JudgeStage(1, Mix(0.5, 0.5, ("place", "size")), place_weight=0.0, fades=1),
        JudgeStage(1, Mix(0.0, 0.5, ("place", "colour"), swaps=2.0), place_weight=0.3, fades=1),
    ),
    describe_pictures=4,
    judge_pictures=4,
    pairs=2,
    warm_up=1,
    log_every=1,
    measure_every=3,
)


def test_each_cell_has_the_object_in_it_as_target():
    """The object on the left is in one of the left columns, its properties as indices; all other cells are empty."""
    targets = cells(Scene(RED, BLUE, "left of", layout=5))
    filled = (targets[:, 0] >= 0).nonzero()[:, 0].tolist()
    assert len(filled) == 2
    left, right = sorted(filled, key=lambda cell: cell % GRID)
    assert left % GRID < GRID / 2 <= right % GRID
    assert targets[left].tolist() == [SIZES.index("large"), list(COLOURS).index("red"), SHAPES.index("circle")]
    assert (cells(Single(BLUE, "at the top", layout=1))[GRID * GRID // 2 :] == -1).all()


def test_right_answers_have_no_loss_and_count_as_right():
    """A confident right answer has almost no loss; a confident wrong one has a high loss."""
    targets = torch.stack([cells(Scene(RED, BLUE, "above", layout=2))])
    answers = torch.full((1, GRID * GRID, 1 + len(SIZES) + len(COLOURS) + len(SHAPES)), -20.0)
    for cell in (targets[0, :, 0] >= 0).nonzero()[:, 0]:
        answers[0, cell, -1] = 20.0
        start = 0
        for column, options in enumerate((SIZES, COLOURS, SHAPES)):
            answers[0, cell, start + targets[0, cell, column]] = 20.0
            start += len(options)
    loss, right = sight_loss(answers, targets)
    assert loss < 1e-6
    assert right == {"size": 1.0, "colour": 1.0, "shape": 1.0}
    assert sight_loss(-answers, targets)[0] > 10


def test_the_learning_rate_rises_and_falls():
    """Linear to the peak, then a cosine to zero."""
    rates = [rate(step, 100, 1.0, 10) for step in range(100)]
    assert rates[9] == pytest.approx(1.0)
    assert rates[0] == pytest.approx(0.1)
    assert rates[55] == pytest.approx(0.5, abs=0.02)
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)


def test_recall_counts_the_right_column():
    """The right column of row i is i."""
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.5, 0.4, 0.1], [0.3, 0.2, 0.1]])
    assert recall(similarity, (1, 2, 3)) == {"r@1": 0.3333, "r@2": 0.6667, "r@3": 1.0}


def test_auxiliary_targets_mark_where_a_caption_becomes_false():
    """The words of the true caption are targets; the false one is true up to the word that makes it false."""
    packer = Packer(build_processor(seed=1))
    true, false = "a large red circle left of a small blue square", "a large red circle left of a small blue ring"
    segments = packer.judged([ask(true), ask(false)], ["True", "False"], *around())
    words = packer.tokenizer.convert_ids_to_tokens
    targets = [token for token in segments[0].caption if token >= 0]
    assert packer.tokenizer.decode(targets).split() == true.split()[1:]
    assert all(token == -100 for token in segments[1].caption)
    first_false = segments[1].truth.index(0)
    assert words(segments[1].tokens[first_false]).endswith("ring")
    assert 0 not in segments[0].truth
    assert 1 not in segments[1].truth[first_false:]


def test_every_false_caption_of_a_lesson_differs_from_its_true_one():
    """Each pair differs, and each false caption has at least one position that is known to be false."""
    packer = Packer(build_processor(seed=1))
    lesson = judge(random.Random(1), pictures=8, pairs=4, mix=Mix(0.5, 0.2, ("place", "shape")))
    segments = packer.judged(lesson.questions, lesson.answers, *around())
    for true, false in zip(segments[::2], segments[1::2], strict=True):
        assert true.tokens != false.tokens
        assert 0 in false.truth
        assert len(false.tokens) == len(false.targets) == len(false.caption) == len(false.truth)


@pytest.fixture
def small_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure with the smallest gallery; the figures of a model after four steps do not matter."""
    monkeypatch.setattr(training, "gallery", lambda _, seed: gallery(1, seed))
    monkeypatch.setattr(training, "hard_pairs", lambda category, _, seed: hard_pairs(category, 2, seed))


def test_a_resumed_run_ends_with_the_same_weights(tmp_path, small_measures):
    """A resumed run has the weights of an uninterrupted run, and the saved model can be loaded."""
    train_mllm(tmp_path / "whole", seed=3, checkpoint=tmp_path / "whole.pt", recipe=TINY)
    half = tmp_path / "half.pt"
    advance = _Run.advance

    def advance_until_killed(run):
        if run.step == 3:
            raise KeyboardInterrupt
        return advance(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Run, "advance", advance_until_killed)
        with pytest.raises(KeyboardInterrupt):
            train_mllm(tmp_path / "parts", seed=3, checkpoint=half, recipe=TINY)
    assert torch.load(half, weights_only=True)["step"] == 3
    assert not (tmp_path / "parts").exists()
    train_mllm(tmp_path / "parts", seed=3, checkpoint=half, recipe=TINY)
    whole, parts = load(tmp_path / "whole")[0].state_dict(), load(tmp_path / "parts")[0].state_dict()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value)
    figures = json.loads((tmp_path / "whole" / "training.json").read_text())
    assert [stage["steps"] for stage in figures["recipe"]["judge"]] == [1, 1]
    assert [entry["step"] for entry in figures["history"][1:]] == [1, 2, 3, 4]
