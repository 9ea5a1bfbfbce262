"""The generated scenes of the demo as a benchmark: families with one difference, and SugarCrepe's seven kinds of pairs.

Needs no folder. The demo models were not trained on these scenes.
"""

from __future__ import annotations

import hashlib
from functools import partial

from retllm.demo.claims import caption
from retllm.demo.scenes import Scene, render
from retllm.demo.variants import CATEGORIES, gallery, hard_pairs
from retllm.evaluation.benchmark import Benchmark, Item, Task, text_item
from retllm.evaluation.benchmarks.sugarcrepe import choices
from retllm.fine import Picture

PICTURE_EDGE = 256
"""Width and height of the pictures in pixels, as in a collection; the models' preprocessing makes them smaller."""


def make_scenes(families: int, pairs: int, seed: int) -> Benchmark:
    """Make a gallery of ``families`` families of eight held-out scenes, and ``pairs`` choices of each of seven kinds.

    Every caption is a query, and in the other direction every picture; each caption is true for one picture only.
    """
    members = [scene for family in gallery(families, seed) for scene in family]
    pictures = [_picture(scene) for scene in members]
    texts = [text_item(caption(scene)) for scene in members]
    same = [frozenset({place}) for place in range(len(members))]
    return Benchmark(
        "scenes",
        {
            "t2i": [Task("t2i", "ranking", texts, pictures, same)],
            "i2t": [Task("i2t", "ranking", pictures, texts, same)],
            "choice": [_hard_pairs(category, pairs, seed) for category in CATEGORIES] if pairs else [],
        },
    )


def _hard_pairs(category: str, count: int, seed: int) -> Task:
    drawn = hard_pairs(category, count, seed)
    return choices(
        category, [(_picture(pair.scene), str(pair.true), str(pair.false)) for pair in drawn], category.split("_")[0]
    )


def _picture(scene: Scene) -> Item:
    name = hashlib.blake2b(repr((scene, PICTURE_EDGE)).encode(), digest_size=12).hexdigest()
    return Item(f"scene:{name}", picture=Picture(partial(render, scene, PICTURE_EDGE), f"scene:{name}"))
