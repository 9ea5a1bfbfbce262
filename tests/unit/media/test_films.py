"""Key frames of a film are read one by one, one of each scene; what can't be read has a reason."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image
from tests.unit.media.films import film, sound, turned
from tests.unit.media.test_parts import COLOURS, parts, plain, rendered, shows
from tests.unit.media.test_pictures import is_like, quarters

from retllm.errors import MediaRejected, TooLarge
from retllm.media.decoding import films
from retllm.media.decoding.facts import Blemish, Split
from retllm.media.parts import read_parts
from retllm.media.sniffing import FileKind, sniff
from retllm.settings import Settings


@pytest.mark.parametrize(
    ("kind", "codec"),
    [
        ("mp4", "mpeg4"),
        ("mp4", "libx264"),
        ("matroska", "libx264"),
        ("avi", "mpeg4"),
        ("mov", "mpeg4"),
        ("webm", "libvpx"),
        ("asf", "wmv2"),
        ("flv", "flv1"),
        ("mpeg", "mpeg2video"),
        ("mpegts", "libx264"),  # without an index
        ("mpegts", "mpeg2video"),
    ],
)
def test_a_film_gives_a_frame_of_each_scene_with_its_time(kind: str, codec: str, settings: Settings) -> None:
    data = film(plain(4), kind=kind, codec=codec)
    assert sniff(data[:4096], "a.bin") is FileKind.FILM
    found = rendered(data, settings)
    assert [part.seconds for part in found] == [0, 1, 2, 3]
    assert all(shows(part, colour) for part, colour in zip(found, COLOURS, strict=False))
    assert {(part.page, part.pages, part.remark) for part in found} == {(None, None, None)}


def test_scenes_between_rare_key_frames_of_a_short_film_are_found(settings: Settings) -> None:
    found = rendered(film(plain(4), codec="mpeg4", gap=300, cuts=False), settings)
    assert [part.seconds for part in found] == [0, 1, 2, 3]
    assert all(shows(part, colour) for part, colour in zip(found, COLOURS, strict=False))


def test_of_a_long_film_key_frames_are_taken(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded here, as the decoder's limit of a short film is its own."""
    monkeypatch.setattr(films, "_SHORT", 0)
    found = list(films.key_frames(io.BytesIO(film(plain(4), gap=5)), Split(0, 60, 2400, 10**6)))
    assert [part.seconds for part in found] == [0, 1, 2, 3]


def test_a_film_of_one_scene_gives_one_frame(settings: Settings) -> None:
    (only,) = rendered(film(plain(1), frames=30), settings)
    assert (only.seconds, only.width, only.height) == (0, 160, 120)
    (only,) = rendered(film(plain(1), frames=1), settings)
    assert shows(only, "red")


def test_frames_of_a_film_with_many_scenes_are_spread_over_it(settings: Settings) -> None:
    few = settings.model_copy(update={"film_frames": 4})
    found = rendered(film(plain(24, (64, 48)), frames=5), few)
    times = [part.seconds or 0 for part in found]
    assert len(times) == 4
    assert times[0] < 3
    assert times[-1] > 8
    assert times == sorted(times)
    assert "RETLLM_FILM_FRAMES allows 4 frames" in (found[-1].left_out or "")


@pytest.mark.parametrize(
    ("degrees", "turn"),
    [(90, Image.Transpose.ROTATE_270), (180, Image.Transpose.ROTATE_180), (270, Image.Transpose.ROTATE_90)],
)
def test_a_film_of_a_phone_is_upright(degrees: int, turn: Image.Transpose, settings: Settings) -> None:
    (only,) = rendered(turned(film([quarters((160, 80))]), degrees), settings)
    with Image.open(io.BytesIO(only.data)) as picture:
        assert is_like(picture.convert("RGB"), quarters((160, 80)).transpose(turn), tolerance=40)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (sound(), "a film without pictures"),
        (film(plain(2))[:300], "damaged"),
        (b"\0\0\0\x18ftypisom\0\0\2\0isommp41" + bytes(500), "damaged"),
        (b"\x1a\x45\xdf\xa3" + bytes(500), "damaged"),
    ],
)
def test_a_film_that_cannot_be_read_has_a_reason(data: bytes, message: str, settings: Settings) -> None:
    with pytest.raises(MediaRejected, match=message):
        parts(data, settings, FileKind.FILM)


def test_what_comes_before_the_damage_of_a_film_is_taken_with_a_remark(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = films._samples

    def failing(*given: Any) -> Iterator[Any]:
        for place, frame in enumerate(samples(*given)):
            if place == 4:  # half a second apart, ten frames a scene
                raise av.InvalidDataError(1, "damaged")
            yield frame

    monkeypatch.setattr(films, "_samples", failing)
    found = list(films.key_frames(io.BytesIO(film(plain(4))), Split(0, 60, 2400, 10**6)))
    assert [part.seconds for part in found] == [0, 1]
    assert [part.blemishes for part in found] == [frozenset(), {Blemish.REST}]


def test_a_film_with_too_many_pixels_is_refused(settings: Settings) -> None:
    small = settings.model_copy(update={"max_pixels": 160 * 120 - 1})
    with pytest.raises(TooLarge, match="RETLLM_MAX_PIXELS"):
        parts(film(plain(1)), small)


def test_a_film_may_be_larger_than_the_memory_of_its_decoder(settings: Settings, tmp_path: Path) -> None:
    data, path = film(plain(2)), tmp_path / "film.mp4"
    size = settings.decode_memory + (1 << 20)
    with path.open("wb") as file:
        # after the film a box of free space (ISO/IEC 14496-12, 8.1.2), most of which takes no room on the disk
        file.write(data + (1).to_bytes(4, "big") + b"free" + size.to_bytes(8, "big"))
        file.truncate(len(data) + size)
    with path.open("rb") as file:
        assert [part.seconds for part in read_parts(file, FileKind.FILM, settings)] == [0, 1]
