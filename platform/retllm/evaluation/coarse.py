"""The coarse stage in memory: vectors stored in the run's folder, and the best candidates of every query."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast
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
"""Called with the number of items completed since the last call."""

_CHUNK = 512
_BATCH = 64
#: maximum number of cells of the similarity matrix in memory
_CELLS = 2**25


@dataclass(frozen=True, slots=True, eq=False)
class CoarseRanking:
    """The best candidates of every query of a task.

    Attributes:
        order: (queries, depth) indices of the task's candidates by decreasing similarity; -1 for missing candidates.
        similarity: (queries, depth) cosine similarities in that order; nan for missing candidates.
        seconds: time for embedding and ranking; for stored vectors, the time that their computation took.
    """

    order: NDArray[np.int64]
    similarity: NDArray[np.float32]
    seconds: float


class KeptVectors:
    """Embeds items and stores the vectors in a folder, so that later runs reuse them.

    The file name of a chunk is a hash of the embedder, the items' keys, the picture's weight in items that also have a
    text, and whether they are queries, if the embedder has another vector for a query.
    """

    def __init__(self, folder: Path, embedder: Embedder) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._embedder = embedder

    def of(
        self, items: Sequence[Item], image_weight: float, advance: Advance, *, query: bool = False
    ) -> tuple[Vectors, float]:
        """Return the vectors (n, d), float32 of length 1, and the seconds that their computation took.

        Raises:
            BenchmarkUnreadable: a picture can't be decoded.
        """
        chunks = [items[at : at + _CHUNK] for at in range(0, len(items), _CHUNK)]
        vectors: list[Vectors] = []
        spent = 0.0
        for chunk in chunks:
            made, seconds = self._chunk(chunk, image_weight, query)
            vectors.append(made)
            spent += seconds
            advance(len(chunk))
        return np.concatenate(vectors), spent

    def _chunk(self, items: Sequence[Item], image_weight: float, query: bool) -> tuple[Vectors, float]:
        path = self._folder / f"{self._name(items, image_weight, query)}.npz"
        try:
            with np.load(path) as kept:
                return kept["vectors"], float(kept["seconds"])
        except FileNotFoundError:
            pass
        except (EOFError, OSError, ValueError, KeyError, BadZipFile):
            path.unlink()  # damaged by a crash of the machine: compute it again
        started = time.perf_counter()
        vectors = embedded(self._embedder, items, image_weight, query=query)
        seconds = time.perf_counter() - started
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.savez(file, vectors=vectors, seconds=np.array(seconds))
        temporary.replace(path)
        return vectors, seconds

    def _name(self, items: Sequence[Item], image_weight: float, query: bool) -> str:
        info = self._embedder.info
        # the weight affects only items with both picture and text
        weighted = any(item.picture is not None and item.text is not None for item in items)
        weight = str(image_weight) if weighted else ""
        role = ["query"] if query and info.asymmetric else []
        parts = [info.revision, info.preprocessing_hash, weight, *role, *(item.key for item in items)]
        return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


def embedded(embedder: Embedder, items: Sequence[Item], image_weight: float, *, query: bool = False) -> Vectors:
    """Embed items that have a picture, a text, or both.

    Raises:
        InvalidInput: the embedder takes no pictures, or no texts, and an item has nothing else.
    """
    info = embedder.info
    for item in items:
        refusal = info.refusal("item", picture=item.picture is not None, text=item.text is not None)
        if refusal is not None:
            raise refusal
    vectors = np.zeros((len(items), info.dimension), dtype=np.float32)
    with_picture = [place for place, item in enumerate(items) if item.picture is not None and info.pictures]
    with_text = [place for place, item in enumerate(items) if item.text is not None and info.texts]
    images = _pictures(embedder, [cast(Picture, items[place].picture) for place in with_picture], query)
    texts = embedder.embed_texts([items[place].text or "" for place in with_text], query=query)
    vectors[with_picture] = images
    vectors[with_text] = texts
    at_image = {place: row for row, place in enumerate(with_picture)}
    at_text = {place: row for row, place in enumerate(with_text)}
    both = sorted(at_image.keys() & at_text.keys())
    if both:
        vectors[both] = fuse(images[[at_image[p] for p in both]], texts[[at_text[p] for p in both]], image_weight)
    return vectors


def _pictures(embedder: Embedder, pictures: Sequence[Picture], query: bool) -> Vectors:
    """Embed pictures; only one batch of decoded pictures is in memory at a time."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as threads:
        batches = [
            embedder.embed_images(list(threads.map(Picture.rgb, pictures[at : at + _BATCH])), query=query)
            for at in range(0, len(pictures), _BATCH)
        ]
    return np.concatenate(batches) if batches else embedder.embed_images([])


def rank(task: Task, kept: KeptVectors, depth: int, advance: Advance) -> CoarseRanking:
    """Find the best ``depth`` candidates of every query; ties keep the order of the candidates."""
    queries, query_seconds = kept.of(task.queries, QUERY_IMAGE_WEIGHT, advance, query=True)
    candidates, candidate_seconds = kept.of(task.candidates, ITEM_IMAGE_WEIGHT, advance)
    started = time.perf_counter()
    order, similarity = nearest(queries, candidates, task.among, depth)
    return CoarseRanking(order, similarity, query_seconds + candidate_seconds + time.perf_counter() - started)


def nearest(
    queries: Vectors, candidates: Vectors, among: Sequence[Sequence[int]] | None, depth: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return order and similarities as in :class:`CoarseRanking`, by exact search."""
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
