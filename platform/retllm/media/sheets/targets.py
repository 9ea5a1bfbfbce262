"""Which of the pictures that were found a row means, or why none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from retllm.media.names import base_name, one_line, quoted
from retllm.media.sheets import refused_files
from retllm.media.sheets.located import Located, Picture
from retllm.media.sheets.matching import Found, path_stem
from retllm.media.sheets.rows import Problem, Reason, not_sent, problem

AGAIN = "was not sent with this upload: send the same files again, and the row counts."
"""What is said of a file whose rows can't count yet."""
CAME = "was not sent with this upload, but came with a later one: retry this upload, and the row counts."
"""What is said of it then."""
_SHOWN = 3
_SHOWN_CHARS = 300


@dataclass(frozen=True, slots=True)
class Target:
    """The items that a row means.

    Attributes:
        items: that of a picture, or those of all parts of a file of several pictures.
        picture: the picture, or this file.
        near: whether the picture is in the sheet's archive, or was not in an archive like the sheet.
        whole: whether the row gave the whole path of the picture.
        exact: whether it gave that with the name of the picture as it is.
        changed: whether the picture has a suffix of another format than the row says.
    """

    items: tuple[UUID, ...]
    picture: Picture
    near: bool
    whole: bool
    exact: bool
    changed: bool = False
    remark: str | None = None

    @property
    def fit(self) -> tuple[bool, bool]:
        """How well the row names the picture, the smallest is best."""
        return self.changed, not self.exact


def target(name: str, found: Found, sheet: Located) -> Target | Problem:
    """Return the picture among those found, or why there is not just one."""
    shown = shown_name(name)
    if any(picture.unsent for picture in found.pictures):
        return not_sent(f"names the picture {quoted(shown)}, which {AGAIN}")
    by_id = {picture.item_id: picture for picture in _accepted(found.pictures)}
    near = any(picture.is_near(sheet) for picture in by_id.values())
    if (refused := by_id.get(None)) is not None:
        step = refused_files.next_step(refused, "upload it again")
        earlier = f" in another upload: {refused.rejection} {refused_files.sentence(step)}"
        why = earlier if refused.rejection else f": {step}"
        return problem(Reason.REFUSED_PICTURE, f"names the picture {quoted(shown)}, which was rejected{why}.")
    ids = [item_id for item_id in by_id if item_id is not None]
    newest = by_id[max(ids)]
    exact = found.exact and found.whole
    names = sorted({picture.located.name for picture in by_id.values()})
    if len(ids) == 1:
        return Target(newest.items, newest, near, found.whole, exact, found.changed, _remark(shown, found, newest))
    if len(names) > 1:
        more = ", ..." if len(names) > _SHOWN else ""
        several = f"{len(ids)} pictures ({', '.join(map(quoted, names[:_SHOWN]))}{more})"
        message = f"names the picture {quoted(shown)}, which matches {several}: give its full name with folders."
        return problem(Reason.AMBIGUOUS, message)
    if found.guessed or len({picture.located.outer for picture in by_id.values()}) > 1:
        return _in_archives(shown, list(by_id.values()))
    if all(picture.earlier for picture in by_id.values()):
        # no name tells them apart; the keys of items grow with time
        remark = f"{len(ids)} pictures are named {quoted(names[0])}; the newest has this caption."
        return Target(newest.items, newest, near, found.whole, exact, found.changed, remark)
    message = (
        f"names the picture {quoted(shown)}, but {len(ids)} pictures of this upload have that name: put the sheet into "
        "the folder or archive of its pictures."
    )
    return problem(Reason.AMBIGUOUS, message)


def _remark(shown: str, found: Found, picture: Picture) -> str | None:
    told = [f"Its sheet names it {quoted(shown)}."] if found.changed else []
    where = f"{quoted(one_line(picture.located.name))} {_place(picture)}"
    if found.guessed:
        told.append(f"Its sheet names it {quoted(shown)}, and {where} is the only such picture.")
    elif others := {each.item_id for each in found.others} - {picture.item_id, None}:
        told.append(f"{len(others) + 1} or more pictures have that name; {where} has this caption.")
    return " ".join(told) or None


def _place(picture: Picture) -> str:
    return f"in {quoted(one_line(picture.located.outer))}" if picture.located.outer else "outside of archives"


def _in_archives(shown: str, pictures: Sequence[Picture]) -> Problem:
    """Return why a row means none of several pictures of one name in archives, and how to write it."""
    places = sorted({_place(picture) for picture in pictures})
    some = ", ".join(places[:_SHOWN]) + (", ..." if len(places) > _SHOWN else "")
    first = min(picture.located.outer for picture in pictures if picture.located.outer)
    example = one_line(f"{first}/{pictures[0].located.name}")
    message = (
        f"names the picture {quoted(shown)}, which {len(pictures)} pictures may be ({some}): put the archive before "
        f"the name, as in {quoted(example)}, or the sheet into the archive."
    )
    return problem(Reason.AMBIGUOUS, message)


def shown_name(name: str) -> str:
    """Return a name of a picture as the row has it, safe to show."""
    return one_line(name[:_SHOWN_CHARS])


def in_unsent_archive(name: str, archive: str) -> Problem:
    """Return why a row with this name, safe to show, waits for an archive that did not come with its upload."""
    return not_sent(f"names the picture {quoted(name)}, which did not come, and {quoted(base_name(archive))} {AGAIN}")


def awaited(name: str) -> Problem:
    """Return why a row with this name waits for a picture that another upload is still bringing."""
    return problem(Reason.AWAITED, f"names the picture {quoted(name)}, which {refused_files.STILL_COMES}.")


def in_awaited_archive(name: str, archive: str) -> Problem:
    """Return why a row with this name waits for an archive that another upload is still bringing."""
    may_come = f"it may be in {quoted(base_name(archive))}, which {refused_files.STILL_COMES}"
    return problem(Reason.AWAITED, f"names the picture {quoted(name)}, which is not in this collection; {may_come}.")


def _accepted(pictures: Sequence[Picture]) -> list[Picture]:
    """Return pictures without rejected ones beside which another has the name but for the suffix."""
    accepted = {(each.located.archive, path_stem(each.located.name)) for each in pictures if each.item_id is not None}
    return [
        picture
        for picture in pictures
        if picture.item_id is not None or (picture.located.archive, path_stem(picture.located.name)) not in accepted
    ]


def nothing(name: str, sheet: Located, elsewhere: Sequence[Picture]) -> Problem:
    """Return why a row with this name, safe to show, means none of the pictures ``elsewhere``."""
    if not elsewhere:
        message = f"names the picture {quoted(name)}, which is not in this collection: upload it or correct the name."
        return problem(Reason.NOT_FOUND, message)
    # the names with which a row means them
    others = dict.fromkeys(p.located.name if p.is_near(sheet) else p.located.unpacked_name for p in elsewhere)
    shown = " and ".join(quoted(one_line(other)) for other in list(others)[:2])
    which = f"the only one of that name is {shown}" if len(others) == 1 else f"others of that name are {shown}"
    folders = "another folder or archive" if len(others) == 1 else "other folders or archives"
    message = (
        f"names the picture {quoted(name)}; {which}, in {folders} than the row and its sheet: give its full name with "
        "folders if it is meant."
    )
    return problem(Reason.OTHER_FOLDER, message)
