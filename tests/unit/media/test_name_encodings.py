"""Names that come as bytes are decoded as they were written, by the bytes alone."""

from __future__ import annotations

import random
import unicodedata
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retllm.media import name_encodings
from retllm.media.name_encodings import decoded, decoded_paths

NAMES = {
    "cp437": [
        "Grüße.txt",
        "Müller.png",
        "café.png",
        "Straße",
        "ÄPFEL.JPG",
        "niño.jpg",
        "été à la plage.jpg",
        "fête.jpg",
    ],
    "cp850": ["Øre.png", "São Paulo.jpg", "coração.png", "smørrebrød.jpg"],
    "cp852": ["żółw.png", "zażółć gęślą jaźń.png", "źródło.png", "příroda.jpg", "Žluťoučký kůň.png"],
    "cp866": [
        "фото.png",
        "Москва.jpg",
        "ФОТО 2019.jpg",
        "каникулы/море.png",
        "ёлка.png",
        "Новая папка/рисунок.png",
        "кот.jpg",
    ],
    "cp932": [
        "写真.png",
        "猫.png",
        "旅行/日本.jpg",
        "テスト.png",
        "東京タワー.jpg",
        "IMG写真01.jpg",
        "表示.png",
        "ソフト.png",
    ],
    "gbk": ["照片.png", "新建文件夹/图片.png", "北京旅游.jpg", "长城.jpg", "微信图片_2019.jpg"],
    "big5": ["照片.png", "新增資料夾/圖片.png", "台北旅遊.jpg"],
    "cp949": ["사진.png", "새 폴더/그림.png", "가족 사진.jpg", "고양이.jpg"],
    "cp1251": ["фото.png", "Москва.jpg", "День рождения.jpg"],
    "koi8-r": ["Фото/море.png", "Новая папка/кот.jpg", "День рождения.jpg"],
    "cp737": ["φωτογραφία.png", "Διακοπές/θάλασσα.jpg", "γάτα.png"],
    "cp1253": ["φωτογραφία.png", "Διακοπές/θάλασσα.jpg", "σπίτι.jpg"],
    "cp862": ["תמונה.png", "חתול.jpg", "תמונות חדשות.jpg"],
    "cp1255": ["משפחה/ים.jpg", "תמונות חדשות.jpg"],
    "cp857": ["Fotoğraf ışık.png", "ağaç.png", "İstanbul/çiçek.jpg"],
    "cp1254": ["Fotoğraf ışık.png", "güneş.jpg", "İstanbul/çiçek.jpg"],
    "euc_jp": [
        "写真.png",
        "旅行/日本.jpg",
        "テスト.png",
        "東京タワー.jpg",
        "猫と犬.png",
        "ソフト.png",
        "誕生日2019.jpg",
    ],
    "euc_kr": ["사진.png", "새 폴더/그림.png", "가족 사진.jpg", "고양이.jpg"],
    "gb2312": ["照片.png", "新建文件夹/图片.png", "北京旅游.jpg"],
    "tis_620": ["รูปภาพ.png", "โฟลเดอร์ใหม่/ทะเล.png", "วันเกิด 2019.jpg", "ครอบครัว.jpg"],
    "cp1256": ["مجلد جديد/البحر.png", "عائلة.jpg", "رحلة 2019.jpg"],
    "cp720": ["مجلد جديد/البحر.png", "رحلة الى المدينة.jpg"],
    "cp1252": ["naïve – Grüße.png", "it’s.png", "São Paulo.jpg"],
}
# a name of few letters may be a word in several encodings
SHORT = {
    **{
        "cp866": ["Я.png"],
        "cp850": ["ä.png"],
        "cp932": ["桜.png"],
        "euc_jp": ["桜.png"],
        "tis_620": ["แมว.jpg", "หมา.png"],
    },
    **{"cp1256": ["قطة.jpg", "صورة.png"], "cp720": ["قطة.jpg", "صورة.png", "عائلة.jpg"]},
}
CASES = [(codec, name) for codec, names in NAMES.items() for name in names]


@pytest.mark.parametrize(("codec", "name"), CASES)
def test_a_name_of_an_archive_is_decoded_as_it_was_written(codec: str, name: str) -> None:
    assert decoded([name.encode(codec)], dos=True) == [name]


@pytest.mark.parametrize(("codec", "names"), NAMES.items())
def test_names_of_one_place_are_decoded_alike(codec: str, names: list[str]) -> None:
    every = [*names, *SHORT.get(codec, [])]
    assert decoded([name.encode(codec) for name in every], dos=True) == every


@pytest.mark.parametrize(
    ("codec", "names"),
    [
        ("cp437", ["Ñandú.png"]),
        ("cp437", ["IMG_Ö.jpg"]),
        ("cp866", ["Ёлка.jpg", "Ёжик.jpg", "фото с дачи.jpg"]),
    ],
)
def test_a_letter_is_not_taken_for_several_or_several_for_one(codec: str, names: list[str]) -> None:
    assert decoded([name.encode(codec) for name in names], dos=True) == names


def test_letters_of_cp864_are_letters_and_not_their_forms() -> None:
    """It has a byte for each form of a letter in a word, so that a sheet in UTF-8 has other characters."""
    forms = {unicodedata.normalize("NFKC", bytes((byte,)).decode("cp864", "ignore")): byte for byte in range(0x80, 255)}
    names = ["صورة.png", "مجلد جديد/البحر.png", "رحلة الى المدينة.jpg"]
    raw = [bytes(forms[c] if c in forms else ord(c) for c in name) for name in names]
    assert decoded(raw, dos=True) == names


def test_names_in_no_encoding_stay_apart() -> None:
    chance = random.Random(3)
    names = [bytes(chance.choices(range(0x80, 0xFF), k=9)) + b".png" for _ in range(300)]
    assert len(set(decoded(names, dos=True))) == len(names)


@pytest.mark.parametrize("codec", ["cp866", "cp932", "gbk", "cp1252"])
def test_long_and_many_names_are_decoded_with_little_work(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a part of them is judged, and each step may be the last one."""
    name = NAMES[codec][0]
    judged = Mock(side_effect=name_encodings._score)
    monkeypatch.setattr(name_encodings, "_score", judged)
    names = [name.encode(codec) + b"/%d" % n for n in range(6_000)]
    check = Mock()
    assert decoded(names, dos=True, check=check)[-1] == f"{name}/5999"
    assert check.call_count >= len(names)
    assert sum(len(call.args[0]) for call in judged.call_args_list) < 1_500_000
    check.side_effect = [None] * (len(names) + 100) + [KeyboardInterrupt]
    with pytest.raises(KeyboardInterrupt):
        decoded(names, dos=True, check=check)


@pytest.mark.parametrize("name", ["café.png", "más.png", "Grüße.txt", "smørrebrød.jpg", "déjà vu.png", "MÜNCHEN.jpg"])
def test_a_name_of_a_file_system_is_taken_for_that_of_windows_first(name: str) -> None:
    assert decoded([name.encode("latin-1")]) == [name]


def test_names_in_utf_8_stay_what_they_are_beside_others() -> None:
    names = ["фото.png", "猫.png", "a.png", "🦆.png"]
    raw = [name.encode() for name in names] + [b"caf\xe9.png"]
    assert decoded(raw) == [*names, "café.png"]


@given(st.lists(st.binary(max_size=40), max_size=8), st.booleans())
def test_any_bytes_become_text_that_can_be_encoded(names: list[bytes], dos: bool) -> None:
    found = decoded(names, dos=dos)
    assert len(found) == len(names)
    "".join(found).encode()
    assert found == decoded(names, dos=dos)


def test_names_whose_pairs_have_the_form_of_utf8_are_decoded_as_those_beside_them() -> None:
    names = ["图片.png", "猫.png", "照片.png", "新建文件夹/图片.png", "c.csv"]
    raw = [name.encode("gbk") for name in names]
    assert raw[0].decode("utf-8") != names[0]
    assert raw[1].decode("utf-8") != names[1]
    assert decoded(raw) == decoded(raw, dos=True) == names
    # beside names of one byte a letter, and where they have three bytes a letter, they are what they say
    assert decoded([b"caf\xc3\xa9.png", "Grüße.txt".encode("cp1252")]) == ["café.png", "Grüße.txt"]
    assert decoded(["日本.png".encode(), *raw[2:]]) == ["日本.png", *names[2:]]


def test_a_folder_keeps_its_utf_8_beside_a_file_of_an_older_system() -> None:
    folder = "Nachlass M\u00fcller".encode()
    paths = [folder + b"/Alt/M\xfcnchen.jpg", folder + b"/Stra\xdfe.jpg", folder + "/caf\u00e9.jpg".encode()]
    expected = ["Alt/M\u00fcnchen.jpg", "Stra\u00dfe.jpg", "caf\u00e9.jpg"]
    for dos in (False, True):
        assert decoded_paths(paths, dos=dos) == [f"Nachlass M\u00fcller/{name}" for name in expected]
