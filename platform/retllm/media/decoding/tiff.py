"""The pages of a TIFF."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from PIL import Image, ImagePalette, TiffImagePlugin

from retllm.media.decoding import samples
from retllm.media.decoding.colour import to_rgb
from retllm.media.decoding.facts import Blemish, Part, Refused, Source, Split, damage

_SUBFILE, _OLD_SUBFILE, _WIDTH, _HEIGHT, _ICC_PROFILE = 254, 255, 256, 257, 34675
_BITS_PER_SAMPLE, _COMPRESSION, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 259, 262, 339
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_KINDS = {
    _UNSIGNED: "integers",
    _SIGNED: "signed integers",
    _FLOAT: "floats",
    5: "complex integers",
    6: "complex floats",
}
_ORIENTATION, _COLOUR_MAP = 274, 320
_ON_THE_SIDE = (5, 6, 7, 8)  # orientations that exchange width and height
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_OLD_REDUCED = 2
_MAX_DIRECTORIES = 10_000
# a picture with a smaller share of the largest page's pixels is a thumbnail of it
_THUMBNAIL = 1 / 16


def add_kinds() -> None:
    """Let Pillow read gray of every byte order and polarity, of which it leaves some out; colour.to_rgb reads all."""
    kinds = TiffImagePlugin.OPEN_INFO
    for order, mark in ((b"II", ""), (b"MM", "B")):
        for polarity in (0, 1):
            gray = (
                (_UNSIGNED, 12, "I;16", "I;12"),
                (_UNSIGNED, 16, f"I;16{mark}", f"I;16{mark}"),
                (_UNSIGNED, 32, "I", f"I;32{mark}"),
                (_SIGNED, 8, "L", "L"),
                (_SIGNED, 16, "I", f"I;16{mark}S"),
                (_SIGNED, 32, "I", f"I;32{mark}S"),
                (_FLOAT, 64, "F", f"F;64{mark}F"),
            )
            for format_, bits, mode, raw_mode in gray:
                kinds[(order, polarity, (format_,), 1, (bits,), ())] = (mode, raw_mode)


class Directories(TiffImagePlugin.TiffImageFile):
    """A TIFF whose directories can be read although the picture of one of them, even of the first, can't.

    Pictures of kinds that :mod:`retllm.media.decoding.samples` knows are read by it.
    """

    failure: Exception | None = None
    """Why the picture of the current directory can't be read."""
    _layout: samples.Layout | None = None
    # of a picture that is not loaded yet

    def _setup(self) -> None:
        self.failure = self._layout = None
        try:
            super()._setup()
            if min(self.size) < 1:
                raise ValueError("no pixels")
        except Exception as error:  # tags raise anything
            self.failure, self._mode, self._size, self.tile = error, "L", (1, 1), []
        tags: Any = self.tag_v2
        colours = tags.get(_COLOUR_MAP, ()) if self.mode == "P" else ()
        if any(colours) and max(colours) < 256:  # written with 8 bits instead of 16
            self.palette = ImagePalette.raw("RGB;L", bytes(colours))
        if (found := samples.layout(tags, tags.prefix)) is not None:
            self._take(found)

    def _take(self, found: samples.Layout) -> None:
        self._layout, self.failure, self._mode, self.tile = found, None, found.mode, []
        self._tile_size = (found.width, found.height)
        on_the_side = self.tag_v2.get(_ORIENTATION) in _ON_THE_SIDE
        self._size = (found.height, found.width) if on_the_side else self._tile_size
        if _ICC_PROFILE in self.tag_v2:
            self.info["icc_profile"] = self.tag_v2[_ICC_PROFILE]

    def load(self) -> Any:
        """Decode the current picture, and make it upright."""
        if self._layout is not None:
            found, self._layout = self._layout, None
            self.im = samples.read(cast("BinaryIO", self.fp), cast("Any", self.tag_v2), found).im
            self.load_end()
        return super().load()


@dataclass(frozen=True, slots=True)
class _Directory:
    number: int
    width: int
    height: int
    is_page: bool

    @property
    def pixels(self) -> int:
        return self.width * self.height


def select(picture: Directories, number: int) -> None:
    """Make a directory the current one, ready to be decoded.

    Raises:
        Refused: its picture is of a kind that is not read, or its tags are damaged.
    """
    picture.seek(number)
    if picture.failure is not None:
        raise _refusal(picture) from picture.failure
    if _ICC_PROFILE not in picture.tag_v2:
        picture.info.pop("icc_profile", None)  # that of another page
    # libtiff returns signed and larger samples in the byte order of this machine, which Pillow does not expect
    for place, tile in enumerate(picture.tile):
        if tile.codec_name == "libtiff" and isinstance(tile.args, tuple) and str(tile.args[0]).startswith(("I;", "F;")):
            picture.tile[place] = tile._replace(args=(tile.args[0].replace("B", "N"), *tile.args[1:]))


def page_numbers(picture: TiffImagePlugin.TiffImageFile) -> list[int]:
    """Return which directories are pages: no smaller versions of another, no thumbnails, no masks."""
    directories = [found for found in _directories(picture) if found.is_page]
    if len(directories) < 2:
        return [found.number for found in directories]
    largest = max(directories, key=lambda found: found.pixels)
    return [
        found.number
        for found in directories
        if (found.pixels >= largest.pixels * _THUMBNAIL or not found.pixels) and not _is_level(found, largest)
    ]


def pages(file: BinaryIO, asked: Split) -> Iterator[Part]:
    """Yield the pages of a TIFF.

    Raises:
        Refused: it is no TIFF.
    """
    with Directories(file) as picture:
        numbers = page_numbers(picture)
        given = numbers[: asked.most]
        for place, number in enumerate(given, 1):
            if place <= asked.first:
                continue
            left_out = len(numbers) - len(given) if place == len(given) else 0
            try:
                page, blemishes = _page(picture, number, asked.max_pixels)
                yield Part(page, page=place, pages=len(numbers), blemishes=blemishes, left_out=left_out)
            except Exception as error:  # decoders raise anything on hostile bytes
                yield Part(reason=_reason(error), page=place, pages=len(numbers), left_out=left_out)


def _page(picture: Directories, number: int, max_pixels: int) -> tuple[Image.Image, frozenset[Blemish]]:
    select(picture, number)
    if picture.width * picture.height > max_pixels:
        raise Refused("pixels", width=picture.width, height=picture.height)
    source = Source(picture, "TIFF")
    picture.load()
    rgb = to_rgb(source)
    return (rgb.copy() if rgb is picture else rgb), frozenset(source.blemishes)


def opened(file: BinaryIO, number: int) -> Directories:
    """Open a TIFF at a directory, ready to be decoded.

    Raises:
        Refused: as in :func:`select`.
    """
    file.seek(0)
    picture = Directories(file)
    select(picture, number)
    return picture


def _directories(picture: TiffImagePlugin.TiffImageFile) -> Iterator[_Directory]:
    for number in range(_MAX_DIRECTORIES):
        try:
            picture.seek(number)
        except EOFError:
            return
        except Exception:  # the directory itself is damaged
            return
        tags = picture.tag_v2
        subfile, old = tags.get(_SUBFILE, 0), tags.get(_OLD_SUBFILE, 0)
        flagged = isinstance(subfile, int) and subfile & (_REDUCED | _MASK)
        width, height = tags.get(_WIDTH, 0), tags.get(_HEIGHT, 0)
        if isinstance(width, int) and isinstance(height, int):
            yield _Directory(number, width, height, not flagged and old != _OLD_REDUCED)


def _is_level(smaller: _Directory, largest: _Directory) -> bool:
    """Whether a picture is a level of a pyramid: a half, a quarter and so on of the largest, rounded anyhow."""
    for power in range(1, 16):
        width, height = largest.width / 2**power, largest.height / 2**power
        if abs(smaller.width - width) < 1 and abs(smaller.height - height) < 1:
            return True
    return False


def _refusal(picture: Directories) -> Refused:
    tags = picture.tag_v2
    if not tags.get(_WIDTH) or not tags.get(_HEIGHT):
        return Refused("damaged", reason="the file is cut short")
    bits, kinds = (_numbers(tags.get(tag)) for tag in (_BITS_PER_SAMPLE, _SAMPLE_FORMAT))
    kind = _KINDS.get(kinds[0] if kinds else 1, "values")
    others = f"photometric interpretation {tags.get(_PHOTOMETRIC)}, compression {tags.get(_COMPRESSION, 1)}"
    return Refused("unsupported", reason=f"a TIFF of {len(bits) or 1} × {(*bits, 1)[0]}-bit {kind}, {others}")


def _numbers(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else () if value is None else (value,)


def _reason(error: Exception) -> str:
    if isinstance(error, Refused):
        if "reason" in error.facts:
            is_damaged = error.facts["refused"] != "unsupported"
            return "it is damaged" if is_damaged else f"it is {error.facts['reason']}: export it as PNG"
        return f"it has {error.facts['width']:,} × {error.facts['height']:,} pixels"
    return damage(error)
