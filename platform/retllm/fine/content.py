"""What is compared: a picture, a text, or both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

from retllm.errors import InvalidInput

Modality = Literal["image", "text", "image+text"]


class Picture:
    """A picture that is known by its content, and opened when its pixels are wanted and no earlier.

    What a model made of a picture is kept from call to call by :attr:`key`, so a picture that comes again is neither
    opened nor prepared again.

    Args:
        source: the picture, or what opens it; called each time that the pixels are wanted.
        key: a name of the content, such as a file's SHA-256; two pictures of one key must be the same. None: made from
            the pixels.
    """

    __slots__ = ("_key", "_source")

    def __init__(self, source: Image.Image | Callable[[], Image.Image], key: str | None = None) -> None:
        self._source = source
        self._key = None if key is None else f"named:{key}"

    @property
    def key(self) -> str:
        """What tells this content from every other.

        Raises:
            OSError and what else opening the source raises, where the key must be made from the pixels.
        """
        if self._key is None:
            image = self.rgb()
            digest = hashlib.blake2b(f"{image.size}".encode(), digest_size=20)
            digest.update(image.tobytes())
            self._key = f"pixels:{digest.hexdigest()}"
        return self._key

    def rgb(self) -> Image.Image:
        """The picture in red, green and blue; where it is transparent, white shows through.

        Raises:
            OSError and what else opening the source raises.
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
        picture: the picture, known by its content.

    Raises:
        InvalidInput: neither a picture nor a text that holds more than blanks.
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
        """Which of the nine prompt pairs this side asks for (method section 3)."""
        if self.image is None:
            return "text"
        return "image" if self.text is None else "image+text"
