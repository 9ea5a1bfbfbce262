"""The demo collection: held-out scenes as PNG files with captions, and queries that show what the fine stage does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from retllm.demo import models_dir
from retllm.demo.claims import caption
from retllm.demo.scenes import render
from retllm.demo.variants import gallery

#: edge of the demo's pictures, pixels
DEMO_EDGE = 256


@dataclass(frozen=True)
class DemoQuery:
    """A text to search for, and the name of the one file of the collection that it is true of."""

    query: str
    file: str


def write_collection(folder: Path, families: int, seed: int) -> list[DemoQuery]:
    """Write ``families`` families of eight held-out scenes to ``folder``: PNG files and ``captions.jsonl``.

    Each line of ``captions.jsonl`` is ``{"file": "scene-0001.png", "caption": "..."}``. Returns a query for every
    picture, its own caption; it is true of no other picture of the collection.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scenes = [scene for members in gallery(families, seed) for scene in members]
    queries = [DemoQuery(caption(scene), f"scene-{number:04d}.png") for number, scene in enumerate(scenes, start=1)]
    for scene, query in zip(scenes, queries, strict=True):
        render(scene, DEMO_EDGE).save(folder / query.file)
    lines = [json.dumps({"file": query.file, "caption": query.query}) for query in queries]
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return queries


def suggest(folder: Path, queries: list[DemoQuery], wanted: int = 3, pool: int = 10) -> list[DemoQuery]:
    """Up to ``wanted`` queries whose right picture the coarse stage finds but not first, and the fine stage puts first.

    Found by searching the collection in ``folder`` with the shipped models, in the order of ``queries``. The list is
    empty where there is no such query.
    """
    from retllm.embedding import load_embedder
    from retllm.fine import Content, Scored, final_order, load_scorer

    pictures = [Image.open(folder / query.file).convert("RGB") for query in queries]
    embedder = load_embedder(f"local-dir:{models_dir() / 'clip'}")
    scorer = load_scorer(str(models_dir() / "mllm"))
    similarity = embedder.embed_texts([query.query for query in queries]) @ embedder.embed_images(pictures).T
    found: list[DemoQuery] = []
    for right, query in enumerate(queries):
        order = (-similarity[right]).argsort(kind="stable")[:pool].tolist()
        if len(found) == wanted:
            break
        if right not in order[1:]:
            continue
        judged = scorer.score(Content(text=query.query), [Content(image=pictures[item]) for item in order])
        rows = [
            Scored(item, place, score.score, score.entropy)
            for place, (item, score) in enumerate(zip(order, judged, strict=True), start=1)
        ]
        if final_order(rows)[0].key == right:
            found.append(query)
    return found
