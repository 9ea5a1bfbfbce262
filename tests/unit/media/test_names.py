"""Names are safe to show, and the same name always comes out the same."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retllm.media.names import MAX_NAME, base_name, clean_name, is_clutter, one_line, suffix_of

ANY = st.text(st.characters(), max_size=600)


@given(ANY)
def test_a_clean_name_is_safe_whatever_came(name: str) -> None:
    clean = clean_name(name)
    assert 1 <= len(clean) <= MAX_NAME
    assert not {unicodedata.category(c) for c in clean} & {"Cc", "Cs", "Zl", "Zp"}
    assert not {"", ".", ".."} & set(clean.split("/"))
    assert "\\" not in clean
    assert clean.encode("utf-8")


@given(ANY)
def test_a_clean_name_is_its_own_clean_name(name: str) -> None:
    assert clean_name(clean_name(name)) == clean_name(name)


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("photos/a b.jpg", "photos/a b.jpg"),
        ("photos\\summer\\a.jpg", "photos/summer/a.jpg"),
        ("C:\\a.jpg", "C:/a.jpg"),
        ("../../etc/passwd", "etc/passwd"),
        ("/etc//./passwd", "etc/passwd"),
        ("a\n\tb\0.jpg", "a b .jpg"),
        ("\u202egpj.exe", "gpj.exe"),
        ("cafe\u0301.jpg", "caf\u00e9.jpg"),
        ("猫.jpg", "猫.jpg"),
        ("", "unnamed"),
        ("../..", "unnamed"),
        ("x" * 400 + ".jpeg", "x" * 295 + ".jpeg"),
    ],
)
def test_names_come_out_as_a_person_expects(name: str, clean: str) -> None:
    assert clean_name(name) == clean


def test_parts_of_a_name() -> None:
    assert base_name("a/b/c.jpg") == "c.jpg"
    assert base_name("c.jpg") == "c.jpg"
    assert suffix_of("a/b.tar/c.JPG") == ".jpg"
    assert suffix_of("a.b/c") == ""
    assert suffix_of(".hidden") == ""


def test_what_operating_systems_add_is_clutter() -> None:
    for name in ("__MACOSX/a.jpg", "a/.DS_Store", "Thumbs.db", "a\\thumbs.db", ".git/x.txt", "._a.jpg", "desktop.ini"):
        assert is_clutter(name), name
    for name in ("a.jpg", "a/b.jpg", "thumbs.dbx", "my__MACOSX/a.jpg", "a/", "../a.jpg", "./a.jpg"):
        assert not is_clutter(name), name


def test_a_text_on_one_line_keeps_its_slashes() -> None:
    assert one_line(" red\n and/or \\ blue ") == "red and/or \\ blue"
