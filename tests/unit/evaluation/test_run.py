"""A complete evaluation: what it measures, and that an interruption does not change the result."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.evaluation.stages import COLOURS, ColourEmbedder, ColourScorer, nearest_colour, write_picture

from retllm.errors import ModelUnsuited
from retllm.evaluation.benchmark import Task, picture_item, text_item
from retllm.evaluation.benchmarks.sugarcrepe import choices
from retllm.evaluation.coarse import KeptVectors
from retllm.evaluation.fine import CachingScorer
from retllm.evaluation.run import evaluate_section
from retllm.evaluation.scores import KeptScores
from retllm.evaluation.variants import Variant, ablations
from retllm.fine import PairScore

BASE = Variant("all", k=3)


class Silent:
    """Counts the progress without showing it."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}
        self.total: dict[str, int] = {}

    def stage(self, name: str, total: int):
        self.done[name], self.total[name] = 0, total

        def advance(more: int) -> None:
            self.done[name] += more

        return advance


@pytest.fixture
def tasks(tmp_path):
    """Four pictures with three captions each, one of which also names another colour."""
    names = list(COLOURS)
    pictures = [picture_item(write_picture(tmp_path / f"{name}.png", name), name) for name in names]
    texts, right = [], []
    for place, name in enumerate(names):
        for caption in (f"a {name} wall", f"a wall of {name}", f"not {names[place - 1]} but {name}"):
            texts.append(text_item(caption))
            right.append(frozenset({place}))
    return [Task("t2i", "ranking", texts, pictures, right)]


class Attentive(ColourScorer):
    """Takes the last word into account, so that other colours do not mislead it."""

    def pair(self, query, candidate, mode):
        colour, words = nearest_colour(candidate.picture.rgb()), query.text.split()
        self.scored.append((query.text, colour))
        match = colour == (words[-1] if words[-1] in COLOURS else words[1])
        return PairScore(0.9 if match else 0.1, 2.2 if match else -2.2, 0.1, 3 if match else None, None, 10)


def run(folder, tasks, variants, scorer, embedder=None, **options):
    progress = Silent()
    with KeptScores(folder / "scores.sqlite") as kept:
        results = evaluate_section(
            "t2i",
            tasks,
            variants,
            KeptVectors(folder / "vectors", embedder or ColourEmbedder()),
            CachingScorer(scorer, kept),
            progress,
            **options,
        )
    assert progress.done == progress.total
    return results


def figures(results) -> list:
    return [
        (
            one.variant.name,
            one.skipped,
            [
                ({n: hits.tolist() for n, hits in part.fine.items()}, part.pairs, part.second_passes)
                for part in one.parts
            ],
        )
        for one in results
    ]


def test_both_stages_are_measured_on_the_same_queries(tmp_path, tasks):
    """The embedder takes the first colour it knows: three captions mislead it, and for one of them the right picture
    is not in the pool."""
    (result,) = run(tmp_path, tasks, [BASE], Attentive())
    (part,) = result.parts
    assert part.coarse[1].tolist() == [1, 1, 1, 1, 1, 0, 1, 1, 0, 1, 1, 0]
    assert part.fine[1].tolist() == [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]
    assert part.fine[5].sum() == 12
    assert (part.pairs, part.injected, part.errors) == (36, 11, 0)


class Killed(Exception):
    pass


class Dying(Attentive):
    """Raises ``Killed`` after the given number of calls."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls

    def score(self, *args, **kwargs):
        if self.left == 0:
            raise Killed
        self.left -= 1
        return super().score(*args, **kwargs)


@pytest.mark.parametrize("calls", [0, 1, 7, 30])
def test_an_interrupted_run_continues_where_it_stopped(tmp_path, tasks, calls):
    """The figures are those of an uninterrupted run, and nothing is scored or embedded twice."""
    variants = ablations(BASE, layers=6)
    whole = Attentive()
    wanted = figures(run(tmp_path / "whole", tasks, variants, whole))
    before, after, embedder = Dying(calls), Attentive(), ColourEmbedder()
    with pytest.raises(Killed):
        run(tmp_path / "twice", tasks, variants, before)
    assert figures(run(tmp_path / "twice", tasks, variants, after, embedder)) == wanted
    assert sorted(before.scored + after.scored) == sorted(whole.scored)
    assert (embedder.pictures, embedder.texts) == (0, 0)


def test_ablations_share_their_scores(tmp_path, tasks):
    """Pool sizes, waves, fusion and entropy need no pair beyond those of the largest pool."""
    shared = [one for one in ablations(BASE, layers=6) if one.mode == "true_false" and one.injection == BASE.injection]
    scorer = Attentive()
    results = run(tmp_path, tasks, shared, scorer)
    assert len(shared) == 11
    assert len(scorer.scored) == len(set(scorer.scored)) == 12 * 4
    pairs = {one.variant.name: one.parts[0].pairs for one in results}
    assert pairs["all"] == pairs["enhancement only"] == pairs["fusion 1"] == 36
    assert pairs["k=20"] == 48
    assert pairs["adaptive"] == 48


class NoChoice(Attentive):
    def score(self, query, candidates, injection=None, *, mode="true_false"):
        if mode == "choice":
            raise ModelUnsuited("It has no single token for the letter A.")
        return super().score(query, candidates, injection, mode=mode)


def test_a_mode_that_the_model_does_not_support_is_skipped_with_the_reason(tmp_path, tasks):
    results = {one.variant.name: one for one in run(tmp_path, tasks, ablations(BASE, layers=6), NoChoice())}
    assert results["mode choice"].skipped == "It has no single token for the letter A."
    assert not results["mode choice"].parts
    assert results["mode verbalized"].parts


class Wordless(Attentive):
    """Writes no numbers in the verbalized mode."""

    def pair(self, query, candidate, mode):
        if mode == "verbalized":
            return PairScore(None, None, None, None, None, 10, error="It wrote no number.")
        return super().pair(query, candidate, mode)


def test_a_mode_that_gives_no_scores_is_stopped_early(tmp_path, tasks, monkeypatch):
    """Its figures are those of the coarse stage, for the queries that were processed."""
    monkeypatch.setattr("retllm.evaluation.run.MAX_UNSCORED", 20)
    results = {one.variant.name: one for one in run(tmp_path, tasks, ablations(BASE, layers=6), Wordless())}
    written = results["mode verbalized"]
    assert written.stopped == "none of its first 21 pairs got a score"
    (part,) = written.parts
    assert part.fine[1].tolist() == part.coarse[1].tolist() == [1, 1, 1, 1, 1, 0, 1]
    assert [name for name, one in results.items() if one.stopped] == ["mode verbalized"]


def test_the_requested_mode_continues_without_any_score(tmp_path, tasks, monkeypatch):
    monkeypatch.setattr("retllm.evaluation.run.MAX_UNSCORED", 3)
    (result,) = run(tmp_path, tasks, [replace(BASE, mode="verbalized")], Wordless())
    assert result.stopped is None
    assert (result.parts[0].pairs, result.parts[0].errors) == (36, 36)


def test_the_requested_mode_is_not_skipped(tmp_path, tasks):
    with pytest.raises(ModelUnsuited):
        run(tmp_path, tasks, [replace(BASE, mode="choice")], NoChoice())


def test_choices_are_measured_in_both_stages(tmp_path):
    picture = picture_item(write_picture(tmp_path / "red.png", "red"), "red")
    rows = [(picture, f"a {number} red thing", f"a {number} blue thing") for number in range(4)]
    (result,) = run(tmp_path, [choices("part", rows)], [Variant("all", k=2)], ColourScorer())
    (part,) = result.parts
    assert part.coarse[1].tolist() == part.fine[1].tolist() == [1, 1, 1, 1]
    assert part.fine[10].tolist() == [1, 1, 1, 1]
    assert part.pairs == 8


def test_abstention_is_measured_with_and_without_the_right_picture(tmp_path, tasks):
    """Every right pair has log-odds 2.2 and every wrong one -2.2; too few to learn a threshold, so all match."""
    clear = [replace(tasks[0], queries=tasks[0].queries[:2], right=tasks[0].right[:2])]
    base, other = run(tmp_path, clear, [replace(BASE, k=2), replace(BASE, name="other")], Attentive(), abstain=True)
    assert other.abstention is None
    assert base.abstention is not None
    assert (base.abstention.queries, base.abstention.area, base.abstention.matched) == (2, 1.0, 1.0)
    assert (base.abstention.threshold, base.abstention.refused) == (None, 0.0)
