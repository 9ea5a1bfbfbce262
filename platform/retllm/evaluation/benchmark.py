"""The common form of a benchmark in memory: queries, candidates, and which candidates are right."""

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

Kind = Literal["ranking", "choice"]
"""``ranking``: the right candidate should come first; ``choice``: of two, the right one should score higher."""


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """A query or a candidate.

    Attributes:
        key: names its content, the same in every run: kept vectors and scores are found by it.
        text: its text, where it has one.
        picture: its picture, where it has one; opened when it is needed, never before.
    """

    key: str
    text: str | None = None
    picture: Picture | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Queries of one kind against one set of candidates.

    Attributes:
        name: ``t2i``, ``i2t``, or the name of a part of the benchmark (``add_obj``, ``ImageNet-1K``).
        kind: how an answer is judged.
        queries: what is looked for.
        candidates: what may be found.
        right: for each query the places in ``candidates`` that are right; one of them first is a right answer.
        among: for each query the places of the only candidates it is asked against; None for all of them.
        group: the group of parts whose average is reported, where there are such groups.
    """

    name: str
    kind: Kind
    queries: Sequence[Item]
    candidates: Sequence[Item]
    right: Sequence[frozenset[int]]
    among: Sequence[Sequence[int]] | None = None
    group: str | None = None

    def limited(self, limit: int | None, seed: int) -> Task:
        """The same task with at most ``limit`` of its queries, drawn from ``seed``; all candidates stay."""
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
    """A benchmark as it was read.

    Attributes:
        name: as on the command line.
        sections: the tasks whose figures are averaged into one, by the name of the section: a direction (``t2i``,
            ``i2t``), ``choice`` for pairs of captions, ``datasets`` for MMEB.
    """

    name: str
    sections: Mapping[str, Sequence[Task]]


def text_item(text: str) -> Item:
    """An item of a text alone; equal texts have equal keys."""
    return Item(text_key(text), text=text)


def text_key(text: str) -> str:
    """A short stable name of a text."""
    return "text:" + hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def picture_item(path: Path, name: str) -> Item:
    """An item of a picture in a file.

    Args:
        path: the file.
        name: what it is called in the benchmark, wherever the benchmark's folder lies.

    The file's size is part of the key, so that a file that was replaced does not keep its old scores.
    """
    picture = file_picture(path, name)
    return Item(picture.key, picture=picture)


def file_picture(path: Path, name: str) -> Picture:
    """A picture in a file, known by its name in the benchmark and its size in bytes."""
    return Picture(lambda: open_picture(path), f"{name}:{path.stat().st_size}")


def open_picture(path: Path) -> Image.Image:
    """Decode a file to RGB.

    Raises:
        BenchmarkUnreadable: it is gone or no picture.
    """
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise BenchmarkUnreadable(
            f"The picture {path} can't be decoded ({error}). Copy it again from the benchmark's source.",
            file=str(path),
        ) from error
