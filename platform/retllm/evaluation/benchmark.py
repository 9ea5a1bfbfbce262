"""The common representation of a benchmark: queries, candidates, and which candidates are right."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from retllm.errors import BenchmarkUnreadable
from retllm.fine import Picture
from retllm.media import decoder

Kind = Literal["ranking", "choice"]
"""``ranking``: the right candidate should rank first; ``choice``: the right one of two should score higher."""


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """A query or a candidate.

    Attributes:
        key: identifies its content, the same in every run; stored vectors and scores are looked up by it.
        text: its text, if any.
        picture: its picture, if any; opened only when it is needed.
    """

    key: str
    text: str | None = None
    picture: Picture | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Queries of one kind against one set of candidates.

    Attributes:
        name: ``t2i``, ``i2t``, or the name of a part of the benchmark (``add_obj``, ``ImageNet-1K``).
        kind: how an answer is evaluated.
        queries: the queries.
        candidates: the candidates of all queries.
        right: for each query the indices of its right candidates; an answer is right if one of them ranks first.
        among: for each query the indices of its candidates; None for all candidates.
        group: the group of parts whose mean is reported, if there are groups.
    """

    name: str
    kind: Kind
    queries: Sequence[Item]
    candidates: Sequence[Item]
    right: Sequence[frozenset[int]]
    among: Sequence[Sequence[int]] | None = None
    group: str | None = None

    def limited(self, limit: int | None, seed: int) -> Task:
        """Return the task with at most ``limit`` queries, sampled with ``seed``, and all candidates."""
        if limit is None or limit >= len(self.queries):
            return self
        chosen = sorted(np.random.default_rng(seed).choice(len(self.queries), size=limit, replace=False).tolist())
        return replace(
            self,
            queries=[self.queries[place] for place in chosen],
            right=[self.right[place] for place in chosen],
            among=None if self.among is None else [self.among[place] for place in chosen],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Benchmark:
    """A loaded benchmark.

    Attributes:
        name: as on the command line.
        sections: the tasks whose figures are averaged, by name of the section: a direction (``t2i``, ``i2t``),
            ``choice`` for pairs of captions, ``datasets`` for MMEB.
    """

    name: str
    sections: Mapping[str, Sequence[Task]]


def read_through_copies(task: Task, side: int) -> Task:
    """Return the task with every picture as models read it through a working copy of ``side`` pixels."""
    copies = {id(item): _through_copy(item, side) for item in (*task.queries, *task.candidates)}
    return replace(
        task,
        queries=[copies[id(item)] for item in task.queries],
        candidates=[copies[id(item)] for item in task.candidates],
    )


def _through_copy(item: Item, side: int) -> Item:
    picture = item.picture
    if picture is None:
        return item
    mark = f"copy-{side}"
    copy = Picture(lambda: decoder.copied(picture.rgb(), side), f"{picture.key}-{mark}")
    return replace(item, key=f"{item.key}-{mark}", picture=copy)


def text_item(text: str) -> Item:
    """Create an item with only a text; equal texts have equal keys."""
    return Item(text_key(text), text=text)


def text_key(text: str) -> str:
    """Return a short stable key of a text."""
    return "text:" + hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def picture_item(path: Path, name: str) -> Item:
    """Create an item with the picture of a file.

    The file's size is part of the key, so that a replaced file does not keep its old scores.

    Args:
        path: the file.
        name: its name in the benchmark, independent of the benchmark's folder.
    """
    picture = file_picture(path, name)
    return Item(picture.key, picture=picture)


def file_picture(path: Path, name: str) -> Picture:
    """Return the picture of a file, identified by its name in the benchmark and its size in bytes."""
    return Picture(lambda: open_picture(path), f"{name}:{path.stat().st_size}")


def open_picture(path: Path) -> Image.Image:
    """Decode a file to RGB.

    Raises:
        BenchmarkUnreadable: the file does not exist or is not a picture.
    """
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise BenchmarkUnreadable(
            f"The picture {path} can't be decoded ({error}). Copy it again from the benchmark's source.",
            file=str(path),
        ) from error
