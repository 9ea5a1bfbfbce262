"""The coarse stage in memory: vectors kept in the run's folder, and the best candidates of every query."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from retllm.embedding.fusion import ITEM_IMAGE_WEIGHT, QUERY_IMAGE_WEIGHT, fuse
from retllm.evaluation.benchmark import Item, Task
from retllm.fine import Picture

if TYPE_CHECKING:
    from retllm.embedding import Embedder

Vectors = NDArray[np.float32]
Advance = Callable[[int], None]
"""Told how many more items are done."""

_CHUNK = 512
_BATCH = 64
#: cells of the similarity matrix that are held at a time
_CELLS = 2**25


@dataclass(frozen=True, slots=True, eq=False)
class CoarseRanking:
    """The best candidates of every query of a task.

    Attributes:
        order: (queries, depth) places in the task's candidates by falling similarity; -1 where there are no more.
        similarity: (queries, depth) cosine similarities in that order; nan where there are no more.
        seconds: that embedding and ranking took, also where the vectors were kept from an earlier run.
    """

    order: NDArray[np.int64]
    similarity: NDArray[np.float32]
    seconds: float


class KeptVectors:
    """Embeds items, and keeps the vectors in a folder so that no later run does it again.

    A chunk of vectors is found by what it was made of: the embedder, the items' keys and the weight of a picture
    in an item that also has a text.
    """

    def __init__(self, folder: Path, embedder: Embedder) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._embedder = embedder

    def of(self, items: Sequence[Item], image_weight: float, advance: Advance) -> tuple[Vectors, float]:
        """The vectors (n, d) float32 of length 1, and the seconds that making them took.

        Raises:
            BenchmarkUnreadable: a picture can't be decoded.
        """
        chunks = [items[at : at + _CHUNK] for at in range(0, len(items), _CHUNK)]
        vectors: list[Vectors] = []
        spent = 0.0
        for chunk in chunks:
            made, seconds = self._chunk(chunk, image_weight)
            vectors.append(made)
            spent += seconds
            advance(len(chunk))
        return np.concatenate(vectors), spent

    def _chunk(self, items: Sequence[Item], image_weight: float) -> tuple[Vectors, float]:
        path = self._folder / f"{self._name(items, image_weight)}.npz"
        try:
            with np.load(path) as kept:
                return kept["vectors"], float(kept["seconds"])
        except FileNotFoundError:
            pass
        except (EOFError, OSError, ValueError, KeyError, BadZipFile):
            path.unlink()  # torn by a crash of the machine: made again
        started = time.perf_counter()
        vectors = embedded(self._embedder, items, image_weight)
        seconds = time.perf_counter() - started
        beside = path.with_suffix(f".{os.getpid()}.tmp")
        with beside.open("wb") as file:
            np.savez(file, vectors=vectors, seconds=np.array(seconds))
        beside.replace(path)
        return vectors, seconds

    def _name(self, items: Sequence[Item], image_weight: float) -> str:
        info = self._embedder.info
        # the weight says something of an item of picture and text only
        weighed = any(item.picture is not None and item.text is not None for item in items)
        weight = str(image_weight) if weighed else ""
        parts = [info.revision, info.preprocessing_hash, weight, *(item.key for item in items)]
        return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


def embedded(embedder: Embedder, items: Sequence[Item], image_weight: float) -> Vectors:
    """The vectors of items that have a picture, a text, or both."""
    vectors = np.zeros((len(items), embedder.info.dimension), dtype=np.float32)
    pictured = [place for place, item in enumerate(items) if item.picture is not None]
    worded = [place for place, item in enumerate(items) if item.text is not None]
    images = _pictures(embedder, [picture for item in items if (picture := item.picture) is not None])
    texts = embedder.embed_texts([text for place in worded if (text := items[place].text) is not None])
    vectors[pictured] = images
    vectors[worded] = texts
    at_image = {place: row for row, place in enumerate(pictured)}
    at_text = {place: row for row, place in enumerate(worded)}
    both = sorted(at_image.keys() & at_text.keys())
    if both:
        vectors[both] = fuse(images[[at_image[p] for p in both]], texts[[at_text[p] for p in both]], image_weight)
    return vectors


def _pictures(embedder: Embedder, pictures: Sequence[Picture]) -> Vectors:
    """The vectors of pictures, of which only a batch is held decoded at a time."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as threads:
        batches = [
            embedder.embed_images(list(threads.map(Picture.rgb, pictures[at : at + _BATCH])))
            for at in range(0, len(pictures), _BATCH)
        ]
    return np.concatenate(batches) if batches else embedder.embed_images([])


def rank(task: Task, kept: KeptVectors, depth: int, advance: Advance) -> CoarseRanking:
    """The best ``depth`` candidates of every query; equal similarities keep the order of the candidates."""
    queries, query_seconds = kept.of(task.queries, QUERY_IMAGE_WEIGHT, advance)
    candidates, candidate_seconds = kept.of(task.candidates, ITEM_IMAGE_WEIGHT, advance)
    started = time.perf_counter()
    order, similarity = nearest(queries, candidates, task.among, depth)
    return CoarseRanking(order, similarity, query_seconds + candidate_seconds + time.perf_counter() - started)


def nearest(
    queries: Vectors, candidates: Vectors, among: Sequence[Sequence[int]] | None, depth: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Order and similarities as in :class:`CoarseRanking`, by exact search."""
    widest = len(candidates) if among is None else max(map(len, among), default=0)
    depth = min(depth, widest)
    order = np.full((len(queries), depth), -1, dtype=np.int64)
    similarity = np.full((len(queries), depth), np.nan, dtype=np.float32)
    if among is not None:
        for row, places in enumerate(among):
            allowed = np.asarray(places, dtype=np.int64)
            found = candidates[allowed] @ queries[row]
            best = np.argsort(-found, kind="stable")[:depth]
            order[row, : len(best)] = allowed[best]
            similarity[row, : len(best)] = found[best]
        return order, similarity
    block = max(1, _CELLS // max(1, len(candidates)))
    for at in range(0, len(queries), block):
        found = queries[at : at + block] @ candidates.T
        best = np.argsort(-found, axis=1, kind="stable")[:, :depth]
        order[at : at + block] = best
        similarity[at : at + block] = np.take_along_axis(found, best, axis=1)
    return order, similarity
