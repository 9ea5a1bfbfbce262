"""Pictures that texts and sidecars may describe, and that are not there: they did not come, or not yet."""

from __future__ import annotations

from collections.abc import Iterable

from retllm.media.sheets import sidecars
from retllm.media.sheets.matching import Located, path_stem
from retllm.media.sheets.references import names_a_picture


class AbsentPictures:
    """The pictures among the files of these names.

    Args:
        in_archives: whether files in archives may describe them too, as unpacked beside the archive.
    """

    def __init__(self, names: Iterable[str], *, in_archives: bool = False) -> None:
        self._names = {path_stem(name).lower(): name for name in names if names_a_picture(name)}
        self._in_archives = in_archives

    def beside(self, located: Located) -> str | None:
        """Return the one that a text or sidecar here would describe."""
        if not self._names or (located.archive is not None and not self._in_archives):
            return None
        for name in {located.name: None, located.unpacked_name: None}:
            for place in sidecars.places(name):
                picture = self._names.get(place.path.lower())
                if picture is not None and place.fits(picture):
                    return picture
        return None
