"""The kind of a file is detected by its content first, then by its name."""

from __future__ import annotations

import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from tests.unit.media.samples import encoded, picture

from retllm.errors import MediaRejected
from retllm.media.decoding.signatures import media_type_of
from retllm.media.sniffing import FileKind, check_is_picture, sniff, whole_media_type

SPLIT = r"The file is part of a split archive: join the parts, then upload\."
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
@pytest.mark.parametrize("name", ["a.jpg", "a.txt", "a.csv", "a.zip", "a"])
def test_a_picture_is_recognized_under_any_name(kind: str, name: str) -> None:
    made = io.BytesIO()
    Image.new("RGB", (9, 9)).save(made, kind)
    assert sniff(made.getvalue()[:4096], name) is FileKind.PICTURE
    assert media_type_of(made.getvalue()[:64]) == f"image/{kind.lower()}"


@pytest.mark.parametrize("name", ["a.zip", "a.jpg", "a"])
@pytest.mark.parametrize("magic", [b"PK\x03\x04rest", b"PK\x05\x06" + bytes(18)])
def test_a_zip_is_recognized_under_any_name(name: str, magic: bytes) -> None:
    assert sniff(magic, name) is FileKind.ARCHIVE


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.txt", FileKind.TEXT),
        ("A.TXT", FileKind.TEXT),
        ("a.csv", FileKind.CSV),
        ("a.tsv", FileKind.CSV),
        ("a.jsonl", FileKind.JSONL),
        ("a.ndjson", FileKind.JSONL),
        ("a.json", FileKind.JSONL),
    ],
)
def test_the_kind_of_a_text_file_depends_on_its_suffix(name: str, kind: FileKind) -> None:
    assert sniff(b"file,caption\n", name) is kind
    assert sniff(b"\xef\xbb\xbfBM is a car maker", name) is kind


@pytest.mark.parametrize(
    "words", ["BMW makes cars", "MZ and OTTO", "ORC with an axe", "P6\nis a car", "a blue WAVEfmt", "DDS is a texture"]
)
def test_a_text_may_begin_like_another_kind_of_file(words: str) -> None:
    assert sniff(words.encode(), "a.txt") is FileKind.TEXT
    assert sniff(words.replace("P6", "P66").encode(), "a.csv") is FileKind.CSV


def test_a_transport_stream_is_a_film() -> None:
    for start, size in ((0, 188), (4, 192)):
        data = bytearray(3 * size)
        data[start::size] = b"G" * len(data[start::size])
        assert sniff(bytes(data[:512]), "a.mts") is FileKind.FILM
        assert whole_media_type(bytes(data[:512])) == "video/mp2t"
        data[start + size] = 0
        with pytest.raises(MediaRejected, match="not such a film"):
            sniff(bytes(data[:512]), "a.mts")


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (b"", "a.jpg", "empty"),
        (b"<svg xmlns='x'/>", "a.png", "SVG"),
        (b"\xef\xbb\xbf\n <!DOCTYPE html><p>", "a.jpg", "HTML"),
        (b"<html>", "a", "HTML"),
        (b"<?xml version='1.0'?><svg/>", "a.svg", "XML"),
        (b"\0\0\0\x18ftypM4A \0\0\0\0", "a.m4a", r"a sound \(M4A\)"),
        (b"RIFF\1\0\0\0WAVEfmt ", "a.wav", r"a sound \(WAV\)"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a.jp2", "JPEG 2000"),
        (b"Rar!\x1a\x07", "a.zip", "RAR"),
        (b"\xff\xfea\0b\0", "a.md", "UTF-16"),
        (b"PAR1\x15\0", "metadata.parquet", "a Parquet table: save it as CSV or JSON Lines"),
        (b"ARROW1\0\0", "a.arrow", "an Arrow table"),
        (b"SQLite format 3\0", "a.db", "an SQLite database"),
        (b"\x93NUMPY\1\0v\0", "a.npy", "a NumPy array"),
        (b"\x80\x04\x95", "a.pkl", "a pickle of Python"),
        (b"\x28\xb5\x2f\xfd", "a.tar.zst", "compressed with Zstandard: unpack it first"),
        (b"PK\x07\x08PK\1\2", "a", SPLIT),
        (b"PK\x07\x08PK\3\4", "a.z01", SPLIT),
        (b"\1\2", "a.z10", SPLIT),
        (b"PK\3\4\x14\0", "a.zip.001", SPLIT),
        *((b"\1\2\0", name, SPLIT) for name in ("a.zip.002", "a.7z.002", "a.part2.rar", "a.r00", "a.tar.gz.aa")),
        (b"7z\xbc\xaf\x27\x1c", "a.7z.001", SPLIT),
        (b"Rar!\x1a\x07", "A.Part1.RAR", SPLIT),
        (b"Rar!\x1a\x07", "apart1.rar", "a RAR archive"),
        (b"\1\2\0", "a.zip", "pack it again. If it is part of a split archive, join the parts, then upload"),
        (POINTER, "a.png", "a Git LFS pointer, not the file itself: fetch it with `git lfs pull`"),
        (POINTER, "a.txt", "a Git LFS pointer"),
        (POINTER, "a.csv", "a Git LFS pointer"),
        (POINTER, "a", "a Git LFS pointer"),
        (b"\xff\xfb\x90\x44\0", "a.mp3", r"a sound \(MP3\)"),
        (b"OggS\0\2" + bytes(22) + b"OpusHead", "a.ogg", r"a sound \(Opus\)"),
        (b"OggS\0\2" + bytes(22) + b"\1vorbis", "a.ogg", r"a sound \(Ogg Vorbis\)"),
        (b"FORM\0\0\0\1AIFF", "a.aiff", r"a sound \(AIFF\)"),
        (b"P6\n2 2\n255\n\0\0", "a.ppm", "a Netpbm picture: save it as PNG"),
        (b"qoif\0\0", "a.qoi", "a QOI picture"),
        (b"{\\rtf1 x}", "a.rtf", r"RTF: save it as plain text"),
        (b"<?xml version='1.0'?><gpx/>", "a.gpx", "a GPX track"),
        (b"<gpx version='1.1'/>", "a.gpx", "a GPX track"),
        (b"<?xml version='1.0'?>\n<annotation>", "a.xml", "an annotation of objects"),
        (b"<?xml version='1.0'?><x/>", "a.xml", "an XML document"),
        (b"L\0\0\0\1\x14\2\0", "a.lnk", "a shortcut of Windows"),
        (b"words\0\1", "a.mp4", "named .mp4 but is not such a film"),
        (b"words\0\1", "a.zip", "not such an archive"),
        (b"words\0\1", "a.jpg", "not such a picture"),
        (b"MZ\x90\0", "a.jpg", "program"),
        (b"a\0b", "a.txt", "is unknown"),
        (b"just words", "a.jpg", "is not such a picture"),
        (b"just words", "a.zip", "not such an archive"),
        (b"just words", "a.docx", r"Word \(DOCX\): save it as PDF, or as plain text"),
        # whole or cut, with a password, or something else
        (b"PK\3\4\x14\0\6\0", "a.XLSX", r"Excel \(XLSX\): save each sheet as CSV"),
        (b"\xd0\xcf\x11\xe0\0", "a.xlsx", r"Excel \(XLSX\): save each sheet as CSV"),
        (b"\0\1", "a.xlsx", r"Excel \(XLSX\): save each sheet as CSV"),
        (b"just words", "a.xlsx", r"Excel \(XLSX\): save each sheet as CSV"),
        (b"PK\3\4\x14\0\6\0", "a.ods", r"OpenDocument \(ODS\): save each sheet as CSV"),
        (b"just words", "a", "is unknown"),
    ],
)
def test_other_files_are_refused_with_their_type(data: bytes, name: str, message: str) -> None:
    with pytest.raises(MediaRejected, match=message):
        sniff(data, name)


@pytest.mark.parametrize(
    ("kind", "mode", "name", "said"),
    [
        ("BLP", "P", "a.blp", r"a texture \(BLP\)"),
        ("DDS", "RGB", "a.dds", "a texture"),
        ("DIB", "RGB", "a.dib", r"a bitmap without the header of its file \(DIB\)"),
        ("EPS", "RGB", "a.eps", "a PostScript drawing"),
        ("ICNS", "RGB", "a.icns", "an icon"),
        ("ICO", "RGB", "a.ico", "an icon"),
        ("JPEG2000", "RGB", "a.jp2", "a JPEG 2000 picture"),
        ("MSP", "1", "a.msp", "a picture of Microsoft Paint"),
        ("PALM", "1", "a.palm", r"a picture by its name \(Palm\)"),
        *(("PCX", mode, "a", "a PCX picture") for mode in ("1", "L", "P", "RGB")),
        *(("PPM", mode, "a.ppm", "a .*Netpbm") for mode in ("1", "L", "RGB", "RGBA", "F")),
        ("SGI", "L", "a.bw", "a picture of Silicon Graphics"),
        ("SPIDER", "F", "a.spi", r"a picture by its name \(SPIDER\)"),
        *(("TGA", mode, "a.tga", "a .*TGA") for mode in ("1", "L", "P", "RGB", "RGBA")),
        ("XBM", "1", "a.xbm", r"a picture by its name \(X bitmap \(XBM\)\)"),
    ],
)
def test_pictures_of_formats_that_are_not_taken_are_called_by_their_names(
    kind: str, mode: str, name: str, said: str
) -> None:
    target = io.BytesIO()
    Image.new(mode, (40, 40)).save(target, kind)
    with pytest.raises(MediaRejected, match=rf"The file is {said}.*: save it as (PNG|JPEG)\. Accepted: pictures"):
        sniff(target.getvalue()[:4096], name)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"RIFF\0\1\0\0cdrAvrsn", "a CorelDRAW drawing"),
        (b"#?RGBE\nFORMAT=32-bit_rle_rgbe", "a Radiance picture"),
        (b"FORM\0\0\1\0ILBMBMHD", "a picture of the Amiga"),
        (b"/* XPM */\nstatic char *a[] = {", "an X pixmap"),
        (b"\1\0\x09\0\0\3", "a Windows metafile"),
        (b"\0\xffKA\1\0", "a document of Affinity"),
        (b"AC1032\0\0", r"an AutoCAD drawing \(DWG\)"),
        (bytes(2048) + b"PCD_IPI", "a Photo CD picture"),
        (b"\x28\0\0\0\1\2\3\0", "a bitmap without"),
        (b"\0\x10\0\0\x12\xaf\5\0", r"an animation \(FLI\)"),
        (b"\x59\xa6\x6a\x95\0\0", "a Sun raster picture"),
        (bytes(208) + b"MAP \x44\x44", "a picture of an electron microscope"),
        (b"GRIB\0\0\0\2", "weather data"),
        (b"\xff\xfe\xff\x0eS\0k\0", "a model of SketchUp"),
    ],
)
def test_files_of_other_programs_are_called_by_their_names(head: bytes, said: str) -> None:
    for name in ("a", "a.jpg", "a.bin"):
        with pytest.raises(MediaRejected, match=f"The file is {said}"):
            sniff(head, name)


@pytest.mark.parametrize("suffix", ["kra", "ora", "sketch", "procreate", "usdz", "3mf", "xd", "cdr", "key"])
def test_a_drawing_that_is_packed_as_a_zip_is_no_archive(suffix: str) -> None:
    with pytest.raises(MediaRejected, match=r"The file is an? .*: save it as P"):
        sniff(b"PK\3\4\x14\0", f"a.{suffix}")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\0\0\0\x18ftypisom\0\0\2\0isommp41", "MP4"),
        (b"\0\0\0\x14ftypqt  \0\0\2\0qt  ", "MOV"),
        (b"\0\0\0\x08wide\0\0\1\0mdat", "MOV"),
        (b"\0\0\0\x18ftyp3gp5", "3GP"),
        (b"\x1a\x45\xdf\xa3\x01\0", "Matroska or WebM"),
        (b"RIFF\1\0\0\0AVI LIST", "AVI"),
        ((b"G" + bytes(187)) * 3, "MPEG transport stream"),
        ((bytes(4) + b"G" + bytes(187)) * 3, "MPEG transport stream"),  # of a camera
    ],
)
def test_films_are_recognized_under_any_name(data: bytes, what: str) -> None:
    for name in ("a.jpg", "a.txt", "a"):
        assert sniff(data, name) is FileKind.FILM
    with pytest.raises(MediaRejected, match=rf"The file is a film \({what}\)"):
        check_is_picture(data)
    assert sniff(b"far wide", "a.txt") is FileKind.TEXT


@pytest.mark.parametrize("before", [b"", b"\r\n", b"\xef\xbb\xbf", b" \n\t"])
def test_a_pdf_may_begin_with_an_empty_line(before: bytes) -> None:
    assert sniff(before + b"%PDF-1.7\n", "a.jpg") is FileKind.PDF
    assert whole_media_type(before + b"%PDF-1.7\n") == "application/pdf"
    with pytest.raises(MediaRejected, match="The file is a PDF"):
        check_is_picture(before + b"%PDF-1.7\n")


@pytest.mark.parametrize("word", ["MZ", "FLIF", "qoif", "icns", "SDPX", "DDS "])
def test_a_text_may_begin_with_the_letters_of_another_format(word: str) -> None:
    assert sniff(f"{word} and so on".encode(), "a.txt") is FileKind.TEXT
    with pytest.raises(MediaRejected, match="The file is a"):
        sniff(word.encode() + bytes(9), "a.txt")


def test_pictures_of_formats_that_stay_out_are_called_by_their_name() -> None:
    made = Image.new("RGB", (20, 20), "red")
    for kind, what in {"TGA": "TGA", "DDS": "DDS", "SGI": "SGI", "ICO": "an icon"}.items():
        data = encoded(made, kind)
        for check in (check_is_picture, lambda head: sniff(head, "a.jpg")):
            with pytest.raises(MediaRejected, match=what):
                check(data)


@pytest.mark.parametrize(
    ("brands", "media_type"),
    [
        *((brand, "image/heic") for brand in ("heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1")),
        ("mif1heic", "image/heic"),
        ("mif1avifmiaf", "image/avif"),
        ("mif1heicavif", "image/heic"),
        ("MiHBmif1heic", "image/heic"),
        ("avif", "image/avif"),
        ("miafavifmif1", "image/avif"),
        ("MA1Bavifmif1miaf", "image/avif"),
        *((brand, "image/heic") for brand in ("avci", "j2ki", "vvic", "jpeg", "miaf")),
        ("avis", "image/avif"),
        ("avismsf1avif", "image/avif"),
        ("crx ", "image/x-canon-cr3"),
        ("isommp42", None),
        ("qt  ", None),
    ],
)
def test_pictures_and_films_with_the_same_container_are_told_apart_by_their_brands(
    brands: str, media_type: str | None
) -> None:
    major, compatible = brands[:4].encode(), brands[4:].encode()
    box = (16 + len(compatible)).to_bytes(4, "big") + b"ftyp" + major + bytes(4) + compatible
    assert media_type_of(box + b"\0\0\0\x08mdatheicavif") == media_type


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "The file is empty"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", r"The file is a film \(MP4\)"),
        (b"%PDF-1.7\n", "The file is a PDF"),
        (b"<svg xmlns='x'/>", "The file is an SVG drawing"),
        (b"PK\x03\x04", "The file is a ZIP archive"),
    ],
)
def test_a_file_that_should_be_a_picture_is_called_by_its_true_name(data: bytes, message: str) -> None:
    with pytest.raises(MediaRejected, match=message):
        check_is_picture(data)


PICTURES = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"\xff\x0a",
)
OTHERS = (b"", b"PK\x03\x04", b"PK\x05\x06", b"%PDF-", b"MZ", b"\x7fELF", b"Rar!", b"<svg>", b"BM", b"RIFF", b"words\0")
BY_NAME = {".txt": FileKind.TEXT, ".csv": FileKind.CSV, ".tsv": FileKind.CSV, ".jsonl": FileKind.JSONL}


def _is_picture(data: bytes) -> bool:
    webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    return data.startswith(PICTURES) or webp or (data[:2] == b"BM" and data[6:10] == bytes(4))


@given(
    st.sampled_from(PICTURES + OTHERS),
    st.binary(max_size=300) | st.text(max_size=100).map(str.encode),
    st.text(max_size=5),
    st.sampled_from(["", ".jpg", ".png", ".zip", ".exe", *BY_NAME]),
)
@example(b"words\0", b"", "", ".txt")
@example(b"words\0", b"words" * 3, "", ".csv")
@example(b"words", b"", "", ".jpg")
@example(b"words", b"", "", ".exe")
def test_any_data_has_one_kind_or_is_refused(begin: bytes, rest: bytes, name: str, suffix: str) -> None:
    """Pictures and archives are recognized by their first bytes, others by name; only sheets may have a few zeros."""
    data = begin + rest
    try:
        kind: FileKind | None = sniff(data, "a" + name.replace(".", "") + suffix)
    except MediaRejected:
        kind = None
    if _is_picture(data):
        assert kind is FileKind.PICTURE
    elif data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        assert kind is FileKind.ARCHIVE
    elif data.startswith(b"%PDF-"):
        assert kind is FileKind.PDF
    else:
        without = [line for line in data.splitlines() if b"\0" not in line]
        has_few = data.count(0) * 20 <= len(data) or len(without) * 2 >= len(data.splitlines())
        is_sheet = kind in (FileKind.CSV, FileKind.JSONL)
        assert kind is None or (kind is BY_NAME.get(suffix) and (b"\0" not in data or (is_sheet and has_few)))


@pytest.mark.parametrize("zeros", [1, 4, 100])
def test_a_sheet_may_have_zeros_in_few_of_its_lines(zeros: int) -> None:
    for name, kind in (("a.csv", FileKind.CSV), ("a.json", FileKind.JSONL), ("a.jsonl", FileKind.JSONL)):
        assert sniff(b"file,caption\na.png,one%s\nb.png,two\n" % bytes(zeros), name) is kind
    assert sniff(b'[{"file": "a.png", "caption": "one\0"}]', "a.json") is FileKind.JSONL
    with pytest.raises(MediaRejected, match="kind of the file is unknown"):
        sniff(b"one cat\0 and two dogs\n", "a.txt")
    for codec in ("utf-16-be", "utf-16-le", "utf-32-be"):
        for name in ("a.csv", "a.json"):
            with pytest.raises(MediaRejected, match="zeros, as in UTF-16 or UTF-32: save it as UTF-8"):
                sniff("file,caption\na.png,one\n".encode(codec), name)


@pytest.mark.parametrize(("kind", "name"), [("PNG", "a.png"), ("JPEG", "a.jpg")])
@pytest.mark.parametrize("before", [b"\r\n", bytes(8)])
def test_data_before_a_picture_is_said(before: bytes, kind: str, name: str) -> None:
    with pytest.raises(MediaRejected, match="other data before its picture: export it again"):
        sniff(before + picture(kind=kind), name)
