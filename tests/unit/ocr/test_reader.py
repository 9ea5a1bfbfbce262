"""Text in pictures is read with what the packages bring, without a network, and its length and pictures are bounded."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from PIL import Image, ImageDraw, ImageFont

from retllm.bench import ocr as bench
from retllm.errors import ModelUnavailable
from retllm.ocr import reader as reading
from retllm.ocr.reader import NO_TEXT, Reader
from retllm.settings import Settings


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(1)


def page(*lines: str, size: tuple[int, int] = (640, 360)) -> Image.Image:
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        pen.text((30, 30 + 60 * number), line, font=ImageFont.load_default(32), fill="black")
    return picture


def test_the_lines_of_a_picture_are_read_from_top_to_bottom(reader: Reader) -> None:
    found = reader.read(page("Harbour station", "Platform 12", "Closed on Monday"), 1000)
    assert found.text.splitlines() == ["Harbour station", "Platform 12", "Closed on Monday"]
    assert found.confidence is not None
    assert 0.8 < found.confidence <= 1


def test_words_on_a_drawn_scene_are_read(reader: Reader) -> None:
    picture, words = bench.draw(random.Random(3), 40)
    found = reader.read(picture, 10_000).text.casefold().split()
    assert sum(word in found for word in words) >= 0.8 * len(words)


def test_a_picture_without_text_has_none(reader: Reader) -> None:
    assert reader.read(Image.new("RGB", (300, 200), "gray"), 1000) == NO_TEXT


@pytest.mark.parametrize("size", [(1, 1), (7, 4000), (4000, 9), (31, 31), (2001, 2001)])
def test_a_picture_of_any_size_is_read(reader: Reader, size: tuple[int, int]) -> None:
    assert reader.read(Image.new("RGB", size, "white"), 1000) == NO_TEXT


def test_the_picture_is_made_smaller_and_stays_as_it_was(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    engine = reader._engine

    def watched(pixels: object) -> object:
        seen.append(pixels.shape)  # type: ignore[attr-defined]
        return engine(pixels)

    monkeypatch.setattr(reader, "_engine", watched)
    picture = page("Harbour", size=(5000, 2500))
    reader.read(picture, 1000)
    assert (seen, picture.size) == ([(reading.SIDE // 2, reading.SIDE, 3)], (5000, 2500))


def test_the_text_has_at_most_so_many_characters(reader: Reader) -> None:
    assert reader.read(page("Harbour station", "Platform 12"), 18).text == "Harbour station\nPl"


def test_nothing_is_downloaded() -> None:
    """Neither packages nor models ask for anything: a socket that is made ends the process."""
    code = (
        "import socket, sys\n"
        "def refuse(*_, **__): sys.exit('a socket was made')\n"
        "socket.socket.connect = refuse\n"
        "socket.getaddrinfo = refuse\n"
        "from PIL import Image, ImageDraw, ImageFont\n"
        "from retllm.ocr.reader import Reader\n"
        "picture = Image.new('RGB', (400, 120), 'white')\n"
        "ImageDraw.Draw(picture).text((20, 30), 'Harbour', font=ImageFont.load_default(40), fill='black')\n"
        "print(Reader(1).read(picture, 100).text)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "Harbour"), done.stderr
    assert done.stderr == "", "the packages write nothing of their own"


def test_without_the_packages_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_PACKAGES", ("a_package_that_is_not_there",))
    assert not reading.is_installed()
    with pytest.raises(ModelUnavailable, match=r"pip install 'retllm-platform\[ocr\]'"):
        Reader(1)


@pytest.mark.parametrize(
    ("settings", "threads"),
    [({"ocr_threads": 3}, 3), ({"media_workers": 4}, 2), ({"media_workers": 99}, 1), ({"media_workers": 0}, 8)],
)
def test_the_threads_are_those_of_the_settings_or_a_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, int], threads: int
) -> None:
    monkeypatch.setattr(reading.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(reading, "_reader", lambda number: number)
    assert reading.reader_of(Settings(**settings)) == threads  # type: ignore[arg-type, comparison-overlap]
