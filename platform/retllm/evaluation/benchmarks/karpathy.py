"""Flickr30k and COCO 5k in Karpathy's splits: one picture, five captions (Karpathy and Fei-Fei, arXiv 1412.2306)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retllm.errors import BenchmarkUnreadable
from retllm.evaluation.benchmark import Benchmark, Task, picture_item, text_item
from retllm.evaluation.benchmarks import files

CAPTIONS = 5
"""Captions used per picture; a few pictures of COCO have six or seven, and the usual protocol drops the rest."""

_SPLITS = (
    "Karpathy's splits are published as caption_datasets.zip "
    "(https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip)."
)
_FLICKR = "The pictures are published as flickr30k-images by the University of Illinois, on request."
_COCO = "The pictures are published as val2014.zip (http://images.cocodataset.org/zips/val2014.zip)."


def load_flickr30k(data: Path) -> Benchmark:
    """Load the 1,000 test pictures of Flickr30k with 5,000 captions.

    Args:
        data: the folder with ``dataset_flickr30k.json`` and the folder ``flickr30k-images``.

    Raises:
        BenchmarkUnreadable: a file is missing or differs from the published one.
    """
    splits = _splits(data, "dataset_flickr30k.json")
    entries = _test_entries(splits)
    first = files.fields(entries[0][1], ["filename"], entries[0][0], splits)[0]
    folder = files.find_folder(
        data, ["flickr30k-images", "flickr30k_images", "images", "Images", "."], _FLICKR, holding=first
    )
    return Benchmark("flickr30k", _both_ways(splits, entries, folder, ["filename"], _FLICKR))


def load_coco(data: Path) -> Benchmark:
    """Load the 5,000 test pictures of COCO with 25,000 captions.

    Args:
        data: the folder with ``dataset_coco.json`` and the folder ``val2014``, directly or in ``images``.

    Raises:
        BenchmarkUnreadable: a file is missing or differs from the published one.
    """
    splits = _splits(data, "dataset_coco.json")
    entries = _test_entries(splits)
    parts = files.fields(entries[0][1], ["filepath", "filename"], entries[0][0], splits)
    folder = files.find_folder(data, [".", "images", "coco", "coco/images"], _COCO, holding="/".join(parts))
    return Benchmark("coco", _both_ways(splits, entries, folder, ["filepath", "filename"], _COCO))


def _splits(data: Path, name: str) -> Path:
    return files.find_file(data, [name, *(f"{folder}/{name}" for folder in ("caption_datasets", "karpathy"))], _SPLITS)


def _test_entries(splits: Path) -> list[tuple[str, Any]]:
    (images,) = files.fields(files.read_json(splits), ["images"], "the file", splits)
    named = [(f"entry {place} of images", entry) for place, entry in enumerate(images)]
    entries = [(where, entry) for where, entry in named if files.fields(entry, ["split"], where, splits) == ["test"]]
    if not entries:
        raise BenchmarkUnreadable(f"{splits} has no pictures in the split 'test'. {_SPLITS}", file=str(splits))
    return entries


def _both_ways(
    splits: Path, entries: Sequence[tuple[str, Any]], folder: Path, naming: list[str], advice: str
) -> dict[str, list[Task]]:
    names: list[str] = []
    captions: list[list[str]] = []
    for where, entry in entries:
        *parts, sentences = files.fields(entry, [*naming, "sentences"], where, splits)
        names.append("/".join(parts))
        raw = [files.fields(sentence, ["raw"], f"a sentence of {where}", splits)[0] for sentence in sentences]
        if not raw:
            raise BenchmarkUnreadable(f"{splits}: {where} has no sentences.", file=str(splits))
        captions.append(raw[:CAPTIONS])
    files.check_pictures((folder / name for name in names), advice)
    return both_directions([(folder / name, name) for name in names], captions)


def both_directions(pictures: Sequence[tuple[Path, str]], captions: Sequence[Sequence[str]]) -> dict[str, list[Task]]:
    """Make both tasks, text to image and image to text, from pictures (file, name) and the captions of each."""
    images = [picture_item(path, name) for path, name in pictures]
    texts = [text_item(text) for own in captions for text in own]
    owner = [place for place, own in enumerate(captions) for _ in own]
    of: list[set[int]] = [set() for _ in images]
    for text, picture in enumerate(owner):
        of[picture].add(text)
    return {
        "t2i": [Task("t2i", "ranking", texts, images, [frozenset({picture}) for picture in owner])],
        "i2t": [Task("i2t", "ranking", images, texts, [frozenset(own) for own in of])],
    }
