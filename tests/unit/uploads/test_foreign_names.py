"""Archives of systems whose names are in an old encoding, with a sheet that names the pictures in UTF-8."""

from __future__ import annotations

import pytest
from tests.unit.media import handmade, handmade_tars
from tests.unit.media.handmade import Entry, unicode_path
from tests.unit.uploads.conftest import Uploads, picture

from retllm.media.names import coded

NAMES = {
    "cp437": ("Größe/Möwe.png", "Größe/Café.png"),
    "cp866": ("фото/море.png", "фото/кот.png"),
    "cp932": ("写真/表示.png", "写真/猫.png"),
    "euc_jp": ("写真/東京タワー.png", "写真/猫.png"),
    "euc_kr": ("사진/고양이.png", "사진/가족.png"),
    "gbk": ("照片/北京旅游.png", "照片/猫.png"),
    "big5": ("照片/台北旅遊.png", "照片/圖片.png"),
    "tis_620": ("รูปภาพ/ทะเล.png", "รูปภาพ/แมว.png"),
    "cp1256": ("مجلد جديد/البحر.png", "مجلد جديد/قطة.png"),
    "cp1251": ("Новая папка/море.png", "Новая папка/кот.png"),
}


def of(kind: str, files: dict[bytes, bytes]) -> bytes:
    if kind == "zip":
        return handmade.made([Entry(name, content) for name, content in files.items()])
    return handmade_tars.made([handmade_tars.entry(name, content) for name, content in files.items()])


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_pictures_get_their_captions_by_their_names_in_an_old_encoding(kind: str, uploads: Uploads) -> None:
    archives, expected = {}, {}
    for number, (codec, names) in enumerate(NAMES.items()):
        sheet = "file,caption\n" + "".join(f"{name},{codec} {place}\n" for place, name in enumerate(names))
        files = {name.encode(codec): picture(2 * number + place) for place, name in enumerate(names)}
        archives[f"{codec}.{kind}"] = of(kind, {**files, b"captions.csv": sheet.encode()})
        expected |= {name: f"{codec} {place}" for place, name in enumerate(names)}
    job_id = uploads.open(index=False)
    uploads.send(job_id, archives)
    uploads.close(job_id)
    uploads.run(job_id)
    assert {name: item.text for name, item in uploads.items().items()} == expected


def test_pictures_get_their_captions_by_their_unicode_paths(uploads: Uploads) -> None:
    """As WinZip and WinRAR write them beside a name in the encoding of the system, or beside one that was lost."""
    paths = {"猫.png".encode("cp932"): "猫.png", b"?????.png": "фото/кот.png"}
    sheet = "file,caption\n" + "".join(f"{path},of {path}\n" for path in paths.values())
    entries = [Entry(name, picture(n), extra=unicode_path(name, paths[name])) for n, name in enumerate(paths)]
    uploads.upload({"a.zip": handmade.made([*entries, Entry(b"c.csv", sheet.encode())])}, index=False)
    expected = {path: f"of {path}" for path in paths.values()}
    assert {name: item.text for name, item in uploads.items().items()} == expected


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("order", [1, -1])
def test_files_whose_names_are_the_same_in_two_encodings_are_told_apart(
    kind: str, order: int, uploads: Uploads
) -> None:
    """They have the codes that the command gives them in a folder."""
    files = {
        "d/M\u00fcller.png".encode(): picture(1),
        b"d/M\xfcller.png": picture(2),
        "d/M\u00fcller.txt".encode(): b"in UTF-8",
        b"d/M\xfcller.txt": b"in Windows-1252",
        b"d/K\xf6ln.png": picture(3),
        b"d/K\xf6ln.txt": b"alone",
    }
    uploads.upload({f"a.{kind}": of(kind, dict(list(files.items())[::order]))}, index=False)
    code = coded("M\udcfcller.png").partition("~")[2]
    assert {name: item.text for name, item in uploads.items().items()} == {
        "d/M\u00fcller.png": "in UTF-8",
        f"d/M\u00fcller~{code}": "in Windows-1252",
        "d/K\u00f6ln.png": "alone",
    }
