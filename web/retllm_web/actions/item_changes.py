"""The model of a change of an item, in the API and the pages."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from retllm.media.editing import MAX_COLUMNS
from retllm.media.facts import MAX_RATING, MAX_TAGS
from retllm_web.actions.item_views import PositionView

MAX_FOUND = 1_000
"""Characters of what is found and replaced in texts."""


class ItemChange(BaseModel):
    """What to change of an item; null, or what is empty, removes a value."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, StringConstraints(min_length=1, max_length=1_000)] = Field(default="")
    text: str | None = Field(default=None, description="the caption of a picture, or the text itself; embedded again")
    title: str | None = None
    tags: list[str] = Field(default=[], max_length=MAX_TAGS)
    rating: int | None = Field(default=None, ge=1, le=MAX_RATING)
    taken: str | None = Field(
        default=None, description="a year, month, day or time, such as `1923-05` or `2003-07-02T14:30:05+02:00`"
    )
    camera: str | None = None
    lens: str | None = None
    position: PositionView | None = None
    columns: dict[str, str] = Field(default={}, description="all further columns", max_length=MAX_COLUMNS)

    def given(self) -> dict[str, Any]:
        """Return what the request has."""
        return given(self)


class TextReplacement(BaseModel):
    """What to find in texts and captions, and what to put in its place."""

    model_config = ConfigDict(extra="forbid")

    find: Annotated[str, StringConstraints(min_length=1, max_length=MAX_FOUND)] = Field(
        description="found wherever it is, also within words; upper and lower case differ"
    )
    replacement: Annotated[str, StringConstraints(max_length=MAX_FOUND)] = ""


class ItemsChange(BaseModel):
    """What to change of many items; null removes a value."""

    model_config = ConfigDict(extra="forbid")

    text: str | None = Field(
        default=None, description="the caption of pictures, or the text itself, in place of what it was; embedded again"
    )
    replace_text: TextReplacement | None = Field(default=None, description="in texts and captions; after `text`")
    add_text: str | None = Field(
        default=None, description="added at the end of texts and captions, after a space; after `replace_text`"
    )
    add_tags: list[str] = Field(default=[], max_length=MAX_TAGS, description="added after those that an item has")
    remove_tags: list[str] = Field(default=[], max_length=MAX_TAGS)
    title: str | None = None
    rating: int | None = Field(default=None, ge=1, le=MAX_RATING)
    taken: str | None = Field(default=None, description="as for one item")
    camera: str | None = None
    lens: str | None = None
    position: PositionView | None = None

    def given(self) -> dict[str, Any]:
        """Return what the request has."""
        return given(self)


def given(change: BaseModel) -> dict[str, Any]:
    """Return the values that a change was made with, a position and a replacement as pairs."""
    found = {name: value for name, value in change if name in change.model_fields_set}
    if isinstance(place := found.get("position"), PositionView):
        found["position"] = (place.latitude, place.longitude)
    if isinstance(text := found.get("replace_text"), TextReplacement):
        found["replace_text"] = (text.find, text.replacement)
    return found
