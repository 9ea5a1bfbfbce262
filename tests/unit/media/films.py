"""Films and sounds for tests."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
from PIL import Image

RATE = 10


def film(
    scenes: Sequence[Image.Image],
    *,
    frames: int = 10,
    kind: str = "mp4",
    codec: str = "mpeg4",
    gap: int = 5,
    cuts: bool = True,
) -> bytes:
    """A film of these pictures, each shown for so many frames (10 a second), with a key frame every ``gap`` frames.

    With ``cuts``, the encoder also begins a scene with a key frame.
    """
    target = io.BytesIO()
    with av.open(target, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=RATE, options={} if cuts else {"sc_threshold": "1000000000"})
        stream.width, stream.height = scenes[0].size
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        stream.codec_context.gop_size = gap
        stream.codec_context.max_b_frames = 0
        for number, scene in enumerate(scene for scene in scenes for _ in range(frames)):
            frame = av.VideoFrame.from_image(scene)
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return target.getvalue()


def sound() -> bytes:
    """An MP4 with a sound only."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return target.getvalue()


def turned(data: bytes, degrees: int) -> bytes:
    """The MP4 with a display matrix (ISO/IEC 14496-12, 8.3.2) that turns it clockwise, as phones write it."""
    one = 1 << 16
    matrices = {
        90: (0, one, 0, -one, 0, 0, 0, 0, 1 << 30),
        180: (-one, 0, 0, 0, -one, 0, 0, 0, 1 << 30),
        270: (0, -one, 0, one, 0, 0, 0, 0, 1 << 30),
    }
    matrix = b"".join(value.to_bytes(4, "big", signed=True) for value in matrices[degrees])
    # after type, version, times, track, duration, layer, group and volume
    at = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    return data[:at] + matrix + data[at + len(matrix) :]
