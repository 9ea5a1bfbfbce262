"""Cleaned names are safe to display, and cleaning is idempotent."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from retllm.media.names import (
    MAX_NAME,
    base_name,
    clean_name,
    clean_names,
    coded,
    codes,
    joined_folders,
    one_line,
    quoted,
    raw_end,
    sent_name,
    suffix_of,
)

ANY = st.text(st.characters(), max_size=600)


@given(ANY)
def test_any_name_is_cleaned_to_a_safe_name(name: str) -> None:
    clean = clean_name(name)
    assert 1 <= len(clean) <= MAX_NAME
    assert not {unicodedata.category(c) for c in clean} & {"Cc", "Cs", "Zl", "Zp"}
    assert not {"", ".", ".."} & set(clean.split("/"))
    assert "\\" not in clean
    assert clean.encode("utf-8")


NFC, NFD = "caf\u00e9", "cafe\u0301"


def test_files_whose_raw_names_differ_keep_different_names() -> None:
    names = [f"x/{NFD}.png", f"x/{NFD}.txt", f"x/{NFC}.png", f"{NFD}.png", "b.png ", "b.png", "b.txt", "b\u200e.png"]
    made = clean_names(names)
    code = made[0].removeprefix(f"x/{NFC}~").removesuffix(".png")
    assert len(code) == 12
    assert made[:4] == [f"x/{NFC}~{code}.png", f"x/{NFC}~{code}.txt", f"x/{NFC}.png", f"{NFC}.png"]
    assert made[5:7] == ["b.png", "b.txt"]
    assert len(set(made)) == len(names)
    assert made[0] == f"x/{coded(f'{NFD}.png')}"
    assert clean_names(["a.png", "x/../a.png"]) == ["a.png", "x/a.png"]
    assert clean_names(["a.png", "a.png"]) == ["a.png", "a.png"]


@pytest.mark.parametrize("sidecar", [".png.txt", ".png.supplemental-metadata.json", ".caption.txt", ".png.xmp"])
def test_sidecars_keep_the_names_of_their_own_pictures(sidecar: str) -> None:
    code = coded(f"{NFD}.png").removesuffix(".png")
    names = [f"{NFD}.png", f"{NFC}.png", f"{NFD}{sidecar}", f"{NFC}{sidecar}"]
    assert clean_names(names) == [f"{code}.png", f"{NFC}.png", f"{code}{sidecar}", f"{NFC}{sidecar}"]
    assert clean_names(names[:3]) == [f"{code}.png", f"{NFC}.png", f"{code}{sidecar}"]


@given(st.lists(st.text(st.sampled_from("ae\u0301\u00e9\u200e ./"), max_size=6), max_size=6))
def test_names_that_come_together_are_clean_and_stay_as_they_are_if_they_were(names: list[str]) -> None:
    made = clean_names(names)
    assert [clean_name(name) for name in made] == made
    assert clean_names(made) == made
    clean = list(dict.fromkeys(map(clean_name, names)))
    assert clean_names(clean) == clean


@given(ANY)
@example("a\u200e\u0301")
def test_cleaning_a_name_is_idempotent(name: str) -> None:
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
        ("x" * 284 + ".jpeg", "x" * 284 + ".jpeg"),
    ],
)
def test_names_are_cleaned_as_expected(name: str, clean: str) -> None:
    assert clean_name(name) == clean


def test_long_names_keep_their_end_and_stay_different() -> None:
    deep = "folder/" * 60
    assert base_name(clean_name(deep + "a.png")) == "a.png"
    names = [
        deep + "a.png",
        deep + "b.png",
        deep + "x/a.png",
        "x/" + deep + "a.png",
        "y" * 400 + "1.png",
        "y" * 400 + "2.png",
    ]
    assert len({clean_name(name) for name in names}) == len(names)


@given(st.lists(st.text("ab ", max_size=90), max_size=12), st.text("abc", min_size=1, max_size=330))
def test_a_sidecar_is_cut_like_its_picture(folders: list[str], stem: str) -> None:
    path = "/".join([*folders, stem])
    assert clean_name(path + ".jpeg").removesuffix(".jpeg") == clean_name(path + ".txt").removesuffix(".txt")


@given(st.lists(st.text("abc", min_size=1, max_size=90), max_size=12))
def test_folders_below_cut_ones_are_cut_like_those_below_the_whole_ones(folders: list[str]) -> None:
    for at in range(len(folders)):
        assert joined_folders([*joined_folders(folders[:at]).split("/")] * bool(at) + folders[at:]) == joined_folders(
            folders
        )


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (r"C:\Users\Müller\a.jpg", r"'C:\Users\Müller\a.jpg'"),
        ("Anna's.jpg", '"Anna\'s.jpg"'),
        ("a\nb\u200e\udcff.jpg", r"'a\nb\u200e\udcff.jpg'"),
    ],
)
def test_a_message_shows_a_name_as_it_is(name: str, shown: str) -> None:
    assert quoted(name) == shown


def test_base_name_and_suffix_of_a_name() -> None:
    assert base_name("a/b/c.jpg") == "c.jpg"
    assert base_name("c.jpg") == "c.jpg"
    assert suffix_of("a/b.tar/c.JPG") == ".jpg"
    assert suffix_of("a.b/c") == ""
    assert suffix_of(".hidden") == ""


def test_joining_lines_keeps_slashes() -> None:
    assert one_line(" red\n and/or \\ blue ") == "red and/or \\ blue"


@pytest.mark.parametrize("raw", [f"x/{NFD}", "x/a\0b", "x/a\udc80\n", "x\\a  b", "a\\x  "])
@pytest.mark.parametrize("end", [".txt", ".png.txt"])
def test_a_raw_name_gives_the_code_of_its_picture(raw: str, end: str) -> None:
    clean = clean_name(raw + end)
    picture = coded(f"{raw}.png").removesuffix(".png")
    assert codes(clean, raw_end(raw + end) or "")[picture] == f"{picture}{end}"
    assert raw_end(clean) is None


@example(["0\\"])
@example(["cafe\u0301.png/."])
@example(["x/\u200f"])
@given(st.lists(st.text(), min_size=1, max_size=3))
def test_a_server_makes_the_same_name_of_what_it_is_told(names: list[str]) -> None:
    for name, clean in zip(names, clean_names(names), strict=True):
        told = sent_name(name, clean)
        assert clean_name(told) == clean
        if clean == clean_name(name):
            assert raw_end(told) == raw_end(name)
