"""The true names of files that are not taken, told by their first bytes or their suffix, and what to do with them."""

from __future__ import annotations

from retllm.media.names import suffix_of

_SAVE = "save it as PNG"
_UNPACK = "unpack it first"
_TABLE = "save it as CSV or JSON Lines"
WORD = "a document of Word (DOCX): save it as PDF, or as plain text"
EXCEL = "a workbook of Excel (XLSX): save each sheet as CSV"
POWERPOINT = "a document of PowerPoint (PPTX): save it as PDF"
_TEXT_DOCUMENT = "save it as PDF, or as plain text"
_DOCUMENTS = {
    ".docx": WORD,
    ".docm": WORD,
    ".doc": f"a document of Word (DOC): {_TEXT_DOCUMENT}",
    ".xlsx": EXCEL,
    ".xlsm": EXCEL,
    ".xlsb": "a workbook of Excel (XLSB): save each sheet as CSV",
    ".xls": "a workbook of Excel (XLS): save each sheet as CSV",
    ".pptx": POWERPOINT,
    ".pptm": POWERPOINT,
    ".ppt": "a document of PowerPoint (PPT): save it as PDF",
    ".odt": f"a document in OpenDocument (ODT): {_TEXT_DOCUMENT}",
    ".ods": "a workbook in OpenDocument (ODS): save each sheet as CSV",
    ".odp": "a document in OpenDocument (ODP): save it as PDF",
    ".pages": f"a document of Pages: {_TEXT_DOCUMENT}",
    ".numbers": "a workbook of Numbers: save each sheet as CSV",
    ".epub": "a document in EPUB: save it as PDF",
}
# offset, first bytes, what it is
_BINARY: tuple[tuple[int, bytes, str], ...] = (
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive: send a ZIP"),
    (0, b"Rar!\x1a\x07", "a RAR archive: send a ZIP"),
    (0, b"\x28\xb5\x2f\xfd", f"compressed with Zstandard: {_UNPACK}"),
    (0, b"\x04\x22\x4d\x18", f"compressed with LZ4: {_UNPACK}"),
    (0, b"\x1f\x9d", f"compressed with compress: {_UNPACK}"),
    (0, b"LZIP", f"compressed with lzip: {_UNPACK}"),
    (0, b"\x5d\0\0\x80\0", f"compressed with LZMA: {_UNPACK}"),
    (0, b"MSCF", f"a cabinet of Windows: {_UNPACK}"),
    (0, b"PK\x07\x08", "a part of a ZIP in several parts: join them to one ZIP"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 picture: save it as JPEG"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture: save it as JPEG"),
    (0, b"II\xbc\x01", "a JPEG XR picture: save it as JPEG"),
    (0, b"\xc5\xd0\xd3\xc6", f"a PostScript drawing: {_SAVE}"),
    (0, b"v/1\x01", f"an OpenEXR picture: {_SAVE}"),
    (0, b"\0\0\1\0", f"an icon: {_SAVE}"),
    (0, b"\0\0\2\0\1", f"a mouse pointer: {_SAVE}"),
    (8, b"ACON", f"a mouse pointer: {_SAVE}"),
    (128, b"DICM", f"a DICOM picture: {_SAVE}"),
    (0, b"DDS ", f"a texture (DDS): {_SAVE}"),
    (0, b"\xabKTX ", f"a texture (KTX): {_SAVE}"),
    (0, b"qoif", f"a QOI picture: {_SAVE}"),
    (0, b"FLIF", f"a FLIF picture: {_SAVE}"),
    (0, b"BPG\xfb", f"a BPG picture: {_SAVE}"),
    *((0, b"\x01\xda%c" % packed, f"a picture of Silicon Graphics (SGI): {_SAVE}") for packed in b"\0\1"),
    *((0, magic, f"a DPX picture: {_SAVE}") for magic in (b"SDPX", b"XPDS")),
    (0, b"\x8aMNG\r\n\x1a\n", f"an animation (MNG): {_SAVE}"),
    (0, b"\x8bJNG\r\n\x1a\n", f"a JNG picture: {_SAVE}"),
    (0, b"icns", f"an icon: {_SAVE}"),
    *((0, b"\0\0%c\0\0\0\0\0" % kind, f"a TGA picture: {_SAVE}") for kind in b"\2\x0a"),
    (0, b"\xd7\xcd\xc6\x9a", f"a Windows metafile: {_SAVE}"),
    (40, b" EMF", f"a Windows metafile: {_SAVE}"),
    (8, b"CDR", f"a CorelDRAW drawing: {_SAVE}"),
    (0, b"\x06\x06\xed\xf5\xd8\x1d\x46\xe5", "an InDesign document: save it as PDF"),
    (0, b"BLENDER", f"a Blender scene: {_SAVE}"),
    (0, b"\xd0\xcf\x11\xe0", "a document of Microsoft Office"),
    (0, b"PAR1", f"a Parquet table: {_TABLE}"),
    (0, b"ARROW1", f"an Arrow table: {_TABLE}"),
    (0, b"ORC", f"an ORC table: {_TABLE}"),
    (0, b"SQLite format 3\0", f"an SQLite database: {_TABLE}"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file: save its pictures and captions as files"),
    (0, b"\x93NUMPY", "a NumPy array: save its pictures as files"),
    *((0, b"\x80%c" % version, "a pickle of Python: save what it has as files") for version in range(2, 6)),
    (0, b"ID3\2", "a sound (MP3)"),
    (0, b"ID3\3", "a sound (MP3)"),
    (0, b"ID3\4", "a sound (MP3)"),
    *((0, b"\xff%c" % second, "a sound (MP3)") for second in b"\xfb\xfa\xf3\xf2"),
    *((0, b"\xff%c" % second, "a sound (AAC)") for second in b"\xf1\xf9"),
    (0, b"fLaC\0", "a sound (FLAC)"),
    (8, b"WAVE", "a sound (WAV)"),
    (8, b"AIF", "a sound (AIFF)"),
    (4, b"ftypM4A", "a sound (M4A)"),
    (4, b"ftypM4B", "a sound (M4B)"),
    (28, b"OpusHead", "a sound (Opus)"),
    (28, b"\1vorbis", "a sound (Ogg Vorbis)"),
    (28, b"\x7fFLAC", "a sound (Ogg FLAC)"),
    (28, b"Speex   ", "a sound (Ogg Speex)"),
    (0, b"MThd", "music in notes (MIDI)"),
    (0, b"#!AMR", "a sound (AMR)"),
    (0, b"\xff\xfe", "a text in UTF-16: save it as UTF-8"),
    (0, b"\xfe\xff", "a text in UTF-16: save it as UTF-8"),
    (0, b"\0\1\0\0\0", "a font"),
    (0, b"OTTO", "a font"),
    (0, b"wOFF", "a font"),
    (0, b"wOF2", "a font"),
    (0, b"L\0\0\0\1\x14\2\0", "a shortcut of Windows: send the file that it points to"),
    (0, b"bplist00", "a property list of macOS"),
    (0, b"MZ", "a program"),
    (0, b"\x7fELF", "a program"),
    (0, b"\xca\xfe\xba\xbe", "a program"),
    (0, b"\xcf\xfa\xed\xfe", "a program"),
    (0, b"dex\n", "a program"),
)
# files that begin like a text, in lower case
_TEXTUAL = (
    (b"<svg", f"an SVG drawing: {_SAVE}"),
    (b"<!doctype svg", f"an SVG drawing: {_SAVE}"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"%!ps", f"a PostScript drawing: {_SAVE}"),
    (b"gimp xcf", "a GIMP drawing: export it as PNG"),
    (b"#?radiance", f"a Radiance picture: {_SAVE}"),
    (b"simple  =", f"a FITS picture: {_SAVE}"),
    (b"at&tform", "a DjVu document: save its pages as PNG"),
    *((b"p%d\n" % kind, f"a Netpbm picture: {_SAVE}") for kind in range(1, 7)),
    (b"{\\rtf", "a text in RTF: save it as plain text (.txt)"),
    (b"[internetshortcut]", "a link to a web page"),
    (b"begin:vcard", "an address card"),
    (b"begin:vcalendar", "a calendar"),
)
# the first element of a document in XML
_XML = (
    (b"<svg", f"an SVG drawing (XML): {_SAVE}"),
    (b"<gpx", "a GPX track (XML)"),
    (b"<kml", "a map in KML (XML)"),
    (b"<html", "an HTML page (XML)"),
    (b"<plist", "a property list of macOS (XML)"),
    (b"<annotation", "an annotation of objects (XML): write captions as CSV"),
)


def document_of(name: str) -> str | None:
    """Return what the document of an office program with this name is, and what to do with it; None for other names.

    Its bytes do not matter: a part of one, or one with a password, is no other file than the whole one.
    """
    return _DOCUMENTS.get(suffix_of(name))


def name_of(head: bytes, *, textual: bool = True) -> str | None:
    """Return what a file with these first bytes is, and what to do with it; None if it is none of those known here.

    Args:
        head: at least 512 bytes, if there are so many.
        textual: whether it can be markup; a caption may begin like that.
    """
    for offset, magic, what in _BINARY:
        # a text may begin with the same letters, but has no zero
        if head.startswith(magic, offset) and (b"\0" in head or not _is_words(magic)):
            return what
    if not textual:
        return None
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(b"<?xml"):
        return next((what for element, what in _XML if element in start), "an XML document")
    return next((what for opening, what in (*_TEXTUAL, *_XML) if start.startswith(opening)), None)


def _is_words(magic: bytes) -> bool:
    return magic.isascii() and magic.decode("ascii").isprintable()
