"""Why something that is done to many items is not done to one of them."""

from __future__ import annotations

from enum import StrEnum


class Skipped(StrEnum):
    """A reason; each is about one item, and the others do not depend on it."""

    NOT_FOUND = "not_found"  # the collection, or its trash, does not have it
    UNCHANGED = "unchanged"  # it is as it would become
    TOO_MANY_TAGS = "too_many_tags"  # it would have more than an item can have
    TEXT_NEEDED = "text_needed"  # it is a text, which can't be empty
    TEXT_TOO_LONG = "text_too_long"  # its text or caption would be longer than allowed
    DUPLICATE = "duplicate"  # the collection that it is moved, copied or restored to has its content; or its own has it
    IN_USE = "in_use"  # another request changed it at the same moment
    NOT_TRIED = "not_tried"  # an error ended the request before
