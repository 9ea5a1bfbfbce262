"""The demo collection: held-out scenes as PNG files with captions, and queries that demonstrate the fine stage."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from retllm.demo.claims import caption
from retllm.demo.scenes import render
from retllm.demo.variants import gallery

#: edge of the demo's pictures in pixels
DEMO_EDGE = 256


@dataclass(frozen=True)
class DemoQuery:
    """A query text and the name of the only file in the collection that it is true of."""

    query: str
    file: str


def write_collection(folder: Path, families: int, seed: int) -> list[DemoQuery]:
    """Write ``families`` families of eight held-out scenes to ``folder``: PNG files and ``captions.jsonl``.

    Each line of ``captions.jsonl`` is ``{"file": "scene-0001.png", "caption": "..."}``. Return a query for every
    picture: its caption, which is true of no other picture in the collection.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scenes = [scene for members in gallery(families, seed) for scene in members]
    queries = [DemoQuery(caption(scene), f"scene-{number:04d}.png") for number, scene in enumerate(scenes, start=1)]
    for scene, query in zip(scenes, queries, strict=True):
        render(scene, DEMO_EDGE).save(folder / query.file)
    lines = [json.dumps({"file": query.file, "caption": query.query}) for query in queries]
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return queries
