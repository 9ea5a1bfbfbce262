"""The true names of files that are not taken, told by their first bytes or their suffix, and what to do with them."""

from __future__ import annotations

import re

from retllm.media.names import suffix_of

_SAVE = "save it as PNG"
_UNPACK = "unpack it first"
_TABLE = "save it as CSV or JSON Lines"
WORD = "a document of Word (DOCX): save it as PDF, or as plain text"
EXCEL = "a workbook of Excel (XLSX): save each sheet as CSV"
POWERPOINT = "a document of PowerPoint (PPTX): save it as PDF"
PROCREATE = f"a drawing of Procreate: {_SAVE}"
FIGMA = f"a drawing of Figma: {_SAVE}"
SCENE = f"a scene in three dimensions: {_SAVE}"
SPLIT = "part of a split archive: join the parts, then upload"
# names that 7-Zip, WinRAR, WinZip and split give the parts
_PART = re.compile(
    r"\.(z\d\d+|r\d\d|part\d+\.rar|(7z|zip|rar|tar|t?gz|t?bz2|t?xz|zst)\.(\d{3,}|a[a-z]))\Z", re.IGNORECASE
)
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
    ".key": "a document of Keynote: save it as PDF",
    ".kra": f"a drawing of Krita: {_SAVE}",
    ".ora": f"an OpenRaster drawing: {_SAVE}",
    ".odg": f"a drawing in OpenDocument (ODG): {_SAVE}",
    ".procreate": PROCREATE,
    ".sketch": f"a drawing of Sketch: {_SAVE}",
    ".xd": f"a drawing of Adobe XD: {_SAVE}",
    ".fig": FIGMA,
    ".pxd": f"a drawing of Pixelmator: {_SAVE}",
    ".vsdx": "a drawing of Visio: save it as PDF",
    ".idml": "an InDesign document: save it as PDF",
    ".xps": "a document in XPS: save it as PDF",
    ".oxps": "a document in XPS: save it as PDF",
    ".xmind": f"a mind map: {_SAVE}",
    ".ggb": f"a drawing of GeoGebra: {_SAVE}",
    ".mscz": "music in notes (MuseScore)",
    **dict.fromkeys((".usdz", ".3mf", ".fcstd"), SCENE),
    **dict.fromkeys((".apk", ".ipa", ".jar", ".xpi"), "a program, no archive of pictures"),
    ".cdr": f"a CorelDRAW drawing: {_SAVE}",
    ".svgz": f"a packed SVG drawing: {_SAVE}",
    ".fpx": f"a FlashPix picture: {_SAVE}",
}
# of formats without first bytes of their own, or with those of many files
_PICTURES = (
    ("TGA", ".tga .targa .icb .vda .vst"),
    ("PCX", ".pcx"),
    ("Photo CD", ".pcd"),
    ("WBMP", ".wbmp"),
    ("Macintosh (PICT)", ".pct .pict"),
    ("Palm", ".palm"),
    ("X window (XWD)", ".xwd"),
    ("X bitmap (XBM)", ".xbm"),
    ("X pixmap (XPM)", ".xpm"),
    ("Netpbm", ".pbm .pgm .ppm .pnm .pam .pfm"),
    ("SPIDER", ".spi .spider"),
    ("PaintTool SAI", ".sai .sai2"),
    ("AutoCAD (DXF)", ".dxf"),
    ("CGM", ".cgm"),
    ("Leica (LIF)", ".lif"),
    ("ECW", ".ecw"),
    ("DICOM", ".dcm .dicom"),
    ("Windows metafile", ".wmf .emf"),
    ("Radiance", ".hdr"),
)
_BY_NAME = {
    suffix: f"a picture by its name ({kind}): {_SAVE}" for kind, suffixes in _PICTURES for suffix in suffixes.split()
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
    (0, b"PK\x07\x08", SPLIT),
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
    *((0, b"\x0a%c\1%c" % (v, bits), f"a PCX picture: {_SAVE}") for v in b"\0\2\3\4\5" for bits in b"\1\2\4\x08"),
    (0, b"\xb1\x68\xde\x3a", f"a fax of several pages (DCX): {_SAVE}"),
    *((0, magic, f"a texture (BLP): {_SAVE}") for magic in (b"BLP1", b"BLP2")),
    (0, b"FTEX", f"a texture (FTEX): {_SAVE}"),
    (0, b"VTF\0", f"a texture (VTF): {_SAVE}"),
    (0, b"PVR\3", f"a texture (PVR): {_SAVE}"),
    (0, b"\x13\xab\xa1\x5c", f"a texture (ASTC): {_SAVE}"),
    *((4, magic, f"an animation (FLI): {_SAVE}") for magic in (b"\x11\xaf", b"\x12\xaf")),
    (20, b"GIMP", f"a brush of GIMP: {_SAVE}"),
    (0, b"GRIB", "weather data (GRIB)"),
    (0, b"BUFR", "weather data (BUFR)"),
    (0, b"\0\0\0\0\0\0\0\4", f"a McIDAS picture: {_SAVE}"),
    (2048, b"PCD_", f"a Photo CD picture: {_SAVE}"),
    (0, b"\x80\xe8\0\0", f"a picture of Pixar: {_SAVE}"),
    (0, b"\x59\xa6\x6a\x95", f"a Sun raster picture: {_SAVE}"),
    *((0, magic, f"a picture of Microsoft Paint (MSP): {_SAVE}") for magic in (b"DanM", b"LinS")),
    (0, b"\x28\0\0\0", f"a bitmap without the header of its file (DIB): {_SAVE}"),
    *((8, magic, f"a picture of the Amiga (IFF): {_SAVE}") for magic in (b"ILBM", b"PBM ")),
    *((0, magic, f"a Cineon picture: {_SAVE}") for magic in (b"\x80\x2a\x5f\xd7", b"\xd7\x5f\x2a\x80")),
    (0, b"\0\xffKA", f"a document of Affinity: {_SAVE}"),
    (0, b"CSFCHUNK", f"a drawing of Clip Studio: {_SAVE}"),
    (0, b"PDN3", f"a drawing of Paint.NET: {_SAVE}"),
    (0, b"\x97JB2\r\n\x1a\n", f"a JBIG2 picture: {_SAVE}"),
    (0, b"farbfeld", f"a farbfeld picture: {_SAVE}"),
    (0, b"msid", f"a MrSID picture: {_SAVE}"),
    (0, b"ZISRAWFILE", f"a picture of a microscope (CZI): {_SAVE}"),
    (0, b"\xda\xce\xbe\x0a", f"a picture of a microscope (ND2): {_SAVE}"),
    (208, b"MAP ", f"a picture of an electron microscope (MRC): {_SAVE}"),
    *((344, magic, f"a medical volume (NIfTI): {_SAVE}") for magic in (b"n+1\0", b"ni1\0")),
    (0, b"\x1c\3\0", f"a picture in IPTC's form: {_SAVE}"),
    (0, b"MATLAB 5.0", "data of MATLAB: save its pictures as files"),
    *((0, b"AC10%d" % number, f"an AutoCAD drawing (DWG): {_SAVE}") for number in range(10, 40)),
    (0, b"AGD", f"a FreeHand drawing: {_SAVE}"),
    (0, b"\xff\xfe\xff\x0e", f"a model of SketchUp: {_SAVE}"),
    (0, b"\1\0\x09\0\0\3", f"a Windows metafile: {_SAVE}"),
    (0, b"\xd7\xcd\xc6\x9a", f"a Windows metafile: {_SAVE}"),
    (40, b" EMF", f"a Windows metafile: {_SAVE}"),
    *((8, magic, f"a CorelDRAW drawing: {_SAVE}") for magic in (b"CDR", b"cdr")),
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
    *((opening, f"a Radiance picture: {_SAVE}") for opening in (b"#?radiance", b"#?rgbe")),
    (b"/* xpm */", f"an X pixmap (XPM): {_SAVE}"),
    (b"paint shop pro image file", f"a picture of Paint Shop Pro: {_SAVE}"),
    (b"id=imagemagick", f"a MIFF picture: {_SAVE}"),
    (b"nrrd000", f"a medical volume (NRRD): {_SAVE}"),
    (b"p7 332", f"a thumbnail of xv: {_SAVE}"),
    (b"image type: ", f"a picture of IFUNC (IM): {_SAVE}"),
    *((opening, f"a Netpbm picture: {_SAVE}") for opening in (b"p7\n", b"pf\n")),
    (b"simple  =", f"a FITS picture: {_SAVE}"),
    (b"at&tform", "a DjVu document: save its pages as PNG"),
    *((b"p%d\n" % kind, f"a Netpbm picture: {_SAVE}") for kind in range(1, 7)),
    (b"{\\rtf", "a text in RTF: save it as plain text (.txt)"),
    (b"[internetshortcut]", "a link to a web page"),
    (b"begin:vcard", "an address card"),
    (b"begin:vcalendar", "a calendar"),
)
# Git LFS, docs/spec.md: what lies in the place of a large file
_POINTER = b"version https://git-lfs.github.com/spec/"
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
    """Return what the document or part of an archive with this name is, and what to do with it; None for other names.

    Its bytes do not matter: a part of one, or one with a password, is no other file than the whole one.
    """
    return SPLIT if _PART.search(name) else _DOCUMENTS.get(suffix_of(name))


def by_suffix(name: str) -> str | None:
    """Return what a file that begins like nothing known here is by its name, and what to do with it."""
    return _BY_NAME.get(suffix_of(name))


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
    if head.startswith(_POINTER):
        return "a Git LFS pointer, not the file itself: fetch it with `git lfs pull`"
    if not textual:
        return None
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(b"<?xml"):
        return next((what for element, what in _XML if element in start), "an XML document")
    return next((what for opening, what in (*_TEXTUAL, *_XML) if start.startswith(opening)), None)


def _is_words(magic: bytes) -> bool:
    return magic.isascii() and magic.decode("ascii").isprintable()
