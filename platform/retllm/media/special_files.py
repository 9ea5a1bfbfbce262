"""Links, devices and the like: what becomes of them, in folders and in archives alike."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from retllm.errors import MediaRejected

LINK_TO_NOTHING = "The link points to nothing: remove it, or add what it points to."
LINK_ROUND = "The link leads back to itself: remove it."
LINK_ABOVE = "A link to a folder that contains this one is not followed."
LINK_TAKEN = "A link to a folder that is uploaded already is not followed."
NO_FILE = "It is no file but a device, a pipe or the like: leave it out."
# as many as Linux follows
_MAX_LINKS = 40
# of a path in which folders may be links; systems have no longer ones
_MAX_PATH, _MAX_DEPTH = 4096, 64


class Links:
    """The links of an archive; one leads to a file of the same archive, or nowhere.

    Args:
        names: the whole name of each file and link, as the archive has it.
        targets: by the number of a link, the path of what it points to from the root of the archive; None for one that
            leads out of it.
    """

    def __init__(self, names: Sequence[str], targets: Mapping[int, str | None]) -> None:
        self._targets = targets
        # of two files with one name the last one counts, as for programs that unpack
        self._numbers = {resolved((), name): number for number, name in enumerate(names)} if targets else {}
        self._paths = sorted(path for path in self._numbers if path is not None)

    def follow(self, number: int) -> int | str:
        """Return the number of the file that a file or link leads to, or a remark why the link is not followed.

        Raises:
            MediaRejected: it leads nowhere, or back to itself.
        """
        at = number
        for _ in range(_MAX_LINKS):
            if at not in self._targets:
                return at
            path = self._through_folders(self._targets[at])
            found = self._numbers.get(path) if path else None
            if found is not None:
                at = found
            elif path is not None and self._is_folder(path):
                return LINK_TAKEN
            else:
                raise MediaRejected(LINK_TO_NOTHING)
        raise MediaRejected(LINK_ROUND)

    def _through_folders(self, path: str | None) -> str | None:
        """Return a path without folders that are links; None if it leads out of the archive."""
        for _ in range(_MAX_LINKS):
            if path is None or len(path) > _MAX_PATH:
                break
            parts = path.split("/")
            for depth in range(1, min(len(parts), _MAX_DEPTH)):
                link = self._numbers.get("/".join(parts[:depth]), -1)
                if link in self._targets:
                    target = self._targets[link]
                    path = None if target is None else resolved(target.split("/"), "/".join(parts[depth:]))
                    break
            else:
                break
        return path

    def _is_folder(self, path: str) -> bool:
        inside = bisect_left(self._paths, f"{path}/")
        return not path or (inside < len(self._paths) and self._paths[inside].startswith(f"{path}/"))


def resolved(folder: Sequence[str], path: str) -> str | None:
    """Return a path from the root of an archive, followed from ``folder``; None if it leads out of the archive."""
    parts = list(folder)
    for part in path.replace("\\", "/").split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def pointed(link: str, target: str) -> str | None:
    """Return what a symbolic link points to as a path from the root of its archive; None if it leads out of it."""
    own = resolved((), link)
    return None if target.startswith("/") or own is None else resolved(own.split("/")[:-1], target)
