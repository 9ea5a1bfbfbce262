"""Pages of a TIFF or a PDF are read one by one; what can't be read has a reason."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from tests.unit.media import icc
from tests.unit.media.films import film
from tests.unit.media.samples import encoded, noise
from tests.unit.media.test_pictures import is_like
from tests.unit.media.test_sandbox import decoders, hostile

from retllm.errors import MediaRejected, TooLarge
from retllm.media import decoder, sandbox
from retllm.media.parts import BrokenPart, RenderedPart, read_parts
from retllm.media.pictures import inspect_single
from retllm.media.sniffing import FileKind, sniff
from retllm.settings import Settings

COLOURS = ["red", "lime", "blue", "yellow", "white", "black"]


def plain(count: int, size: tuple[int, int] = (160, 120)) -> list[Image.Image]:
    return [Image.new("RGB", size, COLOURS[place % len(COLOURS)]) for place in range(count)]


def pages(count: int, kind: str = "TIFF", **options: Any) -> bytes:
    first, *others = plain(count)
    # a PDF has the time at which it was made
    dated = {name: time.gmtime(0) for name in ("creationDate", "modDate")} if kind == "PDF" else {}
    return encoded(first, kind, save_all=True, append_images=others, **dated, **options)


def parts(data: bytes, settings: Settings, kind: FileKind | None = None) -> list[RenderedPart | BrokenPart]:
    return list(read_parts(io.BytesIO(data), kind or sniff(data[:4096], "a"), settings))


def rendered(data: bytes, settings: Settings) -> list[RenderedPart]:
    found = [part for part in parts(data, settings) if isinstance(part, RenderedPart)]
    for part in found:
        with Image.open(io.BytesIO(part.data)) as picture:
            assert (picture.format, part.media_type, picture.size) == ("JPEG", "image/jpeg", (part.width, part.height))
    return found


def shows(part: RenderedPart, colour: str) -> bool:
    with Image.open(io.BytesIO(part.data)) as picture:
        return is_like(picture.convert("RGB"), Image.new("RGB", picture.size, colour), tolerance=40)


def assert_all_shown(found: list[RenderedPart], count: int) -> None:
    assert [(part.page, part.pages) for part in found] == [(number, count) for number in range(1, count + 1)]
    assert all(shows(part, colour) for part, colour in zip(found, COLOURS, strict=False))


@pytest.mark.parametrize("kind", ["TIFF", "PDF"])
def test_each_page_is_a_part_with_its_number(kind: str, settings: Settings) -> None:
    found = rendered(pages(4, kind), settings)
    assert_all_shown(found, 4)
    assert {part.remark for part in found} == {None}
    assert {part.seconds for part in found} == {None}


@pytest.mark.parametrize("kind", ["TIFF", "PDF"])
def test_pages_over_the_limit_are_left_out_with_a_remark(kind: str, settings: Settings) -> None:
    few = settings.model_copy(update={"max_parts": 3})
    found = rendered(pages(5, kind), few)
    assert [part.page for part in found] == [1, 2, 3]
    assert [part.left_out for part in found] == [
        None,
        None,
        "The file has 5 pages; RETLLM_MAX_PARTS allows 3: the rest was left out.",
    ]


# TIFF


def tiff(*directories: tuple[Image.Image, dict[int, int]]) -> bytes:
    """A TIFF of these pictures with these tags."""
    target = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(target) as writer:
        for picture, tags in directories:
            picture.save(writer, "TIFF", tiffinfo=tags)
            writer.newFrame()
    return target.getvalue()


def test_a_tiff_of_several_pages_is_told_from_one_picture(settings: Settings) -> None:
    for count in (1, 2, 7):
        seen = inspect_single(io.BytesIO(pages(count)), settings)
        assert (seen is None) is (count > 1)
    assert inspect_single(io.BytesIO(encoded(noise(), "PNG")), settings) is not None


@pytest.mark.parametrize(
    "smaller",
    [
        [((80, 60), {254: 1}), ((40, 30), {254: 1})],  # flagged
        [((81, 61), {254: 1})],
        [((150, 110), {255: 2})],  # the older flag
        [((80, 60), {}), ((40, 30), {}), ((20, 15), {})],  # a pyramid that says nothing
        [((24, 18), {})],  # a thumbnail that says nothing
        [((160, 120), {254: 4})],  # a mask
    ],
)
def test_smaller_versions_thumbnails_and_masks_are_no_pages(
    smaller: list[tuple[tuple[int, int], dict[int, int]]], settings: Settings
) -> None:
    others = [(noise(3, size), tags) for size, tags in smaller]
    for data in (tiff((noise(1, (160, 120)), {}), *others), tiff(*others, (noise(1, (160, 120)), {}))):
        seen = inspect_single(io.BytesIO(data), settings)
        assert seen is not None
        assert (seen.width, seen.height) == (160, 120)
        (only,) = rendered(data, settings)
        assert (only.width, only.height, only.page, only.pages) == (160, 120, 1, 1)


def test_pages_of_other_sizes_depths_and_colours_are_pages(settings: Settings) -> None:
    sixteen = Image.fromarray(np.full((100, 140), 40_000, np.uint16))
    data = tiff(
        (plain(1)[0], {}), (sixteen, {}), (Image.new("1", (170, 240), 1), {}), (Image.new("CMYK", (120, 160)), {})
    )
    found = rendered(data, settings)
    assert [(part.width, part.height) for part in found] == [(160, 120), (140, 100), (170, 240), (120, 160)]
    with Image.open(io.BytesIO(found[1].data)) as picture:
        assert abs(picture.convert("L").getpixel((50, 50)) - 40_000 / 257) < 2  # type: ignore[operator]


def test_a_broken_page_of_a_tiff_has_a_reason_and_the_others_are_read(settings: Settings) -> None:
    data = tiff(*((noise(seed, (160, 120)), {}) for seed in range(3)))
    with Image.open(io.BytesIO(data)) as picture:
        picture.seek(1)
        strip = picture.tag_v2[273][0]  # type: ignore[attr-defined]
        entry = data.index(strip.to_bytes(4, "little"), 8)
    broken = data[:entry] + (len(data) + 5000).to_bytes(4, "little") + data[entry + 4 :]
    first, second, third = parts(broken, settings)
    assert isinstance(first, RenderedPart)
    assert isinstance(second, BrokenPart)
    assert (second.page, second.pages) == (2, 3)
    assert second.reason == "it ends too early."
    assert isinstance(third, RenderedPart)


def with_tag(data: bytes, tag: int, value: int) -> bytes:
    """The TIFF with another value of a tag of its first page."""
    changed, at = bytearray(data), int.from_bytes(data[4:8], "little")
    for entry in range(at + 2, at + 2 + 12 * int.from_bytes(data[at : at + 2], "little"), 12):
        if int.from_bytes(data[entry : entry + 2], "little") == tag:
            changed[entry + 8 : entry + 12] = value.to_bytes(4, "little")
    return bytes(changed)


@pytest.mark.parametrize(
    ("tag", "value", "reason"),
    [
        (273, 10**6, "it ends too early"),
        (259, 9999, "it is a TIFF of 3 × 8-bit integers, photometric interpretation 2, compression 9999"),
        (262, 77, "photometric interpretation 77"),
        (256, 0, "damaged"),
    ],
)
def test_pages_after_a_broken_first_page_are_read(tag: int, value: int, reason: str, settings: Settings) -> None:
    data = with_tag(tiff(*((picture, {}) for picture in plain(3))), tag, value)
    assert inspect_single(io.BytesIO(data), settings) is None
    first, *others = parts(data, settings)
    assert isinstance(first, BrokenPart)
    assert (first.page, first.pages) == (1, 3)
    assert reason in first.reason
    for part, colour in zip(others, COLOURS[1:], strict=False):
        assert isinstance(part, RenderedPart)
        assert shows(part, colour)


def test_a_profile_counts_for_its_page_only(settings: Settings) -> None:
    target, picture = io.BytesIO(), Image.new("RGB", (64, 64), (10, 200, 30))
    with TiffImagePlugin.AppendingTiffWriter(target) as writer:
        for profile in (icc.rgb_profile(1.0, icc.P3), None):
            picture.save(writer, "TIFF", **({"icc_profile": profile} if profile else {}))
            writer.newFrame()
    shown = [np.asarray(Image.open(io.BytesIO(part.data)))[32, 32] for part in rendered(target.getvalue(), settings)]
    assert abs(int(shown[0][2]) - 72) <= 4  # as Pillow's colour management says
    np.testing.assert_allclose(shown[1], (10, 200, 30), atol=3)


def test_a_page_with_too_many_pixels_is_not_decoded(settings: Settings) -> None:
    data = tiff((Image.new("L", (900, 1000)), {}), (Image.new("1", (2001, 2000)), {}))
    first, second = parts(data, settings)
    assert isinstance(first, RenderedPart)
    assert isinstance(second, BrokenPart)
    assert second.reason == "it has 2,001 × 2,000 pixels."


def test_a_tiff_whose_directories_form_a_circle_ends(settings: Settings) -> None:
    data = bytearray(pages(2))
    (first,) = (int.from_bytes(data[4:8], "little"),)
    with Image.open(io.BytesIO(bytes(data))) as picture:
        picture.seek(1)
        second = picture._frame_pos[1]  # type: ignore[attr-defined]
    end = second + 2 + 12 * int.from_bytes(data[second : second + 2], "little")
    data[end : end + 4] = first.to_bytes(4, "little")
    assert_all_shown(rendered(bytes(data), settings), 2)


# PDF


def pdf(objects: list[bytes], trailer: bytes = b"") -> bytes:
    """A PDF of these objects, of which the first is the catalogue."""
    data, places = b"%PDF-1.7\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    table += b"".join(b"%010d 00000 n \n" % place for place in places)
    return data + table + b"trailer\n<</Size %d/Root 1 0 R%s>>\nstartxref\n%d\n%%%%EOF" % (
        len(objects) + 1, trailer, len(data)
    )  # fmt: skip


def one_page(box: bytes, content: bytes = b"1 0 0 rg 0 0 20000 20000 re f", more: bytes = b"") -> list[bytes]:
    return [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[%s]/Contents 4 0 R%s>>" % (box, more),
        b"<</Length %d>>\nstream\n%s\nendstream" % (len(content), content),
    ]


@pytest.mark.parametrize(
    ("box", "more", "size"),
    [
        (b"0 0 595 842", b"", (1696, 2400)),  # A4
        (b"0 0 595 842", b"/Rotate 90", (2400, 1696)),
        (b"0 0 14400 14400", b"", (2400, 2400)),
        (b"0 0 100 50", b"", (400, 200)),
    ],
)
def test_a_page_of_a_pdf_is_rendered_to_a_bounded_size(
    box: bytes, more: bytes, size: tuple[int, int], settings: Settings
) -> None:
    (only,) = rendered(pdf(one_page(box, more=more)), settings)
    assert abs(only.width - size[0]) <= 2
    assert abs(only.height - size[1]) <= 2
    assert max(only.width, only.height) <= 2400
    assert shows(only, "red")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"%PDF-1.7\n", "damaged"),
        (b"%PDF-1.7\n" + bytes(2000), "damaged"),
        (pdf([b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[]/Count 0>>"]), "no pages|damaged"),
        (
            pdf(
                [
                    *one_page(b"0 0 100 100"),
                    b"<</Filter/Standard/V 2/R 3/Length 128/P -44/O<%s>/U<%s>>>" % (b"11" * 32, b"22" * 32),
                ],
                b"/Encrypt 5 0 R/ID[<00><00>]",
            ),
            "locked by a password",
        ),
    ],
)
def test_a_pdf_that_cannot_be_read_has_a_reason(data: bytes, message: str, settings: Settings) -> None:
    with pytest.raises(MediaRejected, match=message):
        parts(data, settings)


def test_a_broken_page_of_a_pdf_has_a_reason_and_the_others_are_read(settings: Settings) -> None:
    objects = one_page(b"0 0 100 100")
    objects[1] = b"<</Type/Pages/Kids[3 0 R 5 0 R 3 0 R]/Count 3>>"
    first, second, third = parts(pdf([*objects, b"(no page)"]), settings)
    assert isinstance(first, RenderedPart)
    assert isinstance(second, BrokenPart)
    assert second.page == 2
    assert second.reason
    assert isinstance(third, RenderedPart)


# the decoder


@pytest.fixture
def without_extras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Decoders for which neither pypdfium2 nor PyAV is installed."""
    for name in ("pypdfium2", "av"):
        (tmp_path / f"{name}.py").write_text("raise ImportError")
    sandbox.close()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [str(tmp_path), *sys.path])
        yield
    sandbox.close()


@pytest.mark.usefixtures("without_extras")
def test_without_the_extra_a_file_is_refused_with_the_name_of_the_extra(settings: Settings) -> None:
    for data, extra in ((pages(1, "PDF"), "pdf"), (film(plain(1)), "film")):
        with pytest.raises(MediaRejected, match=rf"pip install 'retllm-platform\[{extra}\]'"):
            parts(data, settings)
    assert len(rendered(pages(2), settings)) == 2


@pytest.fixture
def replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Replaces the function that splits a file in the next decoders."""

    def replace(body: str) -> None:
        sandbox.close()
        program = Path(hostile("pass", tmp_path))
        split = f"def split(request, data):\n    {body}\ndecoder.split = split\n"
        program.write_text(
            program.read_text().replace("decoder.serve(", "original = decoder.split\n" + split + "decoder.serve(")
        )
        monkeypatch.setattr(decoder, "__file__", str(program))

    yield replace
    sandbox.close()


def test_a_page_that_kills_its_decoder_costs_only_itself(replaced: Any, settings: Settings) -> None:
    replaced(
        "for facts, payload in original(request, data):\n"
        "        if facts['page'] == 2:\n            os.kill(os.getpid(), 9)\n"
        "        yield facts, payload"
    )
    first, second, third = parts(pages(3), settings)
    assert isinstance(first, RenderedPart)
    assert isinstance(third, RenderedPart)
    assert second == BrokenPart(2, 3, None, "the decoder crashed")


def test_a_file_whose_pages_all_block_their_decoder_ends(replaced: Any, settings: Settings) -> None:
    short = settings.model_copy(update={"decode_seconds": 0.5})
    replaced("time.sleep(600)\n    yield")
    with pytest.raises(MediaRejected, match=r"longer than 0\.5 s"):
        parts(pages(9), short)


@pytest.mark.parametrize(
    "facts",
    [
        "{'page': 1, 'width': 10**9, 'height': 1, 'pieces': [3, 0, 0]}, b'\\xff\\xd8\\xff'",
        "{'page': 1, 'width': 9, 'height': 9, 'pieces': [8, 0, 0]}, b'<script>'",
        "{'page': 1, 'width': 9, 'height': 9, 'pieces': [9, 0, -6]}, b'\\xff\\xd8\\xff'",
        "{'page': 1, 'width': 9, 'height': 9}, b'\\xff' * (1 << 25)",
        "{'width': '<b>'}, b''",
        "[], b''",
    ],
)
def test_invalid_answers_about_parts_are_refused(facts: str, replaced: Any, settings: Settings) -> None:
    replaced(f"yield {facts}")
    with pytest.raises(MediaRejected, match="can't be read"):
        parts(pages(2), settings)


def test_a_decoder_that_never_ends_gives_no_more_parts_than_were_asked_for(replaced: Any, settings: Settings) -> None:
    few = settings.model_copy(update={"max_parts": 5})
    replaced(
        "while True:\n        facts = {'page': 1, 'pages': 9, 'width': 9, 'height': 9, 'pieces': [3, 0, 0]}\n"
        "        yield facts, b'\\xff\\xd8\\xff'"
    )
    assert len(parts(pages(2), few)) == 5


def test_parts_that_are_not_read_to_the_end_leave_no_decoder_busy(settings: Settings) -> None:
    sandbox.close()
    one = settings.model_copy(update={"decoders": 1})
    reading = read_parts(io.BytesIO(pages(5)), FileKind.PICTURE, one)
    assert isinstance(next(reading), RenderedPart)
    reading.close()  # type: ignore[attr-defined]
    assert not decoders()
    assert len(rendered(pages(5), one)) == 5


@pytest.mark.parametrize("kind", ["PDF", "TIFF", "film"])
def test_damaged_files_of_several_pictures_never_stop_the_next_one(kind: str, settings: Settings) -> None:
    data = film(plain(3)) if kind == "film" else pages(3, kind)
    expected, chance = sniff(data[:4096], "a"), np.random.default_rng(5)
    for _ in range(6):
        changed = bytearray(data)
        for place in chance.integers(16, len(data), 12):
            changed[place] ^= 1 << int(chance.integers(8))
        try:
            found = parts(bytes(changed), settings, expected)
        except (MediaRejected, TooLarge):
            continue
        assert len(found) <= 500
    assert_all_shown(rendered(pages(2), settings), 2)
