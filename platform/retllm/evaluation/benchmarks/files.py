"""Finding and reading a benchmark's files, with errors that say which file, where it was expected, and what to do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from retllm.errors import BenchmarkUnreadable

_BLOCK = 2**20


def find_file(data: Path, names: Sequence[str], advice: str) -> Path:
    """The first of ``names`` (paths relative to ``data``) that is a file.

    Args:
        data: the folder that the user gave.
        names: where the file may lie, the usual place first.
        advice: where to get it, one sentence.

    Raises:
        BenchmarkUnreadable: none of them exists.
    """
    for name in names:
        if (data / name).is_file():
            return data / name
    raise _missing("file", data, names, advice)


def find_folder(data: Path, names: Sequence[str], advice: str, *, holding: str | None = None) -> Path:
    """The first of ``names`` that is a folder, and that holds ``holding`` where that is given.

    Raises:
        BenchmarkUnreadable: none of them exists.
    """
    for name in names:
        folder = data / name
        if folder.is_dir() and (holding is None or (folder / holding).is_file()):
            return folder
    if holding is None:
        raise _missing("folder", data, names, advice)
    places = ", ".join(str(data / name / holding) for name in names)
    raise BenchmarkUnreadable(f"The picture {holding} is not there: looked for {places}. {advice}", file=holding)


def _missing(kind: str, data: Path, names: Sequence[str], advice: str) -> BenchmarkUnreadable:
    wanted = Path(names[0])
    if not data.is_dir():
        return BenchmarkUnreadable(
            f"The folder {data} does not exist; --data should be the folder that holds {wanted}. {advice}",
            file=str(data),
        )
    others = f" (also looked for {', '.join(str(data / name) for name in names[1:])})" if len(names) > 1 else ""
    return BenchmarkUnreadable(
        f"The {kind} {wanted.name} is not there: it was expected at {data / wanted}{others}. {advice}",
        file=str(data / wanted),
    )


def check_pictures(paths: Iterable[Path], advice: str) -> None:
    """Make sure that every picture is there before hours are spent on the others.

    Raises:
        BenchmarkUnreadable: some are missing; the first is named, all are counted.
    """
    absent = [path for path in paths if not path.is_file()]
    if absent:
        raise BenchmarkUnreadable(
            f"{len(absent)} of the benchmark's pictures are missing, the first was expected at {absent[0]}. {advice}",
            file=str(absent[0]),
        )


def read_json(path: Path) -> Any:
    """The contents of a JSON file.

    Raises:
        BenchmarkUnreadable: it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchmarkUnreadable(f"{path} is no readable JSON ({error}). Fetch it again.", file=str(path)) from error


def first_entries(path: Path, count: int) -> Iterator[Any]:
    """The first ``count`` elements of a JSON array in a file, without reading the rest of it.

    Raises:
        BenchmarkUnreadable: it does not begin as a JSON array, or breaks off.
    """
    with path.open(encoding="utf-8") as file:
        try:
            yield from islice(_elements(file), count)
        except ValueError as error:
            raise BenchmarkUnreadable(
                f"{path} is not a whole JSON array: {error}. Fetch it again.", file=str(path)
            ) from error


def _elements(file: TextIO) -> Iterator[Any]:
    """The elements of a JSON array, one after another, from a file of any size."""
    decoder, text = json.JSONDecoder(), ""
    opened = False
    while True:
        block = file.read(_BLOCK)
        text = (text + block).lstrip()
        while text:
            if not opened:
                if text[0] != "[":
                    raise ValueError("it does not begin with a bracket")
                opened, text = True, text[1:].lstrip()
                continue
            if text[0] == "]":
                return
            try:
                element, end = decoder.raw_decode(text)
            except ValueError:
                break
            rest = text[end:].lstrip()
            if not rest:
                break  # a number could go on in the next block
            yield element
            text = rest[1:].lstrip() if rest[0] == "," else rest
        if not block:
            raise ValueError("it breaks off")


def fields(entry: Any, names: Sequence[str], where: str, path: Path) -> list[Any]:
    """The values of these fields of a JSON object.

    Raises:
        BenchmarkUnreadable: it is no object, or lacks one of them; ``where`` says which entry.
    """
    if not isinstance(entry, dict):
        raise BenchmarkUnreadable(f"{path}: {where} is not a JSON object.", file=str(path))
    for name in names:
        if name not in entry:
            raise BenchmarkUnreadable(
                f"{path}: {where} has no field {name!r}; this is not the file as its authors publish it.",
                file=str(path),
            )
    return [entry[name] for name in names]
