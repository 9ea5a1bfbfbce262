"""Find and read a benchmark's files, with errors that name the file and its expected path, and say what to do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from retllm.errors import BenchmarkUnreadable

_BLOCK = 2**20


def find_file(data: Path, names: Sequence[str], advice: str) -> Path:
    """Return the first of ``names`` (paths relative to ``data``) that is a file.

    Args:
        data: the folder that the user gave.
        names: possible paths of the file, the usual one first.
        advice: where to get it, one sentence.

    Raises:
        BenchmarkUnreadable: none of them exists.
    """
    for name in names:
        if (data / name).is_file():
            return data / name
    raise _missing("file", data, names, advice)


def find_folder(data: Path, names: Sequence[str], advice: str, *, holding: str | None = None) -> Path:
    """Return the first of ``names`` that is a folder and, if ``holding`` is given, contains that file.

    Raises:
        BenchmarkUnreadable: none of them exists.
    """
    for name in names:
        folder = data / name
        if folder.is_dir() and (holding is None or (folder / holding).is_file()):
            return folder
    if holding is None:
        raise _missing("folder", data, names, advice)
    paths = ", ".join(str(data / name / holding) for name in names)
    raise BenchmarkUnreadable(f"The picture {holding} does not exist; tried {paths}. {advice}", file=holding)


def _missing(kind: str, data: Path, names: Sequence[str], advice: str) -> BenchmarkUnreadable:
    expected = Path(names[0])
    if not data.is_dir():
        return BenchmarkUnreadable(
            f"The folder {data} does not exist; --data must be the folder that contains {expected}. {advice}",
            file=str(data),
        )
    others = f" (also tried {', '.join(str(data / name) for name in names[1:])})" if len(names) > 1 else ""
    return BenchmarkUnreadable(
        f"The {kind} {expected.name} does not exist: it was expected at {data / expected}{others}. {advice}",
        file=str(data / expected),
    )


def check_pictures(paths: Iterable[Path], advice: str) -> None:
    """Check that all pictures exist before a run that takes hours.

    Raises:
        BenchmarkUnreadable: some are missing; the message has their number and the first path.
    """
    absent = [path for path in paths if not path.is_file()]
    if absent:
        raise BenchmarkUnreadable(
            f"Pictures of the benchmark are missing: {len(absent)}, the first at {absent[0]}. {advice}",
            file=str(absent[0]),
        )


def read_json(path: Path) -> Any:
    """Return the contents of a JSON file.

    Raises:
        BenchmarkUnreadable: it can't be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchmarkUnreadable(f"{path} is not valid JSON ({error}). Download it again.", file=str(path)) from error


def first_entries(path: Path, count: int) -> Iterator[Any]:
    """Yield the first ``count`` elements of a JSON array in a file, without reading the rest.

    Raises:
        BenchmarkUnreadable: the file does not begin with a JSON array, or is truncated.
    """
    with path.open(encoding="utf-8") as file:
        try:
            yield from islice(_elements(file), count)
        except ValueError as error:
            raise BenchmarkUnreadable(
                f"{path} is not a complete JSON array: {error}. Download it again.", file=str(path)
            ) from error


def _elements(file: TextIO) -> Iterator[Any]:
    """Yield the elements of a JSON array from a file of any size."""
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
                break  # a number could continue in the next block
            yield element
            text = rest[1:].lstrip() if rest[0] == "," else rest
        if not block:
            raise ValueError("it is truncated")


def fields(entry: Any, names: Sequence[str], where: str, path: Path) -> list[Any]:
    """Return the values of these fields of a JSON object.

    Raises:
        BenchmarkUnreadable: it is not an object, or lacks a field; ``where`` names the entry.
    """
    if not isinstance(entry, dict):
        raise BenchmarkUnreadable(f"{path}: {where} is not a JSON object.", file=str(path))
    for name in names:
        if name not in entry:
            raise BenchmarkUnreadable(
                f"{path}: {where} has no field {name!r}; this is not the published file.",
                file=str(path),
            )
    return [entry[name] for name in names]
