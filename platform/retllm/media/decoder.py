"""The program that decodes pictures in a separate, limited process; :mod:`retllm.media.sandbox` starts it.

It is run by path and imports only the standard library, Pillow, NumPy and :mod:`retllm.media.decoding`, so that it
starts fast and holds no secrets. It reads requests from a socket, its standard input, one at a time until the other end
closes: the length of a JSON object, the object, then the bytes of the file. Responses have the same format.
"""

from __future__ import annotations

import io
import json
import socket
import struct
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from PIL import Image
from PIL.Image import Resampling, Transpose

from retllm.media.decoding.colour import to_rgb
from retllm.media.decoding.confinement import confine, extend_cpu_limit
from retllm.media.decoding.facts import Blemish, Refused
from retllm.media.decoding.opening import opened, prepare
from retllm.media.decoding.parts import split

HEAD = struct.Struct("!I")
_ORIENTATION = 0x0112
# EXIF 2.32, table 6: EXIF orientation -> transposition that makes the picture upright
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_KEEPS_SIZE = (Transpose.FLIP_LEFT_RIGHT, Transpose.FLIP_TOP_BOTTOM, Transpose.ROTATE_180)


@dataclass(frozen=True, slots=True)
class Small:
    """A picture, scaled down and re-encoded. Format, width and height (pixels) are those of the upright original."""

    format: str
    width: int
    height: int
    data: bytes
    blemishes: frozenset[Blemish] = frozenset()
    pages: int = 1


def make_small(data: bytes, max_pixels: int, side: int, quality: int) -> Small:
    """Decode the whole picture; encode it as upright WebP without metadata, at most ``side`` pixels on the longer side.

    Raises:
        Refused: the format is not accepted, the picture is damaged, or it has more than ``max_pixels`` pixels.
    """
    with opened(data, max_pixels) as source:
        picture = source.picture
        width, height = picture.size
        if picture.format in ("JPEG", "MPO"):
            # decoding a JPEG to 1/2, 1/4 or 1/8 is much faster and still reads every byte
            picture.draft(None, (2 * side, 2 * side))
        picture.load()
        transposition = _transposition(picture)
        small = to_rgb(source)
        small.thumbnail((side, side), Resampling.LANCZOS, reducing_gap=2.0)
        if transposition is not None:
            small = small.transpose(transposition)
            if transposition not in _KEEPS_SIZE:
                width, height = height, width
        canvas = Image.new("RGB", small.size)
        canvas.paste(small)
        target = io.BytesIO()
        canvas.save(target, "WEBP", quality=quality, method=2)
        return Small(source.format, width, height, target.getvalue(), frozenset(source.blemishes), source.pages)


def load(data: bytes, max_pixels: int, min_side: int = 0) -> Image.Image:
    """Decode the picture to upright RGB: the first frame or page, transparency over white.

    Args:
        min_side: a JPEG may be decoded to 1/2, 1/4 or 1/8 of its size, with both sides at least so many pixels; 0
            means full size.

    Raises:
        Refused: as in :func:`make_small`.
    """
    with opened(data, max_pixels) as source:
        picture = source.picture
        if min_side and picture.format in ("JPEG", "MPO"):
            picture.draft(None, (min_side, min_side))
        picture.load()
        transposition = _transposition(picture)
        rgb = to_rgb(source)
        rgb = rgb.copy() if rgb is picture else rgb
    rgb.info = {}
    return rgb if transposition is None else rgb.transpose(transposition)


def _transposition(picture: Image.Image) -> Transpose | None:
    """Return what makes the decoded picture upright. Pillow itself transposes a TIFF on decoding and drops the tag."""
    try:
        return _UPRIGHT.get(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # a picture with a broken EXIF block can still be used
        return None


def restrict_process(memory: int) -> None:
    """Prepare this process for hostile pictures; see :func:`confine`."""
    prepare()
    confine(memory)
    warnings.simplefilter("ignore")


def serve(channel: socket.socket) -> None:
    """Handle requests until the other end closes."""
    while (size := _receive(channel, HEAD.size, may_end=True)) is not None:
        request = json.loads(_receive(channel, HEAD.unpack(size)[0]) or b"")
        data = _receive(channel, request["length"]) or b""
        extend_cpu_limit(request["seconds"])
        for facts, payload in _responses(request, data):
            line = json.dumps(facts | {"length": len(payload)}).encode()
            channel.sendall(HEAD.pack(len(line)) + line)
            channel.sendall(payload)
            extend_cpu_limit(request["seconds"])


def _responses(request: Mapping[str, Any], data: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield the response to the request; of a file that is split, one for each part, then one without a part."""
    try:
        if "kind" in request:
            yield from split(request, data)
            yield {"end": True}, b""
        else:
            yield _handle(request, data)
    except Refused as error:
        yield error.facts, b""
    except MemoryError:
        yield {"refused": "memory"}, b""


def _handle(request: Mapping[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    if request["side"]:
        small = make_small(data, request["max_pixels"], request["side"], request["quality"])
        facts = {"format": small.format, "width": small.width, "height": small.height}
        return facts | {"blemishes": sorted(small.blemishes), "pages": small.pages}, small.data
    picture = load(data, request["max_pixels"], request["min_side"])
    return {"width": picture.width, "height": picture.height}, picture.tobytes()


def _receive(channel: socket.socket, count: int, *, may_end: bool = False) -> bytes | None:
    """Receive ``count`` bytes; with ``may_end``, return None if the other end closed before the first one."""
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
    """Serve requests on the standard input; the argument is the memory limit in bytes."""
    restrict_process(int(sys.argv[1]))
    try:
        serve(socket.socket(fileno=0))
    except (EOFError, OSError):
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
