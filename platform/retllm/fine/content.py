"""What is compared: a picture, a text, or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PIL.Image import Image

from retllm.errors import InvalidInput

Modality = Literal["image", "text", "image+text"]


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """One side of a comparison: a query or a candidate.

    Two contents are the same only when they are the same object, so that a picture is known again by identity
    and never by comparing pixels.

    Raises:
        InvalidInput: neither a picture nor a text that holds more than blanks.
    """

    image: Image | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        if self.text is not None and not self.text.strip():
            raise InvalidInput("The text is empty.", field="text")
        if self.image is None and self.text is None:
            raise InvalidInput("A query or a candidate needs a picture, a text, or both.", field="content")

    @property
    def modality(self) -> Modality:
        """Which of the nine prompt pairs this side asks for (method section 3)."""
        if self.image is None:
            return "text"
        return "image" if self.text is None else "image+text"
