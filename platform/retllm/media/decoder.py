"""The program that decodes pictures, in a process of its own under limits; :mod:`retllm.media.sandbox` starts it.

It is run by its path and imports only the standard library, Pillow and NumPy, so that it starts fast and holds nothing
worth stealing. On its standard input, a socket, it takes requests one after the other until the other end closes: a
line of JSON, its length before it, then the bytes of the file. It answers in the same form.
"""

from __future__ import annotations

import io
import json
import resource
import signal
import socket
import struct
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)
from PIL.Image import Resampling, Transpose

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
# loaded before the limits close in; Pillow would look for them at the first picture
_PLUGINS = (
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
HEAD = struct.Struct("!I")
_ORIENTATION = 0x0112
# EXIF 2.32, table 6: how the picture was stored, and what turns it upright
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_LYING = (Transpose.FLIP_LEFT_RIGHT, Transpose.FLIP_TOP_BOTTOM, Transpose.ROTATE_180)
_SIXTEEN_BITS = 65535.0
_FILES = 16  # the socket, and room for what a library opens
_REASON = 120  # characters of a decoder's complaint that are passed on


class Refused(Exception):
    """The picture is not taken; ``why`` is pixels, unknown, damaged or memory."""

    def __init__(self, why: str, **facts: Any) -> None:
        super().__init__(why)
        self.facts = {"refused": why, **facts}


@dataclass(frozen=True, slots=True)
class Small:
    """A picture made small and encoded anew. Format, width and height (pixels) are those of the whole, upright."""

    format: str
    width: int
    height: int
    data: bytes


def make_small(data: bytes, max_pixels: int, side: int, quality: int) -> Small:
    """Decode the picture whole; encode it as WebP, upright and without metadata, its longer side ``side`` at most.

    Raises:
        Refused: it is no picture of a format that is taken, is damaged, or has more than ``max_pixels`` pixels.
    """
    with _opened(data, max_pixels) as picture:
        width, height = picture.size
        if picture.format in ("JPEG", "MPO"):
            # a JPEG decodes to 1/2, 1/4 or 1/8 for much less; every byte of it is still read
            picture.draft(None, (2 * side, 2 * side))
        picture.load()
        turn = _turn(picture)
        small = _to_rgb(picture)
        small.thumbnail((side, side), Resampling.LANCZOS, reducing_gap=2.0)
        if turn is not None:
            small = small.transpose(turn)
            if turn not in _LYING:
                width, height = height, width
        canvas = Image.new("RGB", small.size)
        canvas.paste(small)
        target = io.BytesIO()
        canvas.save(target, "WEBP", quality=quality, method=2)
        return Small(picture.format or "", width, height, target.getvalue())


def load(data: bytes, max_pixels: int, least: int = 0) -> Image.Image:
    """The picture as upright RGB: the first frame or page, alpha over white.

    Args:
        least: a JPEG may be decoded to 1/2, 1/4 or 1/8 of its size, with no side shorter than so many pixels; 0 for
            its full size.

    Raises:
        Refused: as in :func:`make_small`.
    """
    with _opened(data, max_pixels) as picture:
        if least and picture.format in ("JPEG", "MPO"):
            picture.draft(None, (least, least))
        picture.load()
        turn = _turn(picture)
        rgb = _to_rgb(picture)
        rgb = rgb.copy() if rgb is picture else rgb
    rgb.info = {}
    return rgb if turn is None else rgb.transpose(turn)


@contextmanager
def _opened(data: bytes, max_pixels: int) -> Iterator[ImageFile.ImageFile]:
    """The picture with its header read and its size allowed; whatever a decoder raises becomes a refusal."""
    # Pillow's own guard refuses from twice this number on: the setting decides instead
    Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height > max_pixels:
                raise Refused("pixels", width=picture.width, height=picture.height)
            yield picture
    except Refused:
        raise
    except MemoryError as error:
        raise Refused("memory") from error
    except Image.DecompressionBombError as error:
        raise Refused("pixels") from error
    except UnidentifiedImageError as error:
        raise Refused("unknown") from error
    except Exception as error:  # decoders raise anything (struct.error, SyntaxError, KeyError) on hostile bytes
        reason = " ".join(str(error).split())[:_REASON] or type(error).__name__
        raise Refused("damaged", reason=reason) from error


def _turn(picture: Image.Image) -> Transpose | None:
    """What turns the decoded picture upright. Pillow turns a TIFF itself while it decodes and forgets the tag."""
    try:
        return _UPRIGHT.get(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block does not make a broken picture
        return None


def _to_rgb(picture: Image.Image) -> Image.Image:
    """The decoded picture as 8-bit RGB; ``picture`` itself if it is that already."""
    if picture.mode == "RGB" and not picture.has_transparency_data:
        return picture
    if picture.mode.startswith("I;16"):
        return _gray(np.asarray(picture, dtype=np.float32) * (255 / _SIXTEEN_BITS))
    if picture.mode in ("I", "F"):
        return _gray(_stretched(np.asarray(picture, dtype=np.float32)))
    if picture.mode == "CMYK":
        return _from_cmyk(picture)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")


def _gray(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")


def _stretched(
    values: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Measured values (32-bit integers or floats have no agreed white) from their least to their greatest."""
    finite = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(finite.min()), float(finite.max())
    if low >= 0 and high <= 1:
        return finite * np.float32(255)
    if low >= 0 and high <= 255:  # eight bits in a wider type
        return finite
    return (finite - np.float32(low)) * np.float32(255 / (high - low) if high > low else 0)


def _from_cmyk(picture: Image.Image) -> Image.Image:
    """Printing inks through the profile of the picture, where it has a usable one."""
    profile = picture.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            turned = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            return picture.convert("RGB")
        if turned is not None:
            return turned
    return picture.convert("RGB")


def close_in(memory: int) -> None:
    """Take from this process what decoding does not need: memory (bytes), files, writing, further processes."""
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: _FILES,
        resource.RLIMIT_NPROC: 0,
    }
    for which, limit in limits.items():
        _, hard = resource.getrlimit(which)
        most = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(which, (most, most))
    # the terminal's Ctrl-C is for whoever uses this process; it ends when they close the socket
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    warnings.simplefilter("ignore")


def serve(channel: socket.socket) -> None:
    """Answer requests until the other end closes."""
    while (size := _received(channel, HEAD.size, may_end=True)) is not None:
        asked = json.loads(_received(channel, HEAD.unpack(size)[0]) or b"")
        data = _received(channel, asked["length"]) or b""
        _more_time(asked["seconds"])
        try:
            facts, payload = _done(asked, data)
        except Refused as error:
            facts, payload = error.facts, b""
        except MemoryError:
            facts, payload = {"refused": "memory"}, b""
        line = json.dumps(facts | {"length": len(payload)}).encode()
        channel.sendall(HEAD.pack(len(line)) + line)
        channel.sendall(payload)


def _done(asked: Mapping[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    if asked["side"]:
        small = make_small(data, asked["max_pixels"], asked["side"], asked["quality"])
        return {"format": small.format, "width": small.width, "height": small.height}, small.data
    picture = load(data, asked["max_pixels"], asked["least"])
    return {"width": picture.width, "height": picture.height}, picture.tobytes()


def _more_time(seconds: float) -> None:
    """Let the next picture use so many seconds of the processor; beyond them the kernel ends this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _received(channel: socket.socket, count: int, *, may_end: bool = False) -> bytes | None:
    """So many bytes; None where the other end closed before the first of them and may."""
    data = bytearray(count)
    view, done = memoryview(data), 0
    while done < count:
        got = channel.recv_into(view[done:])
        if not got:
            if may_end and not done:
                return None
            raise EOFError
        done += got
    return bytes(data)


def main() -> NoReturn:
    """Serve on the standard input; the argument is the memory in bytes that this process may have."""
    close_in(int(sys.argv[1]))
    try:
        serve(socket.socket(fileno=0))
    except (EOFError, OSError):
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
