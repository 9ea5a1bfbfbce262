"""The program that decodes pictures in a separate, limited process; :mod:`retllm.media.sandbox` starts it.

It is run by path and imports only the standard library, Pillow, NumPy, simplejpeg and :mod:`retllm.media.decoding`, so
that it starts fast and holds no secrets. It reads requests from a socket, its standard input, one at a time until the
other end closes: the length of a JSON object, the object, then the bytes of the file, or its descriptor. Responses have
the same format.
"""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

from PIL import Image
from PIL.Image import Transpose

from retllm.media.decoding.colour import to_rgb
from retllm.media.decoding.confinement import confine, extend_cpu_limit
from retllm.media.decoding.facts import Blemish, Refused, Source
from retllm.media.decoding.opening import JPEGS, count_pages, load_checked, opened, prepare
from retllm.media.decoding.opening import load as load_source
from retllm.media.decoding.parts import split
from retllm.media.decoding.perceptual import NO_HASH, perceptual_hash
from retllm.media.decoding.rendering import FILTER, MAX_COPY_SIDE, copy_size, encoded, encoded_copy, resized
from retllm.media.decoding.texts import NO_TEXTS, Texts

HEAD = struct.Struct("!I")
REPORT = "--report"
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
# formats and modes that decode fast and need no conversion of colours
_PLAIN_FORMATS = ("JPEG", "MPO", "PNG", "WEBP")
_PLAIN_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")


@dataclass(frozen=True, slots=True)
class Small:
    """A picture, scaled down and re-encoded. Format, width and height (pixels) are those of the upright original.

    ``data`` is the small picture and ``copy`` the working copy; either may be empty. ``texts`` is what the
    file says of it, and ``hash`` is its perceptual hash, if there is a small picture.
    """

    format: str
    width: int
    height: int
    data: bytes
    copy: bytes
    blemishes: frozenset[Blemish] = frozenset()
    texts: Texts = NO_TEXTS
    hash: int = NO_HASH


def make_small(data: bytes, max_pixels: int, side: int, quality: int, copy_side: int = 0) -> Small:
    """Decode the whole picture once; encode it small as upright WebP, and as working copy, both without metadata.

    Args:
        side: maximum of the longer side of the small picture, in pixels; 0 makes none.
        quality: of the small picture.
        copy_side: makes a working copy of :func:`copy_size`, if the picture needs one; 0 makes none.

    Raises:
        Refused: the format is not accepted, the picture is damaged, or it has more than ``max_pixels`` pixels.
    """
    with opened(data, max_pixels) as source:
        picture = source.picture
        width, height = picture.size
        wanted = _copy_of(source, copy_side)
        if not side and wanted is None:
            return Small(source.format, width, height, b"", b"")
        # decoding a JPEG smaller is much faster and still reads every byte
        load_checked(source, wanted or (2 * side, 2 * side))
        picture = source.picture
        transposition = _transposition(picture)
        small, copy = to_rgb(source), b""
        if wanted is not None:
            small = _upright(resized(small, wanted), transposition)
            copy = encoded_copy(small)
        if side:
            small.thumbnail((side, side), FILTER, reducing_gap=2.0)
        if wanted is None:
            small = _upright(small, transposition)
        if transposition is not None and transposition not in _KEEPS_SIZE:
            width, height = height, width
        shown = encoded(small, "WEBP", quality=quality, method=2) if side else b""
        texts = source.texts or NO_TEXTS
        hashed = perceptual_hash(small) if side else NO_HASH
        return Small(source.format, width, height, shown, copy, frozenset(source.blemishes), texts, hashed)


def copied(picture: Image.Image, side: int) -> Image.Image:
    """Return what a model reads of this RGB picture through its working copy; the same picture if it needs none."""
    wanted = copy_size(*picture.size, side)
    if wanted == picture.size or max(wanted) > MAX_COPY_SIDE:
        return picture
    with Image.open(io.BytesIO(encoded_copy(resized(picture, wanted)))) as copy:
        copy.load()
        return copy


def _copy_of(source: Source, side: int) -> tuple[int, int] | None:
    """Return the size of the opened picture's working copy; None if it needs none."""
    picture = source.picture
    if not side:
        return None
    wanted = copy_size(*picture.size, side)
    plain = source.format in _PLAIN_FORMATS and picture.mode in _PLAIN_MODES and "icc_profile" not in picture.info
    return None if max(wanted) > MAX_COPY_SIDE or (plain and wanted == picture.size) else wanted


def _upright(picture: Image.Image, transposition: Transpose | None) -> Image.Image:
    return picture if transposition is None else picture.transpose(transposition)


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
        if min_side and picture.format in JPEGS:
            picture.draft(None, (min_side, min_side))
        load_source(source)
        picture = source.picture
        transposition = _transposition(picture)
        rgb = to_rgb(source)
        rgb = rgb.copy() if rgb is picture else rgb
    rgb.info = {}
    return rgb if transposition is None else rgb.transpose(transposition)


def _transposition(picture: Image.Image) -> Transpose | None:
    """Return what makes the decoded picture upright. Pillow itself transposes a TIFF on decoding and drops the tag."""
    try:
        orientation = picture.getexif().get(_ORIENTATION, 1)
        # some programs store it as a byte instead of a short integer
        return _UPRIGHT.get(orientation[0] if isinstance(orientation, bytes) else orientation)
    except Exception:  # a picture with a broken EXIF block can still be used
        return None


def restrict_process(memory: int) -> list[str]:
    """Prepare this process for hostile pictures, and return what the kernel keeps from it; see :func:`confine`."""
    prepare()
    held = confine(memory)
    warnings.simplefilter("ignore")
    return held


def serve(channel: socket.socket) -> None:
    """Handle requests until the other end closes."""
    while (size := _receive(channel, HEAD.size, may_end=True)) is not None:
        request = json.loads(_receive(channel, HEAD.unpack(size)[0]) or b"")
        with _file(channel, request) as file:
            extend_cpu_limit(request["seconds"])
            for facts, payload in _responses(request, file):
                line = json.dumps(facts | {"length": len(payload)}).encode()
                channel.sendall(HEAD.pack(len(line)) + line)
                channel.sendall(payload)
                extend_cpu_limit(request["seconds"])


def _file(channel: socket.socket, request: Mapping[str, Any]) -> BinaryIO:
    """Receive the file of a request: its bytes, or the descriptor of a file that is split, which may be large."""
    if "kind" not in request:
        return io.BytesIO(_receive(channel, request["length"]) or b"")
    _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    return os.fdopen(descriptors[0], "rb")


def _responses(request: Mapping[str, Any], file: BinaryIO) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield the response to the request; of a file that is split, one for each part, then one without a part."""
    try:
        if "kind" in request:
            yield from split(request, file)
            yield {"end": True}, b""
        else:
            yield _handle(request, file.read())
    except Refused as error:
        yield error.facts, b""
    except MemoryError:
        yield {"refused": "memory"}, b""


def _handle(request: Mapping[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    if request["split"] and (pages := count_pages(data)) > 1:
        return {"pages": pages}, b""
    if request["side"] or request["copy_side"]:
        small = make_small(
            data, request["max_pixels"], request["side"], request["quality"], copy_side=request["copy_side"]
        )
        pieces = (small.data, small.copy, *small.texts.parts())
        facts = {"format": small.format, "width": small.width, "height": small.height, "hash": small.hash}
        return facts | {"blemishes": sorted(small.blemishes), "pieces": list(map(len, pieces))}, b"".join(pieces)
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
    """Serve requests on the standard input; the argument is the memory limit in bytes.

    With ``REPORT`` as second argument, write what the kernel keeps from this process to the standard output instead.
    """
    held = restrict_process(int(sys.argv[1]))
    if sys.argv[2:] == [REPORT]:
        sys.stdout.write(json.dumps(held))
        sys.exit(0)
    try:
        serve(socket.socket(fileno=0))
    except (EOFError, OSError):
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
