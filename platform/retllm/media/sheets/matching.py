"""Find the picture that a row of a sheet means, by the folders of both."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from retllm.media.file_table import FileRole, role_of
from retllm.media.names import base_name
from retllm.media.sheets.folder_names import (
    DESCRIBING,
    OF_PICTURES,
    are_apart,
    describes,
    short_name,
    splits,
    telling,
)
from retllm.media.sheets.located import Located, Picture, told_apart
from retllm.media.sheets.paths import agrees, common, resolved, same_folders
from retllm.media.sheets.references import Reference, format_of, is_number_of, stem

_NO_SUFFIX = re.compile(r"\d+\.\d+|.*\s")
# parts of names that are shorter are the same by chance
_TELLING = 3

LONG_NAME = 45
"""Names of pictures of at least so many characters are also found by their beginning: Google Takeout cuts them."""


@dataclass(frozen=True, slots=True)
class Found:
    """The pictures that a row may mean, all equally well: none, one, or several.

    Attributes:
        place: where its folder is: at the path from the sheet, at the path from the root, or only at the end of these.
        exact: whether the row gave the name of the picture as it is.
        changed: whether the picture has a suffix of another format than the row says.
        elsewhere: pictures with a fitting last part in folders that the row contradicts.
        guessed: whether the row has a folder above the picture's that is not its archive.
        others: some other pictures of the same full name, if nothing but their archives tells them apart.
        very: whether the row has the very name of the picture, and that looks like other names.
    """

    pictures: tuple[Picture, ...] = ()
    place: int = 0
    exact: bool = False
    changed: bool = False
    elsewhere: tuple[Picture, ...] = ()
    guessed: bool = False
    others: tuple[Picture, ...] = ()
    very: bool = False

    @property
    def is_certain(self) -> bool:
        """Whether there are pictures, and no better ones can be expected elsewhere."""
        return bool(self.pictures) and not (self.changed or self.guessed)

    @property
    def whole(self) -> bool:
        """Whether the row gave the whole path of the picture."""
        return self.place < _BY_END

    def goes_before(self, other: Found) -> bool:
        """Return whether this is the picture with the code, at no worse a place than others that look like it."""
        is_coded = self.very and not any(picture.located.coded for picture in self.pictures)
        return is_coded and not other.very and not self.changed and self.place <= other.place


def find(reference: Reference, sheet: Located, candidates: Iterable[Picture]) -> Found:
    """Return the pictures among ``candidates`` that ``reference`` means in ``sheet``.

    A picture of the very name is better than one that differs in case or suffix; then a picture than a file of several
    ones; then one whose path or archive has all folders of the row; then one from the sheet's archive, if that is in
    one; then one at the path that begins in the sheet's folder, or at the root, as if all archives were unpacked; then
    the one whose path is the same for the most parts from the end; then one in a folder or archive that is named like
    the sheet or its archive; and of those whose names look the same the one of the very name. A picture in a folder
    that contradicts those of the row or of the sheet is none of them.
    """
    fitting: list[tuple[tuple[int, ...], Picture]] = []
    elsewhere: list[Picture] = []
    for picture in candidates:
        forms = _forms(reference, picture)
        if not forms:
            continue
        form, is_other = min(forms)
        above = _above(reference, picture.located)
        rank = _rank(reference, sheet, picture)
        if rank is None or any(role_of(folder) is FileRole.ARCHIVE for folder in above):
            elsewhere.append(picture)
            continue
        is_beyond = int(bool(above) and not _is_in_archive_of(sheet, picture))
        # how an exact name is written, with percent signs or without, says less than the folders
        fitting.append(((max(form, _EXACT), int(bool(picture.parts)), is_beyond, *rank, form, is_other), picture))
    if not fitting:
        return Found(elsewhere=tuple(elsewhere))
    best = min(fit for fit, _ in fitting)
    found = [picture for fit, picture in fitting if fit == best]
    is_unpacked = bool(found[0].located.outer) and not sheet.archive
    others = [
        picture
        for fit, picture in fitting
        # unless the sheet is named like the best alone
        if fit[:3] == best[:3] and best < fit and fit[-3] <= best[-3]
        if picture.located.name == found[0].located.name or (is_unpacked and not picture.located.outer)
    ]
    is_guessed = bool(best[2]) and any(picture.located.outer for picture in found)
    if is_guessed:
        # nothing tells one of them
        found, others = found + others, []
    elif _is_told(reference, sheet, found[0], best):
        others = []
    return Found(
        tuple(found),
        best[4],
        best[0] == _EXACT,
        best[0] == _CHANGED,
        guessed=is_guessed,
        others=tuple(others),
        very=not best[-1],
    )


def _forms(reference: Reference, picture: Picture) -> list[tuple[int, bool]]:
    """Return how well the last part of a reference fits a picture, each with whether it is not the very name."""
    located = picture.located
    names = (located.name, *located.coded)
    found = [(_form(one, name), False) for one in reference.very for name in names]
    found.append((_form(reference, located.name), True))
    if not picture.parts and reference.paged == base_name(located.name):
        found.append((_ONLY_PAGE, True))
    # of a file that did not come, or was rejected, the parts are not known
    if picture.item_id is None and not picture.rejection and (whole := reference.whole) is not None:
        found += _forms(whole, picture)
    return [(form, is_other) for form, is_other in found if form is not None]


def _above(reference: Reference, located: Located) -> tuple[str, ...]:
    """Return the folders of a row above all that a picture's path has, if they do not begin with its archive."""
    paths = [resolved((), path)[:-1] for path in (reference.parts, reference.decoded) if path]
    return min((_above_all(folders, located) for folders in paths), key=len)


def _above_all(folders: tuple[str, ...], located: Located) -> tuple[str, ...]:
    if same_folders(folders, located.folder) or any(agrees(folders, named) for named in located.named):
        return ()
    beside = located.unpacked[0]
    if len(folders) <= len(beside) and agrees(folders, beside):
        return ()
    return folders[: max(0, len(folders) - len(located.folder))]


def _is_in_archive_of(sheet: Located, picture: Picture) -> bool:
    return bool(sheet.outer and picture.located.outer) and picture.is_near(sheet)


def _is_told(reference: Reference, sheet: Located, picture: Picture, fit: tuple[int, ...]) -> bool:
    """Return whether the row or its sheet's place tells a picture from those in other archives."""
    folders = resolved((), reference.parts)[:-1]
    is_named = any(len(folders) >= len(named) and agrees(folders, named) for named in picture.located.named)
    is_beside = bool(sheet.folder) and fit[4] == _IN_FOLDER
    return is_named or is_beside or _is_in_archive_of(sheet, picture)


def _form(reference: Reference, name: str) -> int | None:
    """Return how well the last part of a reference fits the name of a picture, 0 is best; None if it does not."""
    base = base_name(name)
    bare = stem(base)
    wanted = reference.bases
    lower = [each.lower() for each in wanted]
    alike = [each for each in wanted if stem(each).lower() == bare.lower() and format_of(each)]
    fits = (
        base == wanted[0],
        base in wanted,
        base.lower() in lower and bare in map(stem, wanted),
        base.lower() in lower,
        bare in wanted,
        bare.lower() in lower,
        any(is_number_of(each, base) for each in wanted),
        any(format_of(each) == format_of(base) for each in alike),
        bool(alike),
    )
    return fits.index(True) if True in fits else None


# the last one of the forms above: pictures are often converted after their sheet was written
_CHANGED = 8
# the forms of a name without a difference, read in one way or the other
_EXACT = 1
# the page that a row names has the name of its file; like that of the decoded name
_ONLY_PAGE = 1
_IN_FOLDER, _AT_ROOT, _BY_END = range(3)
# how far folders of a sheet and of a picture are from each other, see `_places`
_DISTANCES = 3


def _rank(reference: Reference, sheet: Located, picture: Picture) -> tuple[int, ...] | None:
    """Return how well the folders fit, the smallest is best; None if they contradict each other."""
    named = splits(reference.parts[:-1])
    if sheet.contradicts(picture.located) and named.isdisjoint(splits([short_name(picture.located.outer)])):
        return None
    if _is_of_another_part(sheet, picture, named):
        return None
    places = _places(sheet, picture)
    paths = [path for path in (reference.parts, reference.decoded) if path]
    ranks = [
        # outside of archives a place counts as much as if all of them were unpacked
        (distance if sheet.archive else _DISTANCES * rank[0] + distance, *rank)
        for distance, of_sheet, of_picture in places
        for path in paths
        if (rank := _rank_of(path, reference.absolute, of_sheet, of_picture)) is not None
    ]
    if not ranks:
        return None
    alike = any(_is_named_alike(sheet, of_picture) for _, _, of_picture in places)
    return (*min(ranks), int(not alike))


def _is_of_another_part(sheet: Located, picture: Picture, named: set[str]) -> bool:
    """Return whether a sheet is named after another part of a data set than a picture's folder: val.csv and train.

    Args:
        named: the parts that the row itself names.
    """
    located, own = picture.located, sheet.folder
    folders = located.folder if picture.is_near(sheet) or not located.outer else located.unpacked[-1]
    below = folders[len(own) :] if folders[: len(own)] == own else folders
    folder = next((each for each in reversed(below) if splits([each])), "")
    return are_apart(short_name(sheet.name), folder) and named.isdisjoint(splits([folder]))


def _places(sheet: Located, picture: Picture) -> list[tuple[int, tuple[str, ...], tuple[str, ...]]]:
    """Return folders of a sheet and of a picture that can be compared, after how far these are from each other."""
    located = picture.located
    if picture.is_near(sheet):
        return [(0, sheet.folder, located.folder)]
    # the folders inside of archives come last, since nothing says how these belong together
    beside = tuple(located.outer.split("/")[:-1])
    of_pictures = dict.fromkeys((*located.unpacked, *located.named, *((*beside, *named) for named in located.named)))
    pairs = [(1, of_sheet, of_picture) for of_sheet in sheet.unpacked for of_picture in of_pictures]
    return [*pairs, (2, sheet.folder, located.folder)]


def _is_named_alike(sheet: Located, folders: tuple[str, ...]) -> bool:
    """Return whether a sheet, or its archive, is named like one of these folders: captions_train.csv like train."""
    names = {
        telling(short_name(sheet.name)),
        telling(short_name(sheet.outer)),
    } - {""}
    return not names.isdisjoint(map(telling, folders))


def _rank_of(
    path: tuple[str, ...], absolute: bool, of_sheet: tuple[str, ...], folders: tuple[str, ...]
) -> tuple[int, int, int] | None:
    from_sheet = resolved(() if absolute else of_sheet, path)
    own = resolved((), path)
    # the last part is compared by its form
    if same_folders(from_sheet[:-1], folders) and not absolute:
        return _IN_FOLDER, 0, 0
    if same_folders(own[:-1], folders):
        return _AT_ROOT, 0, 0
    if not agrees(own[:-1], folders) or not _beside(of_sheet, own[:-1], folders, absolute):
        return None
    outside = int(not absolute and folders[: len(of_sheet)] != of_sheet)
    return _BY_END, outside, -common(from_sheet[:-1], folders)


def may_be_one(first: Reference, second: Reference) -> bool:
    """Return whether two references may mean one picture of which neither gives the whole path.

    Neither their folders nor their formats differ.
    """
    formats = {format_of(first.parts[-1]), format_of(second.parts[-1])} - {""}
    return len(formats) < 2 and same_folders(resolved((), first.parts)[:-1], resolved((), second.parts)[:-1])


def _beside(sheet: tuple[str, ...], named: tuple[str, ...], of_picture: tuple[str, ...], absolute: bool) -> bool:
    """Return whether the sheet's folder allows a picture there: below it, above it, or at the end of the same path."""
    rest = of_picture[: max(0, len(of_picture) - len(named))]
    if absolute or not rest:
        return True
    shorter = min(len(sheet), len(rest))
    if rest[:shorter] == sheet[:shorter] or agrees(sheet, rest):
        return True
    without, pictures = (
        told_apart(sheet, DESCRIBING | OF_PICTURES),
        told_apart(rest, OF_PICTURES),
    )
    return describes(sheet) and (_alike(reversed(without), reversed(pictures)) or _alike(without, pictures))


def _alike(sheet: Iterable[tuple[str, bool]], pictures: Iterable[tuple[str, bool]]) -> bool:
    """Return whether folders agree as far as both go; captions_trainval2017 is also for images of val2017."""
    return all(
        a == b or (shortened and min(len(a), len(b)) >= _TELLING and (a in b or b in a))
        for (a, shortened), (b, _) in zip(sheet, pictures, strict=False)
    )


def path_stem(name: str) -> str:
    """Return the path of a picture without its suffix."""
    return name.removesuffix(base_name(name)) + stem(name)


def further_key(name: str) -> str | None:
    """Return what the files of one sample have in common in WebDataset: the path up to the first dot in its end.

    Returns None if that is the whole path of the picture without its suffix, or if what follows is no suffix but words
    or a date.
    """
    base = base_name(name)
    first, _, rest = base[1:].partition(".")
    if _NO_SUFFIX.match(rest):
        return None
    key = name.removesuffix(base) + base[:1] + first
    return key if key != path_stem(name) else None
