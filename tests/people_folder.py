"""A folder as people have it: umlauts, phones and cameras, films, captions of four kinds, clutter, damage."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pillow_heif
from PIL import Image
from tests.unit.media.films import film
from tests.unit.media.raws import dng
from tests.unit.media.samples import encoded, noise, picture

_SIZE = (320, 240)
pillow_heif.register_heif_opener()

ROOT = "Archiv"
_SHEET = "file_name;text;mood\nIMG_0001.jpg;a ferry of 2023;calm\nIMG_0009.jpg;is missing;\n"


def _phone_picture(seed: int) -> bytes:
    """A JPEG that is stored lying on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(noise(seed, _SIZE), "JPEG", exif=exif)


def _pages(kind: str) -> bytes:
    first, second = noise(20, _SIZE), noise(21, _SIZE)
    return encoded(first, kind, save_all=True, append_images=[second])


def _files() -> dict[str, bytes]:
    decomposed = unicodedata.normalize("NFD", "Überfahrt")
    coco = {
        "images": [{"id": 7, "file_name": "IMG_0005.jpg"}],
        "annotations": [{"image_id": 7, "caption": "a pier"}, {"image_id": 7, "caption": "a long pier"}],
    }
    return {
        # two folders with the same names, each with its own sheet
        "2023/Fähre/IMG_0001.jpg": _phone_picture(1),
        "2023/Fähre/metadata.csv": _SHEET.encode(),
        "2024/Fähre/IMG_0001.jpg": _phone_picture(2),
        "2024/Fähre/metadata.jsonl": b'{"image_path": "IMG_0001.jpg", "caption": "a ferry of 2024"}\n',
        "2024/IMG_0005.jpg": _phone_picture(3),
        "2024/coco.json": json.dumps(coco).encode(),
        f"{decomposed}/Möwe.png": picture(4, _SIZE),
        f"{decomposed}/Möwe.txt": b"a gull",
        "Takeout/Hafen.jpg": _phone_picture(5),
        "Takeout/Hafen.jpg.json": b'{"title": "Hafen.jpg", "description": "the port"}',
        "Notizen.txt": b"Remember the tickets.",
        "Handy/IMG_2000.HEIC": encoded(noise(6, _SIZE), "HEIF"),
        "Handy/IMG_2001.avif": encoded(noise(7, _SIZE), "AVIF"),
        "Kamera/DSC_1.dng": dng(),
        "Film/Abfahrt.mp4": film([noise(8, (160, 128)), noise(9, (160, 128))]),
        "Scan/Brief.pdf": _pages("PDF"),
        "Scan/Seiten.tif": _pages("TIFF"),
        "Scan/Kopie.jpg": _phone_picture(1),
        # clutter
        ".DS_Store": b"x",
        "2023/Thumbs.db": b"x",
        "2023/@eaDir/IMG_0001.jpg/SYNOPHOTO_THUMB_M.jpg": picture(1),
        # broken
        "Kaputt/abgeschnitten.jpg": _phone_picture(10)[:2000],
        "Kaputt/leer.png": b"",
        "Kaputt/Seite.jpg": b"<!doctype html><p>404</p>",
        "Kaputt/Vertrag.doc": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504),
    }


def write(folder: Path) -> Path:
    """Write the folder into ``folder``; return its path."""
    for name, content in _files().items():
        path = folder / ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / ROOT


STATUSES = {
    f"{ROOT}/2023/Fähre/IMG_0001.jpg": "added",
    f"{ROOT}/2023/Fähre/metadata.csv": "read",
    f"{ROOT}/2023/Fähre/metadata.csv, row 2": "updated",
    f"{ROOT}/2023/Fähre/metadata.csv, row 3": "rejected",
    f"{ROOT}/2024/Fähre/IMG_0001.jpg": "added",
    f"{ROOT}/2024/Fähre/metadata.jsonl": "read",
    f"{ROOT}/2024/Fähre/metadata.jsonl, row 1": "updated",
    f"{ROOT}/2024/IMG_0005.jpg": "added",
    f"{ROOT}/2024/coco.json": "read",
    f"{ROOT}/Überfahrt/Möwe.png": "added",
    f"{ROOT}/Überfahrt/Möwe.txt": "updated",
    f"{ROOT}/Takeout/Hafen.jpg": "added",
    f"{ROOT}/Takeout/Hafen.jpg.json": "updated",
    f"{ROOT}/Notizen.txt": "added",
    f"{ROOT}/Handy/IMG_2000.HEIC": "added",
    f"{ROOT}/Handy/IMG_2001.avif": "added",
    f"{ROOT}/Kamera/DSC_1.dng": "added",
    f"{ROOT}/Film/Abfahrt.mp4": "read",
    f"{ROOT}/Scan/Brief.pdf": "read",
    f"{ROOT}/Scan/Brief.pdf, page 1": "added",
    f"{ROOT}/Scan/Brief.pdf, page 2": "added",
    f"{ROOT}/Scan/Seiten.tif": "read",
    f"{ROOT}/Scan/Seiten.tif, page 1": "added",
    f"{ROOT}/Scan/Seiten.tif, page 2": "added",
    f"{ROOT}/Scan/Kopie.jpg": "duplicate",
    f"{ROOT}/.DS_Store": "ignored",
    f"{ROOT}/2023/Thumbs.db": "ignored",
    f"{ROOT}/2023/@eaDir": "ignored",
    f"{ROOT}/Kaputt/abgeschnitten.jpg": "rejected",
    f"{ROOT}/Kaputt/leer.png": "rejected",
    f"{ROOT}/Kaputt/Seite.jpg": "rejected",
    f"{ROOT}/Kaputt/Vertrag.doc": "rejected",
}
"""What becomes of each file, row and page, without the row of COCO's sheet and the scenes of the film."""

CAPTIONS = {
    f"{ROOT}/2023/Fähre/IMG_0001.jpg": "a ferry of 2023",
    f"{ROOT}/2024/Fähre/IMG_0001.jpg": "a ferry of 2024",
    f"{ROOT}/2024/IMG_0005.jpg": "a pier\na long pier",
    f"{ROOT}/Überfahrt/Möwe.png": "a gull",
    f"{ROOT}/Takeout/Hafen.jpg": "the port",
    f"{ROOT}/Notizen.txt": "Remember the tickets.",
}
