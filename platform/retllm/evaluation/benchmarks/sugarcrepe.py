"""SugarCrepe: choose the true one of two captions of a picture that differ in one detail (arXiv 2306.14610)."""

from __future__ import annotations

from pathlib import Path

from retllm.errors import BenchmarkUnreadable
from retllm.evaluation.benchmark import Benchmark, Item, Task, picture_item, text_item
from retllm.evaluation.benchmarks import files

PARTS = {
    "replace_obj": "replace",
    "replace_att": "replace",
    "replace_rel": "replace",
    "swap_obj": "swap",
    "swap_att": "swap",
    "add_obj": "add",
    "add_att": "add",
}
"""The group of each part; a group's figure is the mean of its parts' figures."""

_JSON = "The seven JSON files are in the folder data of https://github.com/RAIVNLab/sugar-crepe."
_PICTURES = "The pictures are COCO's val2017.zip (http://images.cocodataset.org/zips/val2017.zip)."


def load_sugarcrepe(data: Path) -> Benchmark:
    """Load the seven parts, each a list of choices between two captions.

    Args:
        data: the folder with the JSON files, directly or in ``data``, and the folder ``val2017``.

    Raises:
        BenchmarkUnreadable: a file is missing or differs from the published one.
    """
    paths = {part: files.find_file(data, [f"{part}.json", f"data/{part}.json"], _JSON) for part in PARTS}
    entries = {part: _entries(path) for part, path in paths.items()}
    first = entries["replace_obj"][0][0]
    folders = ["val2017", "images/val2017", "coco/images/val2017", "data/coco/images/val2017", "."]
    folder = files.find_folder(data, folders, _PICTURES, holding=first)
    names = sorted({name for rows in entries.values() for name, _, _ in rows})
    files.check_pictures((folder / name for name in names), _PICTURES)
    pictures = {name: picture_item(folder / name, name) for name in names}
    tasks = [
        choices(part, [(pictures[name], true, false) for name, true, false in rows], group=PARTS[part])
        for part, rows in entries.items()
    ]
    return Benchmark("sugarcrepe", {"choice": tasks})


def _entries(path: Path) -> list[tuple[str, str, str]]:
    """Return file name, true caption and false caption of every entry."""
    content = files.read_json(path)
    if not isinstance(content, dict) or not content:
        raise BenchmarkUnreadable(f"{path} is not an object of numbered entries. {_JSON}", file=str(path))
    rows = []
    for number, entry in content.items():
        name, true, false = files.fields(entry, ["filename", "caption", "negative_caption"], f"entry {number!r}", path)
        rows.append((str(name), str(true), str(false)))
    return rows


def choices(name: str, rows: list[tuple[Item, str, str]], group: str | None = None) -> Task:
    """Make a task of choices between two captions of a picture.

    The true caption is first for every other picture and second for the others, so that a preference for one position
    has no effect.

    Args:
        name: of the part.
        rows: picture, true caption, false caption.
        group: the group of parts whose mean is reported.
    """
    candidates: list[Item] = []
    right: list[frozenset[int]] = []
    among: list[tuple[int, int]] = []
    for number, (_, true, false) in enumerate(rows):
        at = len(candidates)
        pair = (true, false) if number % 2 == 0 else (false, true)
        candidates += [text_item(text) for text in pair]
        right.append(frozenset({at + number % 2}))
        among.append((at, at + 1))
    return Task(name, "choice", [picture for picture, _, _ in rows], candidates, right, among, group)
