"""Why files are refused that may have the caption of a picture."""

from __future__ import annotations

from collections.abc import Sequence

from retllm.media.file_table import role_of
from retllm.media.names import base_name, quoted, suffix_of, without_code
from retllm.media.sheets.located import Picture


def no_picture(name: str) -> str:
    """Return why the sidecar of this name is refused: there is no picture for it."""
    named = quoted(base_name(name))
    return f"The file has the caption of a picture, but none with the name of {named} is beside it: add it."


_ALONE = ", or the text alone if it is to be an item"
_AS_TEXT = ", or upload it with --texts (texts=true in the API) if it is no caption"


def not_sent(name: str, picture: str, *, is_text: bool = False) -> str:
    """Return why a file is refused whose picture was announced and did not come."""
    again = f"upload both again{_ALONE if is_text else ''}"
    return f"{quoted(base_name(name))} has the caption of {quoted(base_name(picture))}, which was not sent: {again}."


def in_unsent_archive(name: str, archive: str, *, is_text: bool) -> str:
    """Return why a file is refused whose picture may be in an archive that did not come."""
    alone = _ALONE if is_text else ""
    return f"{_picture_in(name, archive)}, which was not sent: upload both again{alone}."


def in_awaited_archive(name: str, archive: str, *, is_text: bool) -> str:
    """Return why a file is refused whose picture may be in an archive that another upload is still bringing."""
    return f"{_picture_in(name, archive)}, which {STILL_COMES}{_AS_TEXT if is_text else ''}."


def _picture_in(name: str, archive: str) -> str:
    return f"The picture of {quoted(base_name(name))} may be in {quoted(base_name(archive))}"


STILL_COMES = (
    "another upload is still bringing: when that one has ended, or you closed it on its page because it is abandoned, "
    "retry this job"
)
"""What is said of a picture or archive that may come."""


def awaited(name: str, picture: str) -> str:
    """Return why a file is refused whose picture another upload is still bringing."""
    return f"{quoted(base_name(name))} has the caption of {quoted(base_name(picture))}, which {STILL_COMES}."


def in_other_folder(name: str, picture: str) -> str:
    """Return why a text is refused that has the name of a picture elsewhere, or one that looks the same."""
    if without_code(name) != name:
        return (
            f"The text {quoted(base_name(name))} is named like the picture {quoted(picture)}, but the exact names "
            "differ: name it exactly like that, or upload it with --texts (texts=true in the API) if it is no caption."
        )
    return (
        f"The text {quoted(base_name(name))} is named like the picture {quoted(picture)}, which is in another folder "
        "or archive: put it there, or upload it with --texts (texts=true in the API) if it is no caption."
    )


def shared(name: str, pictures: Sequence[Picture]) -> str:
    """Return why a sidecar of several pictures is refused that no name tells apart."""
    first, second = (base_name(picture.located.name) for picture in pictures[:2])
    if len({picture.located.name for picture in pictures}) == 1:
        return (
            f"The caption {quoted(base_name(name))} fits {len(pictures)} pictures that are all named {quoted(first)}: "
            "give them different names, or upload each together with its caption."
        )
    return (
        f"The caption {quoted(base_name(name))} fits {len(pictures)} pictures ({quoted(first)}, {quoted(second)}"
        f"{', ...' if len(pictures) > 2 else ''}): name it like one of them, or write a sheet."
    )


def rejected(name: str, picture: Picture) -> str:
    """Return why the sidecar of a rejected picture is refused."""
    shown = quoted(base_name(picture.located.name))
    step = next_step(picture, "upload both again")
    if not picture.rejection:
        return f"The picture {shown} beside it was rejected: {step}."
    is_text = suffix_of(name) in (".txt", ".text")
    other = ", or this one with --texts (texts=true in the API) if it is no caption" if is_text else ""
    return f"Its picture {shown} was rejected in another upload: {picture.rejection} {sentence(step)}{other}."


def sentence(words: str) -> str:
    """Return words with a capital."""
    return words[:1].upper() + words[1:]


def next_step(picture: Picture, again: str) -> str:
    """Return what to do about a rejected picture: ``again`` if its format may be taken, which another file may have."""
    return again if role_of(picture.located.name) else "convert it to JPEG or PNG and upload that"
