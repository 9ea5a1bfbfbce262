"""``python -m retllm.demo.evaluate``: the platform's two stages on held-out scenes, with the shipped models.

Everything goes through the platform's own coarse encoder and fine scorer with their defaults. The gallery consists of
families of eight scenes that differ from one another in one thing; each picture's caption is a query. The seven
categories follow SugarCrepe (arXiv 2306.14610): of a true and a false caption of one picture, the true one must score
higher. The models' training never saw a scene of the gallery, nor the seeds reported.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from numpy.typing import NDArray

from retllm.demo import models_dir
from retllm.demo.claims import caption
from retllm.demo.scenes import render
from retllm.demo.variants import CATEGORIES, gallery, hard_pairs
from retllm.fine import Content, Injection, Scored, final_order, load_scorer

if TYPE_CHECKING:
    from retllm.embedding import Embedder
    from retllm.fine import Scorer

#: edge of the pictures as a collection would hold them; the models' own preprocessing makes them smaller
PICTURE_EDGE = 256
POOL = 10
#: the platform's default, none at all, and always at the layer that the default may arm in a model of six layers
SWITCHES: dict[str, Injection] = {
    "injection_on": Injection(),
    "injection_off": Injection(trigger="off"),
    "injection_always": Injection(trigger="fixed", fixed_layer=3),
}


@dataclass(frozen=True)
class Ranks:
    """The rank of the right picture for each query, 1 for the best, and the seconds that the stage took.

    ``injected`` is the share of the judged pairs in which visual tokens were mixed into a layer.
    """

    ranks: NDArray[np.int64]  # (queries,)
    seconds: float
    injected: float = 0.0

    def recall(self, *at: int) -> dict[str, float]:
        """Share of queries whose right picture is among the first n, for each n."""
        return {f"r@{n}": round(float((self.ranks <= n).mean()), 4) for n in at}


class World:
    """The pictures and captions of one gallery; caption i belongs to picture i."""

    def __init__(self, families: int, seed: int) -> None:
        scenes = [scene for members in gallery(families, seed) for scene in members]
        self.pictures = [render(scene, PICTURE_EDGE) for scene in scenes]
        self.captions = [caption(scene) for scene in scenes]

    def coarse_order(self, embedder: Embedder) -> NDArray[np.int64]:
        """For each caption all pictures by falling cosine similarity, (captions, pictures)."""
        similarity = embedder.embed_texts(self.captions) @ embedder.embed_images(self.pictures).T
        return np.argsort(-similarity, axis=1, kind="stable")


def coarse_ranks(order: NDArray[np.int64], seconds: float) -> Ranks:
    """Rank of picture i for caption i in the coarse order."""
    right = np.arange(len(order))[:, None]
    return Ranks((order == right).argmax(axis=1) + 1, seconds)


def fine_ranks(world: World, order: NDArray[np.int64], scorer: Scorer, injection: Injection, pool: int = POOL) -> Ranks:
    """Rank of picture i for caption i after the coarse top ``pool`` were judged and put in their final order."""
    started = time.monotonic()
    contents = [Content(image=picture) for picture in world.pictures]
    ranks: list[int] = []
    armed = 0
    for right, row in enumerate(order):
        candidates = row[:pool].tolist()
        judged = scorer.score(Content(text=world.captions[right]), [contents[item] for item in candidates], injection)
        armed += sum(one.injected_layer is not None for one in judged)
        rows = [
            Scored(int(item), place, judged[place - 1].score, judged[place - 1].entropy)
            for place, item in enumerate(candidates, start=1)
        ]
        rows += [Scored(int(item), place) for place, item in enumerate(row[pool:].tolist(), start=pool + 1)]
        ranks.append(next(ranked.rank for ranked in final_order(rows) if ranked.key == right))
    return Ranks(np.array(ranks), time.monotonic() - started, armed / (len(order) * min(pool, len(order))))


def pairwise(category: str, count: int, seed: int, scorer: Scorer, injection: Injection) -> float:
    """Share of hard pairs of one category whose true caption scores higher than the false one."""
    right = 0
    for pair in hard_pairs(category, count, seed):
        captions = [Content(text=str(pair.true)), Content(text=str(pair.false))]
        true, false = scorer.score(Content(image=render(pair.scene, PICTURE_EDGE)), captions, injection)
        assert true.log_odds is not None
        assert false.log_odds is not None
        right += true.log_odds > false.log_odds
    return round(right / count, 4)


def coarse_pairwise(category: str, count: int, seed: int, embedder: Embedder) -> float:
    """The same choice made by the coarse encoder's cosine similarity."""
    pairs = hard_pairs(category, count, seed)
    images = embedder.embed_images([render(pair.scene, PICTURE_EDGE) for pair in pairs])
    true = embedder.embed_texts([str(pair.true) for pair in pairs])
    false = embedder.embed_texts([str(pair.false) for pair in pairs])
    return round(float(((images * true).sum(1) > (images * false).sum(1)).mean()), 4)


@dataclass(frozen=True)
class Report:
    """The figures of one evaluation; ``fine`` and ``fine_pairwise`` are keyed by the names in ``SWITCHES``."""

    seed: int
    pictures: int
    pool: int
    pairs_per_category: int
    coarse: dict[str, float]
    coarse_pairwise: dict[str, float]
    fine: dict[str, dict[str, float]]
    fine_pairwise: dict[str, dict[str, float]]
    #: share of the pool's pairs in which the default trigger armed a layer
    injected_share: float
    seconds: dict[str, float]


def evaluate(models: Path, families: int, pairs: int, seed: int) -> Report:
    """Measure both stages on the gallery of ``seed``.

    Args:
        models: the folder that holds ``clip/`` and ``mllm/``.
        families: number of families of eight scenes.
        pairs: hard pairs in each of the seven categories.
        seed: of gallery and pairs.
    """
    from retllm.embedding import load_embedder

    embedder, scorer = load_embedder(f"local-dir:{models / 'clip'}"), load_scorer(str(models / "mllm"))
    world = World(families, seed)
    started = time.monotonic()
    order = world.coarse_order(embedder)
    coarse = coarse_ranks(order, time.monotonic() - started)
    fine = {name: fine_ranks(world, order, scorer, injection) for name, injection in SWITCHES.items()}
    return Report(
        seed=seed,
        pictures=len(world.pictures),
        pool=POOL,
        pairs_per_category=pairs,
        coarse=coarse.recall(1, 5, 10),
        coarse_pairwise={name: coarse_pairwise(name, pairs, seed, embedder) for name in CATEGORIES},
        fine={name: ranks.recall(1, 5, 10) for name, ranks in fine.items()},
        fine_pairwise={
            switch: {name: pairwise(name, pairs, seed, scorer, injection) for name in CATEGORIES}
            for switch, injection in SWITCHES.items()
        },
        injected_share=round(fine["injection_on"].injected, 4),
        seconds={
            "coarse": round(coarse.seconds, 2),
            **{f"fine_{name}": round(ranks.seconds, 2) for name, ranks in fine.items()},
        },
    )


def as_table(report: Report) -> str:
    """The report as lines of text."""
    lines = [
        f"seed {report.seed}: {report.pictures} held-out pictures, every caption a query, pool of {report.pool}",
        f"{'re-injection':22}{'coarse':>10}{'default':>10}{'off':>10}{'always':>10}",
    ]
    for title, coarse, fine in (
        ("recall", report.coarse, report.fine),
        (f"pairwise choice, {report.pairs_per_category} pairs each", report.coarse_pairwise, report.fine_pairwise),
    ):
        lines.append(title)
        lines += [
            f"  {key:20}{value:10.4f}" + "".join(f"{fine[name][key]:10.4f}" for name in SWITCHES)
            for key, value in coarse.items()
        ]
    lines.append(f"visual tokens were re-injected in {report.injected_share:.0%} of the pairs judged")
    lines.append("seconds: " + ", ".join(f"{key} {value}" for key, value in report.seconds.items()))
    return "\n".join(lines)


def main() -> None:
    """Print the report of one seed, as a table or as JSON."""
    parser = argparse.ArgumentParser(prog="python -m retllm.demo.evaluate", description=__doc__)
    parser.add_argument("--seed", type=int, default=101)
    parser.add_argument("--families", type=int, default=64, help="families of eight scenes in the gallery")
    parser.add_argument("--pairs", type=int, default=200, help="hard pairs in each of the seven categories")
    parser.add_argument("--models", type=Path, default=models_dir(), help="folder that holds clip/ and mllm/")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    report = evaluate(arguments.models, arguments.families, arguments.pairs, arguments.seed)
    click.echo(json.dumps(asdict(report)) if arguments.json else as_table(report))


if __name__ == "__main__":
    main()
