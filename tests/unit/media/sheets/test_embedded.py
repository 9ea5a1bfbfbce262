"""The caption in a picture's file is read from XMP, IPTC and EXIF, and hostile metadata count as absent."""

from __future__ import annotations

import io
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, IptcImagePlugin
from tests.unit.media.sheets.xmp_packets import packet, properties

from retllm.errors import MediaRejected, TooLarge
from retllm.media.sheets import xmp
from retllm.media.sheets.embedded import embedded_caption
from retllm.settings import Settings

SETTINGS = Settings(max_text_chars=200)


def field(record: int, number: int, value: bytes) -> bytes:
    """A field of IPTC IIM 4.2; a long one has its size in four further bytes."""
    size = len(value).to_bytes(2) if len(value) < 0x8000 else b"\x80\x04" + len(value).to_bytes(4)
    return bytes([0x1C, record, number]) + size + value


def resource(kind: int, data: bytes, name: bytes = b"") -> bytes:
    """A resource of Photoshop."""
    label = bytes([len(name)]) + name
    return (
        b"8BIM" + kind.to_bytes(2) + label + bytes(len(label) % 2) + len(data).to_bytes(4) + data + bytes(len(data) % 2)
    )


IPTC = field(2, 0, b"\0\4") + field(2, 5, b"Title") + field(2, 120, b"A boat on the sea") + field(2, 25, b"boat")
UTF8 = field(1, 90, b"\x1b%G")


@pytest.mark.parametrize(
    ("iptc", "expected"),
    [
        (IPTC, "A boat on the sea"),
        (UTF8 + field(2, 120, "Größe".encode()), "Größe"),
        (field(2, 120, "Größe".encode("cp1252")), "Größe"),
        (field(2, 120, b"x" * 40_000) + IPTC, None),
        (resource(0x0404, IPTC), "A boat on the sea"),
        (b"Photoshop 3.0\0" + resource(0x0425, b"abc", b"ab") + resource(0x0404, IPTC), "A boat on the sea"),
        (b"Photoshop 3.0\0" + resource(0x0425, IPTC), None),
        (field(2, 5, b"Title"), None),
        (IPTC[:20], None),
        (b"\x1c\x02\x78\x80\x08" + b"\xff" * 8, None),
    ],
)
def test_the_caption_of_iptc_is_read(iptc: bytes, expected: str | None) -> None:
    assert embedded_caption(SETTINGS, iptc=iptc) == expected


def test_a_jpeg_is_read_as_pillow_reads_it() -> None:
    block = b"Photoshop 3.0\0" + resource(0x0404, IPTC)
    segment = b"\xff\xed" + (len(block) + 2).to_bytes(2) + block
    made = io.BytesIO()
    Image.new("RGB", (8, 8)).save(made, "JPEG")
    with Image.open(io.BytesIO(made.getvalue()[:2] + segment + made.getvalue()[2:])) as read:
        info = IptcImagePlugin.getiptcinfo(read)
    assert info is not None
    value = info[2, 120]
    assert embedded_caption(SETTINGS, iptc=block) == (value if isinstance(value, bytes) else value[0]).decode()


def test_xmp_goes_before_iptc_and_iptc_before_exif() -> None:
    sources = {
        "xmp": packet(description="of XMP") + b"   \0\0",
        "iptc": field(2, 120, b"of IPTC"),
        "exif": b"of EXIF\0\0",
    }
    for name in ("XMP", "IPTC", "EXIF"):
        assert embedded_caption(SETTINGS, **sources) == f"of {name}"  # type: ignore[arg-type]
        del sources[name.lower()]
    assert embedded_caption(SETTINGS) is None
    assert embedded_caption(SETTINGS, xmp=packet(title="a title only"), exif="Größe") == "Größe"


@pytest.mark.parametrize(
    "text",
    ["OLYMPUS DIGITAL CAMERA         ", "SONY DSC", "Exif_JPEG_PICTURE", "DCIM\\100MEDIA\\DJI_0001.JPG", "default",
     "ImageJ=1.53t\nimages=3", "<?xml version='1.0'?><OME/>", '{"shape": [3, 4]}', "cof", "<Digimax S600>", "IMG_0001",
     "SAMSUNG CAMERA PICTURES", "20240101_120000", "KODAK Digital Still Camera", "Created with GIMP",
     "Created with The GIMP on a Mac", "Created with Ricoh THETA", "Shot with DxO ONE", "Created by Imlib",
     "hdrpl;fileterIntensity: 0.0; filterMask: 0;", "filter: 0; fileterIntensity: 0.0; \nhdrForward: 0; shaking: 0.1;",
     "HP_Scan", "EPSON MFP image", "Scanned Document", "MINOLTA DIGITAL CAMERA", "Screenshot", "charset=Ascii",
     "oznorWO", "mde_soft"],
)  # fmt: skip
def test_what_cameras_and_programs_write_into_every_picture_is_no_caption(text: str) -> None:
    assert embedded_caption(SETTINGS, exif=text) is None
    assert embedded_caption(SETTINGS, xmp=packet(description=text.replace("<", "&lt;")), exif="A boat") == "A boat"
    assert embedded_caption(SETTINGS, comment=b"ASCII\0\0\0" + text.encode()) is None


@pytest.mark.parametrize(
    ("name", "text", "is_caption"),
    [
        ("day 1/Boat_3.JPG", "boat_3.jpg", False),
        ("day 1/Boat_3.JPG", "Boat_3", False),
        ("day 1/Boat_3.JPG", "Boat_3 at sea", True),
        ("A boat at sea.jpg", "A boat at sea", True),
        ("A boat at sea.jpg", "A boat at sea.jpg", False),
        ("", "boat", True),
    ],
)
def test_the_name_of_the_file_is_no_caption(name: str, text: str, is_caption: bool) -> None:
    expected = text if is_caption else None
    for source in ({"exif": text}, {"comment": b"ASCII\0\0\0" + text.encode()}, {"xmp": packet(description=text)}):
        assert embedded_caption(SETTINGS, name=name, **source) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "Sony DSC on a table",
        "Default settings explained",
        "Image of a boat",
        "Cofee",
        "Created with love by Anna",
        "Scanned from an album",
        "Cameraman",
        "Monday",
        "Norway",
        "Burst balloon",
    ],
)
def test_a_caption_may_resemble_a_placeholder(text: str) -> None:
    assert embedded_caption(SETTINGS, exif=text) == text


LANGUAGES = {
    "the default one": ("de=Boot", "x-default=Boat", "en=Ship"),
    "the default one at the end": ("en=Ship", "de=Boot", "x-default=Boat"),
    "the first one without a default": ("en=Boat", "de=Boot"),
    "the first one with words": ("x-default= ", "de=", "en=Boat", "fr=Bateau"),
    "only one": ("de-CH=Boat",),
}


@pytest.mark.parametrize("texts", LANGUAGES.values(), ids=LANGUAGES)
@pytest.mark.parametrize("title", [(), ("x-default=A title",)])
def test_of_several_languages_one_is_the_caption(texts: tuple[str, ...], title: tuple[str, ...]) -> None:
    """XMP, part 1, 8.2.2.4: the item ``x-default`` is for readers that ask for no language."""
    for data in (properties(title=title, description=texts), properties(description=texts, title=title)):
        assert xmp.description(io.BytesIO(data)) == "Boat"
        assert embedded_caption(SETTINGS, xmp=data, exif="of EXIF") == "Boat"


def test_a_title_is_a_caption_only_in_a_sidecar_and_without_a_description() -> None:
    data = properties(title=("de=Titel", "x-default=A title"), description=("x-default= ",))
    assert xmp.description(io.BytesIO(data)) == "A title"
    assert embedded_caption(SETTINGS, xmp=data, exif="of EXIF") == "of EXIF"


SAID = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "acdsee": "http://ns.acdsee.com/iptc/1.0/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "Iptc4xmpCore": "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
}


def said(**properties: str) -> bytes:
    """An XMP packet with these properties, such as ``dc_title``."""
    spaces = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in SAID.items())
    fields = (f"<{name.replace('_', ':')}>{text}</{name.replace('_', ':')}>" for name, text in properties.items())
    return f"<r {spaces}>{''.join(fields)}</r>".encode()


def test_the_first_source_of_a_caption_with_words_counts() -> None:
    xmp_texts = {"photoshop_Headline": "headline", "acdsee_notes": "notes", "acdsee_caption": "caption"}
    xmp_texts |= {"dc_description": "description", "dc_title": "title", "tiff_ImageDescription": "tiff"}
    xmp_texts["Iptc4xmpCore_AltTextAccessibility"] = "alternative"
    others = {"iptc": field(2, 120, b"iptc"), "exif": b"exif", "comment": b"ASCII\0\0\0comment"}
    removed = ("dc_description", "acdsee_caption", "acdsee_notes", "tiff_ImageDescription", "iptc", "exif", "comment")
    removed += ("photoshop_Headline", "Iptc4xmpCore_AltTextAccessibility")
    expected = ["description", "caption", "notes", "tiff", "iptc", "exif", "comment", "headline", "alternative"]
    made = []
    for name in removed:
        made.append(embedded_caption(SETTINGS, xmp=said(**xmp_texts), **others))  # type: ignore[arg-type]
        xmp_texts.pop(name, None)
        others.pop(name, None)
    assert made == expected
    assert embedded_caption(SETTINGS, xmp=said(**xmp_texts)) is None
    assert xmp.description(io.BytesIO(said(**xmp_texts))) == "title"
    assert xmp.description(io.BytesIO(said(Iptc4xmpCore_AltTextAccessibility="alternative"))) == "alternative"
    assert xmp.description(io.BytesIO(said(**xmp_texts, photoshop_Headline="headline"))) == "headline"
    assert embedded_caption(SETTINGS, xmp=said(dc_description="SONY DSC", acdsee_notes="A boat")) == "A boat"


WORDS = "Ein Möwenpaar über dem Hafen"


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        (b"ASCII\0\0\0A boat  \0\0", "A boat"),
        (b"ASCII\0\0\0" + WORDS.encode(), WORDS),
        (b"ASCII\0\0\0" + WORDS.encode("cp1252"), WORDS),
        (bytes(8) + b"A boat", "A boat"),
        *((b"UNICODE\0" + WORDS.encode(codec), WORDS) for codec in ("utf-16", "utf-16-le", "utf-16-be")),
        *((b"UNICODE\0" + "港の船とかもめ".encode(codec), "港の船とかもめ") for codec in ("utf-16-le", "utf-16-be")),
        (b"UNICODE\0" + WORDS.encode("utf-16-le") + b"\0", WORDS),
        (b"UNICODE\0\0\xd8", None),
        (b"JIS\0\0\0\0\0" + "港の船".encode("iso2022_jp"), "港の船"),
        (b"A boat without a code", None),
        (b"", None),
        (bytes(8), None),
        (bytes(200), None),
        (b"ASCII\0\0\0" + bytes(100), None),
        (b"ASCII\0\0\0ASCII\0\0\0", None),
        (b"ASCII\0\0\0" + b" " * 100, None),
        (b'ASCII\0\0\0{"prompt": "a boat"}', None),
        (b"ASCII\0\0\0filter: 0; fileterIntensity: 0.0; filterMask: 0; ", None),
        (b"ASCII\0\0\0ZoomRatio=1.0\nHdr=true", None),
        (b"ASCII\0\0\0oplus_32", None),
        (b"UNICODE\0" + "a boat\nSteps: 20, Sampler: Euler, Seed: 1".encode("utf-16-be"), None),
        (b"ASCII\0\0\0Left: Anna; right: Bob", "Left: Anna; right: Bob"),
        (b"ASCII\0\0\0Steps: to the harbour", "Steps: to the harbour"),
        *(
            (b"ASCII\0\0\0" + text.encode(), text)
            for text in (
                "Title: Old mill; Year: 1931",
                "Year: 1931; Sheet: 12",
                "Title: Old mill\nPlace: Ulm\nYear: 1931\nSheet: 12",
                "IMG_1234 at the beach",
                "Processed by hand at the mill",
                "Made in Adobe brick, the church of San Miguel",
                "Casio computer museum, Tokyo",
                "Digimax the cat",
                "FilterMask: ball, Venice",
                "[Portrait of Anna]",
                "{Beach}",
                "<b>Old mill</b> in 1931",
                "Aperio Hills, sunset",
                "1984",
            )
        ),
    ],
)
def test_a_user_comment_is_a_caption_if_it_has_words(comment: bytes, expected: str | None) -> None:
    assert embedded_caption(SETTINGS, comment=comment) == expected


def test_a_comment_that_is_hard_to_tell_from_parameters_is_read_in_reasonable_time() -> None:
    begun = time.monotonic()
    comment = b"ASCII\0\0\0" + b"a b:1;     " * 5_000 + b"!"
    assert embedded_caption(Settings(max_text_chars=1_000_000), comment=comment) is not None
    assert time.monotonic() - begun < 5


ENTITY = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><x>&b;</x>'
EXTERNAL = b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>'


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (ENTITY, MediaRejected),
        (EXTERNAL, MediaRejected),
        (b"<!DOCTYPE x SYSTEM 'http://host/x.dtd'><x/>", MediaRejected),
        (b"<a>" * 200 + b"</a>" * 200, MediaRejected),
        (b"<a>&b;</a>", MediaRejected),
        (b"<?xml version='1.0' encoding='nonsense'?><a/>", MediaRejected),
        (b"", MediaRejected),
        (b"<a>" + b" " * xmp.MAX_BYTES + b"</a>", TooLarge),
    ],
)
def test_hostile_xml_is_refused(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        xmp.description(io.BytesIO(data))
    assert embedded_caption(SETTINGS, xmp=data, exif="A boat") == "A boat"


def test_properties_inside_of_each_other_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(xmp, "_texts", lambda element: read.append(element.tag) or ["A boat"])
    inner = b"<dc:title><dc:description>" * 45 + b"x" + b"</dc:description></dc:title>" * 45
    data = b'<r xmlns:dc="http://purl.org/dc/elements/1.1/">' + inner + b"</r>"
    assert xmp.properties(io.BytesIO(data)) == {xmp.TITLE: "A boat"}
    assert read == [xmp.TITLE]


def test_a_property_may_be_written_as_an_attribute() -> None:
    data = b'<r xmlns:dc="http://purl.org/dc/elements/1.1/" dc:description="A boat"/>'
    assert xmp.description(io.BytesIO(data)) == "A boat"


@given(
    st.binary(max_size=60) | st.binary(max_size=20).map(lambda end: packet(description="x")[: -len(end) or None] + end),
    st.binary(max_size=60).map(lambda data: b"\x1c\x02\x78" + data) | st.binary(max_size=60).map(lambda d: b"8BIM" + d),
    st.binary(max_size=60) | st.text(max_size=60),
    st.tuples(st.sampled_from([b"ASCII\0\0\0", b"UNICODE\0", b"JIS\0\0\0\0\0", bytes(8)]), st.binary(max_size=60)).map(
        b"".join
    ),
)
def test_any_bytes_give_a_clean_caption_or_none(packet_: bytes, iptc: bytes, exif: bytes | str, comment: bytes) -> None:
    caption = embedded_caption(SETTINGS, xmp=packet_, iptc=iptc, exif=exif, comment=comment)
    assert caption is None or (caption == caption.strip() and 0 < len(caption) <= 200 and "\0" not in caption)
