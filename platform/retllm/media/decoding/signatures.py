"""Media types by the first bytes of a file."""

from __future__ import annotations

_PICTURES = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
    b"II+\0": "image/tiff",
    b"MM\0+": "image/tiff",
    b"\xff\x0a": "image/jxl",
    b"\0\0\0\x0cJXL \r\n\x87\n": "image/jxl",
    b"8BPS\0\1": "image/vnd.adobe.photoshop",
    b"8BPS\0\2": "image/vnd.adobe.photoshop",
    # cameras whose raw files are not a kind of TIFF by their signature
    b"FUJIFILMCCD-RAW": "image/x-fuji-raf",
    b"IIRO": "image/x-olympus-orf",
    b"IIRS": "image/x-olympus-orf",
    b"MMOR": "image/x-olympus-orf",
    b"IIU\0": "image/x-panasonic-rw2",
    b"II\x1a\0\0\0HEAPCCDR": "image/x-canon-crw",
    b"FOVb\0": "image/x-sigma-x3f",
    b"\0MRM": "image/x-minolta-mrw",
}
_AVIF = {b"avif", b"avis"}
# ISO/IEC 23008-12: pictures and sequences by their codec (HEVC, then AVC, VVC, EVC, JPEG, JPEG 2000), and the brands
# that name none. Those that can't be decoded are here so that they are not taken for films.
_CODECS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_OTHER_CODECS = {b"avci", b"avcs", b"vvic", b"vvis", b"evbi", b"evbs", b"jpeg", b"jpgs", b"j2ki", b"j2is"}
_CONTAINERS = {b"mif1", b"mif2", b"msf1", b"miaf", b"MiPr"}


def media_type_of(head: bytes) -> str | None:
    """Return the media type of a picture by its first bytes (at least 64), without parsing; None if not a picture.

    Most raw files of cameras are a kind of TIFF and are told from one by their tags only.
    """
    for magic, media_type in _PICTURES.items():
        if head.startswith(magic):
            return media_type
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:8] == b"ftyp":
        return _by_brands(head)
    # the signature of BMP has only two bytes, so also require its reserved bytes to be zero
    return "image/bmp" if head[:2] == b"BM" and head[6:10] == bytes(4) else None


def _by_brands(head: bytes) -> str | None:
    """Return the type of a picture in the ISO base media file format, in which films are stored too."""
    length = min(int.from_bytes(head[:4], "big"), len(head))
    major, brands = head[8:12], {head[at : at + 4] for at in range(16, length - 3, 4)}
    if major == b"crx ":
        return "image/x-canon-cr3"
    if major in _AVIF or (brands & _AVIF and not {major, *brands} & _CODECS):
        return "image/avif"
    return "image/heic" if {major} & (_CODECS | _OTHER_CODECS | _CONTAINERS) or b"mif1" in brands else None
