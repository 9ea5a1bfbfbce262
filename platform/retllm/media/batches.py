"""Files in batches that one request or transaction takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def in_batches(files: Iterable[T], size: Callable[[T], int], max_bytes: int, max_files: int) -> Iterator[list[T]]:
    """Yield the files in lists of at most ``max_files``, of at most ``max_bytes`` bytes unless one file is larger."""
    batch: list[T] = []
    total = 0
    for file in files:
        if batch and (len(batch) >= max_files or total + size(file) > max_bytes):
            yield batch
            batch, total = [], 0
        batch.append(file)
        total += size(file)
    if batch:
        yield batch
