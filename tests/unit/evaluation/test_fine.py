"""The fine stage of an evaluation on one query: order, choices, waves, second passes and kept scores."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.evaluation.stages import ColourScorer

from retllm.errors import InvalidInput, ScoreUnreadable, TooLargeForDevice
from retllm.evaluation.benchmark import text_item
from retllm.evaluation.benchmarks.sugarcrepe import choices
from retllm.evaluation.coarse import KeptVectors, rank
from retllm.evaluation.fine import CachingScorer, Pool, coarse_choice, fine_choice, pools, rank_of_right, run_variant
from retllm.evaluation.scores import KeptScores
from retllm.evaluation.variants import Variant
from retllm.fine import Injection, PairScore
from retllm.fine.waves import Adaptive

PLAIN = Variant("all", k=3)


class FixedScorer(ColourScorer):
    """A scorer that returns given scores, by the candidate's text: (score, log-odds, entropy)."""

    def __init__(self, fixed: dict[str, tuple], second: dict[str, float] | None = None) -> None:
        super().__init__()
        self.fixed = fixed
        self.second = second or {}

    def pair(self, query, candidate, mode):
        self.scored.append((mode, candidate.text))
        if mode == "true_false" and self.second:
            return PairScore(0.5, 0.0, self.second[candidate.text], None, None, 10)
        if self.fixed[candidate.text] is None:
            return PairScore(None, None, None, None, None, 10, error="The model wrote no number.")
        score, log_odds, entropy = self.fixed[candidate.text]
        return PairScore(score, log_odds, entropy, None, None, 10)


@pytest.fixture
def kept(tmp_path):
    with KeptScores(tmp_path / "scores.sqlite") as scores:
        yield scores


def pool(*texts: str, right: int = 0) -> Pool:
    """Candidates in coarse order; the place of each is its index plus 100."""
    return Pool(
        query=text_item("query"),
        candidates=[text_item(text) for text in texts],
        places=[100 + place for place in range(len(texts))],
        similarity=[0.9 - 0.1 * place for place in range(len(texts))],
        right=frozenset({100 + right}),
    )


def test_the_pool_is_ordered_by_score_and_the_candidates_after_it_keep_their_order(kept):
    scorer = FixedScorer({"a": (0.1, -2, 0.1), "b": (0.9, 2, 0.1), "c": (0.5, 0, 0.1)})
    outcome = run_variant(pool("a", "b", "c", "d", "e"), PLAIN, CachingScorer(scorer, kept))
    assert outcome.order == [101, 102, 100, 103, 104]
    assert [text for _, text in scorer.scored] == ["a", "b", "c"]


def test_a_tie_is_decided_by_entropy_or_without_it_by_coarse_rank(kept):
    caching_scorer = CachingScorer(
        FixedScorer({"a": (0.12341, -2, 0.5), "b": (0.12342, -1, 0.4), "c": (0.9, 2, 0.1)}), kept
    )
    assert run_variant(pool("a", "b", "c"), PLAIN, caching_scorer).order == [102, 101, 100]
    assert run_variant(pool("a", "b", "c"), replace(PLAIN, entropy=False), caching_scorer).order == [102, 100, 101]


def test_a_candidate_without_a_score_keeps_its_coarse_rank(kept):
    caching_scorer = CachingScorer(FixedScorer({"a": (0.1, -2, 0.1), "b": None, "c": (0.9, 2, 0.1)}), kept)
    outcome = run_variant(pool("a", "b", "c"), PLAIN, caching_scorer)
    assert outcome.order == [102, 101, 100]
    assert outcome.scores[1].error == "The model wrote no number."


def test_only_tied_verbalized_scores_get_a_second_pass_for_their_entropy(kept):
    fixed = {"a": (0.501, 0, None), "b": (0.503, 0, None), "c": (0.9, 2, None)}
    scorer = FixedScorer(fixed, second={"a": 0.7, "b": 0.2})
    outcome = run_variant(pool("a", "b", "c"), replace(PLAIN, mode="verbalized"), CachingScorer(scorer, kept))
    assert scorer.scored[3:] == [("true_false", "a"), ("true_false", "b")]
    assert outcome.order == [102, 101, 100]
    assert outcome.second_passes == 2
    without = run_variant(
        pool("a", "b", "c"), replace(PLAIN, mode="verbalized", entropy=False), CachingScorer(scorer, kept)
    )
    assert (without.order, without.second_passes, len(scorer.scored)) == ([102, 100, 101], 0, 5)


def test_waves_stop_when_the_best_candidate_is_clear(kept):
    fixed = dict.fromkeys("abcdefgh", (0.1, -2, 0.1)) | {"c": (0.9, 5, 0.1)}
    scorer = FixedScorer(fixed)
    adaptive = replace(PLAIN, k=8, adaptive=Adaptive(first=2, step=2, clear_score=0, clear_gap=1))
    outcome = run_variant(pool(*"abcdefgh"), adaptive, CachingScorer(scorer, kept))
    assert [text for _, text in scorer.scored] == ["a", "b", "c", "d"]
    assert outcome.order[0] == 102
    assert len(outcome.scores) == 4


def test_the_fusion_weight_decides_between_log_odds_and_similarity(kept):
    """The log-odds differ by 0.2, the similarities by two standard deviations."""
    caching_scorer = CachingScorer(FixedScorer({"a": (0.5, 0.0, 0.1), "b": (0.55, 0.2, 0.1)}), kept)
    assert run_variant(pool("a", "b"), replace(PLAIN, k=2), caching_scorer).order == [101, 100]
    assert run_variant(pool("a", "b"), replace(PLAIN, k=2, fusion=0.05), caching_scorer).order == [101, 100]
    assert run_variant(pool("a", "b"), replace(PLAIN, k=2, fusion=0.2), caching_scorer).order == [100, 101]


@pytest.mark.parametrize(
    "error", [TooLargeForDevice("No room."), ScoreUnreadable("No number.", index=0), InvalidInput("Too long.", index=0)]
)
def test_a_pair_that_cannot_be_scored_does_not_end_the_run(kept, error, monkeypatch):
    scorer = FixedScorer({"red": (0.9, 2.2, 0.1), "green": (0.2, -1.4, 0.1)})
    plain = scorer.pair

    def pair(query, candidate, mode):
        if candidate.text == "blue":
            raise error
        return plain(query, candidate, mode)

    monkeypatch.setattr(scorer, "pair", pair)
    query = text_item("a red thing")
    texts = [text_item(text) for text in ("red", "blue", "green")]
    scores = CachingScorer(scorer, kept).scores(query, texts, "true_false", Injection())
    assert [score.error for score in scores] == [None, error.message, None]
    assert [score.score is None for score in scores] == [False, True, False]


def test_invalid_settings_end_the_run(kept, monkeypatch):
    scorer = ColourScorer()

    def refuse(*_: object, **__: object) -> None:
        raise InvalidInput("There is no such layer.", field="fixed_layer")

    monkeypatch.setattr(scorer, "score", refuse)
    with pytest.raises(InvalidInput, match="no such layer"):
        CachingScorer(scorer, kept).scores(text_item("a"), [text_item("b")], "true_false", Injection())


def test_no_pair_is_scored_twice(kept):
    scorer = FixedScorer(dict.fromkeys("abcde", (0.1, -2, 0.1)))
    caching_scorer = CachingScorer(scorer, kept)
    run_variant(pool(*"abcde"), replace(PLAIN, k=5), caching_scorer)
    for variant in (PLAIN, replace(PLAIN, entropy=False), replace(PLAIN, fusion=1.0)):
        run_variant(pool(*"abcde"), variant, caching_scorer)
    assert len(scorer.scored) == 5
    run_variant(pool(*"abcde"), replace(PLAIN, injection=Injection(trigger="off")), caching_scorer)
    assert len(scorer.scored) == 8


def test_a_text_that_occurs_twice_in_a_pool_is_scored_once(kept):
    scorer = FixedScorer({"a": (0.1, -2, 0.1), "b": (0.9, 2, 0.1)})
    outcome = run_variant(pool("a", "b", "a"), PLAIN, CachingScorer(scorer, kept))
    assert len(scorer.scored) == 2
    assert outcome.order == [101, 100, 102]


@pytest.mark.parametrize(("right", "rank"), [(0, 3), (1, 1), (2, 2)])
def test_the_rank_is_that_of_the_first_right_candidate(right, rank):
    assert rank_of_right(pool("a", "b", "c", right=right), [101, 102, 100]) == rank


def test_the_first_of_several_right_candidates_counts_and_without_one_there_is_no_rank():
    several = replace(pool("a", "b", "c"), right=frozenset({100, 102}))
    assert rank_of_right(several, [101, 102, 100]) == 2
    assert rank_of_right(several, [101]) is None


@pytest.mark.parametrize("right", [0, 1])
@pytest.mark.parametrize(
    ("fixed", "won"),
    [
        ({"a": (1.0, 9.1, 0.1), "b": (1.0, 9.0, 0.1)}, (1, 0)),
        ({"a": (0.5, 1.0, 0.1), "b": (0.5, 1.0, 0.1)}, (0.5, 0.5)),
        ({"a": (0.5, 1.0, 0.1), "b": (0.5, 1.0, 0.2)}, (1, 0)),
        ({"a": None, "b": (0.9, 2.0, 0.1)}, (0.5, 0.5)),
        ({"a": None, "b": None}, (0.5, 0.5)),
    ],
)
def test_the_higher_score_wins_a_choice_and_equal_scores_count_half(kept, fixed, won, right):
    """Which of the two candidates is right does not matter."""
    two = pool("a", "b", right=right)
    variant = replace(PLAIN, k=2)
    outcome = run_variant(two, variant, CachingScorer(FixedScorer(fixed), kept))
    assert fine_choice(two, outcome, 0.0) == won[right]


@pytest.mark.parametrize("prefers", [0, 1])
def test_a_scorer_that_prefers_one_position_wins_half_of_the_choices(kept, prefers):
    """A scorer that always prefers the first, or the second, candidate has no advantage."""
    picture = text_item("picture")
    task = choices("part", [(picture, f"true {n}", f"false {n}") for n in range(10)])
    made = [
        Pool(picture, [task.candidates[place] for place in among], among, [0.5, 0.5], right)
        for among, right in zip(task.among, task.right, strict=True)
    ]
    assert [coarse_choice(one) for one in made] == [0.5] * 10
    liked = {task.candidates[among[prefers]].text for among in task.among}
    fixed = {item.text: (0.9, 2, 0.1) if item.text in liked else (0.1, -2, 0.1) for item in task.candidates}
    texts = [replace(one, query=text_item("q")) for one in made]
    variant = replace(PLAIN, k=2)
    won = [fine_choice(one, run_variant(one, variant, CachingScorer(FixedScorer(fixed), kept)), 0.0) for one in texts]
    assert sum(won) == 5


def test_pools_have_the_candidates_in_coarse_order(tmp_path, embedder):
    task = choices("part", [(text_item("red"), "a blue thing", "a red thing")])
    ranking = rank(task, KeptVectors(tmp_path, embedder), 10, lambda _: None)
    (made,) = pools(task, ranking)
    assert [item.text for item in made.candidates] == ["a red thing", "a blue thing"]
    assert made.places == [1, 0]
    assert len(made.similarity) == 2
