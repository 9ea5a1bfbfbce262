"""MMEB: 36 data sets in four groups, each query with its own candidates (VLM2Vec, arXiv 2410.05160).

Loads the published files (huggingface.co/datasets/TIGER-Lab/MMEB-eval): a folder for each data set with
``test-*.parquet``, and the pictures of images.zip. JSON lines with the same fields are supported too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from retllm.errors import BenchmarkUnreadable
from retllm.evaluation.benchmark import Benchmark, Item, Task, file_picture, text_key
from retllm.evaluation.benchmarks import files

GROUPS: Mapping[str, Sequence[str]] = {
    "classification": (
        "ImageNet-1K", "N24News", "HatefulMemes", "VOC2007", "SUN397", "Place365", "ImageNet-A", "ImageNet-R",
        "ObjectNet", "Country211",
    ),
    "vqa": (
        "OK-VQA", "A-OKVQA", "DocVQA", "InfographicsVQA", "ChartQA", "Visual7W", "ScienceQA", "VizWiz", "GQA",
        "TextVQA",
    ),
    "retrieval": (
        "VisDial", "CIRR", "VisualNews_t2i", "VisualNews_i2t", "MSCOCO_t2i", "MSCOCO_i2t", "NIGHTS", "WebQA",
        "FashionIQ", "Wiki-SS-NQ", "OVEN", "EDIS",
    ),
    "grounding": ("MSCOCO", "RefCOCO", "RefCOCO-Matching", "Visual7W-Pointing"),
}  # fmt: skip
"""The data sets of each group."""

_SET = "The data sets are published at https://huggingface.co/datasets/TIGER-Lab/MMEB-eval."
_PICTURES = "Unpack images.zip of https://huggingface.co/datasets/TIGER-Lab/MMEB-eval into the folder images."
_FIELDS = ["qry_text", "qry_img_path", "tgt_text", "tgt_img_path"]
#: the place of a picture in a text; removed, since our prompts place the picture
_PLACEHOLDER = "<|image_1|>"


def load_mmeb(data: Path) -> Benchmark:
    """Load all data sets in ``data``, each as a task; the first target of a row is the right one.

    Args:
        data: the folder with a folder (``ImageNet-1K/test-00000-of-00001.parquet``) or a file (``ImageNet-1K.jsonl``)
            for each data set, and ``images``.

    Raises:
        BenchmarkUnreadable: a file is missing or differs from the published one; there are no data sets; or a data
            set is Parquet and pyarrow is not installed.
    """
    if not data.is_dir():
        raise BenchmarkUnreadable(f"The folder {data} does not exist. {_SET}", file=str(data))
    images = next((data / name for name in ("images", "eval_images", "MMEB") if (data / name).is_dir()), data)
    tasks = [
        _task(name, group, found, images)
        for group, names in GROUPS.items()
        for name in names
        if (found := _files(data, name))
    ]
    if not tasks:
        expected = data / "ImageNet-1K" / "test-00000-of-00001.parquet"
        raise BenchmarkUnreadable(f"{data} has no data sets of MMEB, such as {expected}. {_SET}", file=str(expected))
    return Benchmark("mmeb", {"datasets": tasks})


def _files(data: Path, name: str) -> list[Path]:
    found = sorted((data / name).glob("test-*.parquet"))
    return found or [path for path in (data / name / "test.jsonl", data / f"{name}.jsonl") if path.is_file()][:1]


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield each row, with its name for error messages."""
    if path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    yield f"line {number}", json.loads(line)
                except ValueError as error:
                    raise BenchmarkUnreadable(
                        f"{path}: line {number} is not valid JSON ({error}).", file=str(path)
                    ) from error
        return
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise BenchmarkUnreadable(
            f"Reading {path} needs pyarrow: pip install 'retllm-platform[mmeb]', or convert it to {path.parent}.jsonl.",
            file=str(path),
        ) from error
    try:
        with parquet.ParquetFile(path) as table:
            rows = (row for batch in table.iter_batches() for row in batch.to_pylist())
            yield from ((f"row {number}", row) for number, row in enumerate(rows))
    except (ArrowException, OSError) as error:
        raise BenchmarkUnreadable(f"{path} is not valid Parquet ({error}). {_SET}", file=str(path)) from error


class _Side:
    """The distinct queries or candidates of one data set."""

    def __init__(self, images: Path) -> None:
        self._images = images
        self._places: dict[tuple[str, str], int] = {}
        self.items: list[Item] = []

    def place(self, text: str, picture: str) -> int:
        """Return the index of the item with this text and picture; add it if it is new."""
        found = self._places.get((text, picture))
        if found is None:
            found = self._places[text, picture] = len(self.items)
            self.items.append(self._item(text, picture))
        return found

    def _item(self, text: str, picture: str) -> Item:
        words = " ".join(text.replace(_PLACEHOLDER, " ").split())
        if not picture:
            if not words:
                raise BenchmarkUnreadable("it has neither a text nor a picture")
            return Item(text_key(words), text=words)
        path = self._images / picture
        if not path.is_file():
            raise BenchmarkUnreadable(f"the picture {path} is missing. {_PICTURES}", file=str(path))
        shown = file_picture(path, picture)
        return Item(f"{shown.key}+{text_key(words)}" if words else shown.key, words or None, shown)


def _task(name: str, group: str, paths: Sequence[Path], images: Path) -> Task:
    queries, candidates = _Side(images), _Side(images)
    asked: list[Item] = []  # one for each row, with repetitions
    right: list[frozenset[int]] = []
    among: list[list[int]] = []
    for path in paths:
        for where, row in _rows(path):
            text, picture, target_texts, target_pictures = files.fields(row, _FIELDS, where, path)
            try:
                asked.append(queries.items[queries.place(text or "", picture or "")])
                targets = [candidates.place(*target) for target in _targets(target_texts, target_pictures)]
            except BenchmarkUnreadable as error:
                raise BenchmarkUnreadable(f"{path}: {where}: {error.message}", **error.detail) from error
            right.append(frozenset(targets[:1]))
            among.append(sorted(set(targets), key=lambda place: _shuffled(candidates.items[place])))
    return Task(name, "ranking", asked, candidates.items, right, among, group)


def _shuffled(item: Item) -> bytes:
    """Return a sort key that depends only on the content; the right target is first in its row and would win ties."""
    return hashlib.blake2b(item.key.encode()).digest()


def _targets(texts: Any, pictures: Any) -> list[tuple[str, str]]:
    """Return the candidates of a row; without texts or without pictures, that field may be an empty string."""
    if not isinstance(texts, list) and not isinstance(pictures, list):
        raise BenchmarkUnreadable("neither tgt_text nor tgt_img_path is a list")
    count = len(texts) if isinstance(texts, list) else len(pictures)
    sides = [side if isinstance(side, list) else [side or ""] * count for side in (texts, pictures)]
    if not count or len(sides[0]) != len(sides[1]):
        raise BenchmarkUnreadable(f"it has {len(sides[0])} target texts and {len(sides[1])} target pictures")
    return [(text or "", picture or "") for text, picture in zip(*sides, strict=True)]
