"""Frames of a film, one of each scene: of a long film, key frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from retllm.media.decoding.facts import Blemish, Part, Refused, Split, damage

# frames that are compared, for each that may be given
_CANDIDATES = 3
# a film with no more pixels in all its frames, such as a minute in 1920 x 1080, is decoded whole to find its scenes
_SHORT = 3_000_000_000
_STEP = 0.5  # seconds between two frames that are compared
_THUMBNAIL = (16, 16)
# two frames show different scenes if their thumbnails differ by this, of 255, on average
_DIFFERENT = 16.0
_Thumbnail = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


@dataclass(frozen=True, slots=True)
class _Candidate:
    pts: int
    seconds: float
    change: float  # from the candidate before


def key_frames(file: BinaryIO, asked: Split) -> Iterator[Part]:
    """Yield a frame of each scene, in their order; of many scenes, those that are spread over the film.

    Raises:
        Refused: no pictures in it, damaged, too many pixels, or PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise Refused("extra", extra="film", format="film") from error
    try:
        with av.open(file, metadata_errors="ignore") as container:
            stream = _video(container)
            _check_size(stream.codec_context, asked.max_pixels)
            scenes, whole = _scenes(container, stream, asked)
            chosen = _spread(scenes, asked.most)
            for place, scene in enumerate(chosen[asked.first :], asked.first + 1):
                last = place == len(chosen)
                frame = _frame_at(container, stream, scene.pts)
                yield Part(
                    _picture(frame, asked.side) if frame is not None else None,
                    reason="the frame can't be decoded",
                    seconds=scene.seconds,
                    blemishes=frozenset({Blemish.REST} if last and not whole else ()),
                    left_out=len(scenes) - len(chosen) if last else 0,
                )
    except av.FFmpegError as error:
        raise Refused("damaged", reason=damage(error)) from error


def _video(container: Any) -> Any:
    """Return the film's pictures, which are no cover of a piece of music."""
    for stream in container.streams.video:
        if not stream.disposition & stream.disposition.attached_pic and stream.codec_context is not None:
            stream.codec_context.thread_count = 1
            return stream
    raise Refused("unsupported", reason="a film without pictures")


def _check_size(sized: Any, max_pixels: int) -> None:
    if sized.width * sized.height > max_pixels:
        raise Refused("pixels", width=sized.width, height=sized.height)


def _scenes(container: Any, stream: Any, asked: Split) -> tuple[list[_Candidate], bool]:
    """Return the frames that begin a scene, first of all the first one, and whether these are all.

    A scene begins where a frame differs from the beginning of the scene before. The rest of a film may be damaged.
    """
    import av

    scenes: list[_Candidate] = []
    before: _Thumbnail | None = None
    whole = True
    try:
        for frame in _samples(container, stream, _CANDIDATES * asked.most):
            _check_size(frame, asked.max_pixels)
            small = np.asarray(frame.to_image(width=_THUMBNAIL[0], height=_THUMBNAIL[1]), dtype=np.float32)
            change = float(np.abs(small - before).mean()) if before is not None else np.inf
            if change >= _DIFFERENT:
                seconds = max(0.0, float((frame.pts - (stream.start_time or 0)) * stream.time_base))
                scenes.append(_Candidate(frame.pts, round(seconds, 3), change))
                before = small
    except av.FFmpegError:
        whole = False
    if not scenes:
        raise Refused("damaged", reason="no frame can be decoded")
    return scenes, whole


def _samples(container: Any, stream: Any, most: int) -> Iterator[Any]:
    """Yield frames all over the film to compare: key frames, of a short film others too, as key frames may be rare."""
    packets = [(packet.pts, packet.is_keyframe) for packet in container.demux(stream) if packet.pts is not None]
    keys = sorted({pts for pts, is_key in packets if is_key})
    pixels = stream.codec_context.width * stream.codec_context.height
    if len(packets) * pixels <= _SHORT:
        yield from _every(container, stream, len(packets) / most)
        return
    stream.codec_context.skip_frame = "NONKEY"
    for place in range(min(most, len(keys))):
        frame = _frame_at(container, stream, keys[place * len(keys) // min(most, len(keys))])
        if frame is not None:
            yield frame


def _every(container: Any, stream: Any, frames: float) -> Iterator[Any]:
    """Yield a frame each so many frames, or each half of a second if that is longer."""
    step = max(frames, _STEP * float(stream.average_rate or 1))
    container.seek(0)
    following = 0.0
    for number, frame in enumerate(container.decode(stream)):
        if number >= following and frame.pts is not None:
            yield frame
            following += step


def _frame_at(container: Any, stream: Any, pts: int) -> Any:
    """Return the frame at this time, None if it can't be decoded.

    Where a film has no index, such as an MPEG transport stream, seeking may end after the time: it begins earlier then.
    """
    import av

    second = int(1 / stream.time_base)
    for start in (pts, pts - 2 * second, pts - 10 * second, 0):
        try:
            container.seek(max(0, start), stream=stream)
            frames = (frame for frame in container.decode(stream) if frame.pts is not None)
            first = next(frames, None)
            if first is None or (first.pts > pts and start > 0):
                continue
            return first if first.pts >= pts else next((frame for frame in frames if frame.pts >= pts), None)
        except av.FFmpegError:
            continue
    return None


def _spread(scenes: list[_Candidate], most: int) -> list[_Candidate]:
    """Choose the greatest change in each of ``most`` equal times, the first scene among them; then fill up."""
    if len(scenes) <= most:
        return scenes
    end = scenes[-1].seconds + 1e-3
    best: dict[int, _Candidate] = {}
    for scene in scenes:
        slot = int(scene.seconds / end * most)
        if slot not in best or scene.change > best[slot].change:
            best[slot] = scene
    rest = sorted((scene for scene in scenes if scene not in best.values()), key=lambda scene: -scene.change)
    return sorted([*best.values(), *rest[: most - len(best)]], key=lambda scene: scene.seconds)


def _picture(frame: Any, side: int) -> Image.Image:
    """Return the frame as it is shown: with square pixels, upright."""
    width, height = frame.width, frame.height
    scale = min(1.0, side / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture: Image.Image = frame.to_image(width=size[0], height=size[1], interpolation="AREA")
    # counterclockwise degrees
    turns = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
    turn = turns.get(round(frame.rotation) % 360)
    return picture.transpose(turn) if turn is not None else picture
