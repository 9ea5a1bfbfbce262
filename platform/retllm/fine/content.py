"""The contents that are compared: a picture, a text, or both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from PIL import Image

from retllm.errors import InvalidInput

Modality = Literal["image", "text", "image+text"]


@dataclass(frozen=True, slots=True, eq=False)
class PreparedPicture:
    """A picture that was prepared before it is asked for.

    Attributes:
        image: as the image processor takes it; None if the processor has run.
        inputs: what the image processor returned for it alone; None if it has not run.
        nbytes: bytes that it holds.
    """

    image: Image.Image | None
    inputs: Any
    nbytes: int


class Picture:
    """A picture identified by its content and opened only when its pixels are needed.

    Model outputs for a picture are cached across calls by :attr:`key`, so a picture seen before is neither opened nor
    prepared again.

    Args:
        source: the picture, or a function that opens it; called each time the pixels are needed.
        key: identifies the content, such as a file's SHA-256; pictures with equal keys must be equal. None: computed
            from the pixels.
        prepared: returns what the scorer has prepared of it ahead, once, waiting if that is in work; None if nothing.
    """

    __slots__ = ("_key", "_source", "prepared")

    def __init__(
        self,
        source: Image.Image | Callable[[], Image.Image],
        key: str | None = None,
        prepared: Callable[[], PreparedPicture | None] = lambda: None,
    ) -> None:
        self._source = source
        self.prepared = prepared
        self._key = None if key is None else f"named:{key}"

    @property
    def key(self) -> str:
        """A unique identifier of the content.

        Raises:
            OSError and whatever else opening the source raises, if the key must be computed from the pixels.
        """
        if self._key is None:
            image = self.rgb()
            digest = hashlib.blake2b(f"{image.size}".encode(), digest_size=20)
            digest.update(image.tobytes())
            self._key = f"pixels:{digest.hexdigest()}"
        return self._key

    def rgb(self) -> Image.Image:
        """Return the picture in RGB, transparent areas on white.

        Raises:
            OSError and whatever else opening the source raises.
        """
        image = self._source if isinstance(self._source, Image.Image) else self._source()
        if image.mode == "RGB":
            return image
        if not image.has_transparency_data:
            return image.convert("RGB")
        layer = image.convert("RGBA")
        flat = Image.new("RGB", image.size, "white")
        flat.paste(layer, mask=layer.getchannel("A"))
        return flat


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """One side of a comparison: a query or a candidate.

    Attributes:
        image: the picture as given.
        text: the text.
        picture: the picture, identified by its content.

    Raises:
        InvalidInput: there is neither a picture nor a text, or the text is blank.
    """

    image: Image.Image | Picture | None = None
    text: str | None = None
    picture: Picture | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.text is not None and not self.text.strip():
            raise InvalidInput("The text is empty.", field="text")
        if self.image is None and self.text is None:
            raise InvalidInput("A query or a candidate needs a picture, a text, or both.", field="content")
        picture = Picture(self.image) if isinstance(self.image, Image.Image) else self.image
        object.__setattr__(self, "picture", picture)

    @property
    def modality(self) -> Modality:
        """This side's modality, which selects one of the nine prompt pairs (method section 3)."""
        if self.image is None:
            return "text"
        return "image" if self.text is None else "image+text"
