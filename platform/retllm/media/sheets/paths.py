"""Compare the folders of rows with those of pictures."""

from __future__ import annotations

from collections.abc import Sequence

from retllm.media.names import MAX_FOLDERS, joined_folders


def resolved(folder: tuple[str, ...], path: tuple[str, ...]) -> tuple[str, ...]:
    """Follow ``path`` from ``folder``; a ``..`` at the root stays there."""
    parts = list(folder)
    for part in path:
        if part != "..":
            parts.append(part)
        elif parts:
            parts.pop()
    return tuple(parts)


def same_folders(folders: tuple[str, ...], of_picture: tuple[str, ...]) -> bool:
    """Return whether folders are those of a picture."""
    if folders == of_picture:
        return True
    # long ones are stored without their end
    stored = "/".join(of_picture)
    return len(stored) == MAX_FOLDERS and joined_folders(folders) == stored


def common(first: Sequence[str], second: Sequence[str]) -> int:
    """Return how many parts are the same from the end, in any case."""
    pairs = zip(reversed(first), reversed(second), strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a.lower() != b.lower()), min(len(first), len(second)))


def agrees(first: Sequence[str], second: Sequence[str]) -> bool:
    """Return whether two paths are the same from the end, as far as both go."""
    return common(first, second) == min(len(first), len(second))
