"""The accepted formats of pictures."""

from __future__ import annotations

# by the name that the decoder gives: media type and file suffix. Types without registration are those of
# freedesktop.org's shared MIME database.
_FORMATS = {
    "JPEG": ("image/jpeg", ".jpg"),
    # written by some phones and cameras: a JPEG followed by further pictures
    "MPO": ("image/jpeg", ".jpg"),
    "PNG": ("image/png", ".png"),
    "WEBP": ("image/webp", ".webp"),
    "GIF": ("image/gif", ".gif"),
    "TIFF": ("image/tiff", ".tif"),
    "BMP": ("image/bmp", ".bmp"),
    "HEIF": ("image/heic", ".heic"),
    "AVIF": ("image/avif", ".avif"),
    "JXL": ("image/jxl", ".jxl"),
    "PSD": ("image/vnd.adobe.photoshop", ".psd"),
    "ARW": ("image/x-sony-arw", ".arw"),
    "CR2": ("image/x-canon-cr2", ".cr2"),
    "CR3": ("image/x-canon-cr3", ".cr3"),
    "CRW": ("image/x-canon-crw", ".crw"),
    "DNG": ("image/x-adobe-dng", ".dng"),
    "MRW": ("image/x-minolta-mrw", ".mrw"),
    "NEF": ("image/x-nikon-nef", ".nef"),
    "ORF": ("image/x-olympus-orf", ".orf"),
    "PEF": ("image/x-pentax-pef", ".pef"),
    "RAF": ("image/x-fuji-raf", ".raf"),
    "RW2": ("image/x-panasonic-rw2", ".rw2"),
    "SRW": ("image/x-samsung-srw", ".srw"),
    "X3F": ("image/x-sigma-x3f", ".x3f"),
    # another camera's
    "RAW": ("image/x-dcraw", ".raw"),
}
MEDIA_TYPES = {name: media_type for name, (media_type, _) in _FORMATS.items()}
"""Media type of each format by the name that the decoder gives it."""
SUFFIXES = dict(_FORMATS.values())
"""File suffix of each media type of stored pictures."""
WHOLE_SUFFIXES = {
    "image/tiff": ".tif",
    "application/pdf": ".pdf",
    "video/mp4": ".mp4",
    "video/quicktime": ".mov",
    "video/3gpp": ".3gp",
    "video/x-matroska": ".mkv",
    "video/x-msvideo": ".avi",
    "video/x-flv": ".flv",
    "video/mpeg": ".mpg",
    "video/x-ms-wmv": ".wmv",
    "video/ogg": ".ogv",
    "video/mp2t": ".ts",
}
"""File suffix of each media type of a stored file of several pictures."""
PICTURE_FORMATS = "JPEG, PNG, WebP, GIF, TIFF, BMP, HEIC, AVIF, JPEG XL, Photoshop (PSD, PSB) and raw files of cameras"
"""The accepted formats, for people."""
_OTHER_SUFFIXES = ".jpeg .jpe .jfif .apng .tiff .dib .mpo .heif .hif .psb " + (
    ".nrw .srf .sr2 .3fr .erf .fff .iiq .kdc .mef .mos .rwl"  # of cameras
)
PICTURE_SUFFIXES = frozenset((*SUFFIXES.values(), *_OTHER_SUFFIXES.split()))
"""Suffixes of the names of pictures."""
