"""A stand-in for the reader of text, which tells pictures by their colour and size."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image

from retllm.ocr.reader import PictureText


@dataclass
class ColourReader:
    """Reads the colour of a picture's first pixel as its text; white has none."""

    sizes: list[tuple[int, int]] = field(default_factory=list)

    def read(self, picture: Image.Image, max_chars: int) -> PictureText:
        self.sizes.append(picture.size)
        colour = picture.getpixel((0, 0))
        if colour == (255, 255, 255):
            return PictureText("", None)
        return PictureText(f"colour {colour[0]} of a harbour"[:max_chars], 0.75)  # type: ignore[index]
