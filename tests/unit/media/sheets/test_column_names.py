"""Which columns of a sheet name pictures and which have captions, by their names and values."""

from __future__ import annotations

import csv
import io

import pytest
from tests.unit.media.sheets.reading import CSV, JSON, SETTINGS, pairs, read, rows

from retllm.errors import MediaRejected
from retllm.media.sheets.reading import read_rows
from retllm.media.sheets.rows import Row


@pytest.mark.parametrize(
    "header",
    [
        "file,caption",
        "FILENAME;Text",
        "split\timage\tcaption",
        '"name", "caption"',
        "caption,file",
        "text,file,caption",
        "image_path,Caption",
        "Image-Name|comment_number| comment",
        "URL,TEXT",
        "file_name,text",
        "filepath,title",
        "img,sentence",
        "path,description",
        "picture name,alt text",
        "image_id,caption",
        "Dateiname;Bildunterschrift",
        "Файл,Описание",
        "fichier;le\u0301gende",
    ],
)
def test_columns_can_have_the_names_that_people_use_in_any_order(header: str) -> None:
    delimiter = next(d for d in ",;\t|" if d in header)
    names = [name.strip().strip('"').lower() for name in header.split(delimiter)]
    others = {"split": "train", "comment_number": "0"} | ({"text": "other"} if "caption" in names else {})
    words = {"caption", "text", "comment", "title", "sentence", "description", "alt text"}
    words |= {"bildunterschrift", "описание", "le\u0301gende"}
    line = delimiter.join(others.get(name, "words" if name in words else "a.png") for name in names)
    assert rows(f"{header}\n{line}\n") == [Row(2, "a.png", ("words",))]


@pytest.mark.parametrize("name", ["desc", "blip_caption", "long_caption", "recaption"])
def test_captions_that_models_wrote_are_captions(name: str) -> None:
    assert pairs(f"file,{name}\na.png,words\n") == [("a.png", ("words",))]


@pytest.mark.parametrize("header", ["id", "source", "", "Unnamed: 0"])
def test_a_column_of_another_name_whose_values_are_all_pictures_names_them(header: str) -> None:
    assert pairs(f"{header},caption\na.png,one\nb.png,two\n") == [("a.png", ("one",)), ("b.png", ("two",))]
    assert pairs(f"{header},file,caption\nx.png,a.png,one\n") == [("a.png", ("one",))]
    assert pairs(f"{header},caption\na.png,one\n7,two\n") == [("", ("one",)), ("", ("two",))]


def test_tables_and_json_of_exiftool_are_read() -> None:
    table = "SourceFile,FileName,Description,Caption-Abstract\n./x/a.png,a.png,one,\n./x/b.png,b.png,,two\n"
    assert pairs(table) == [("./x/a.png", ("one",)), ("./x/b.png", ("two",))]
    assert pairs('[{"SourceFile": "x/a.png", "Caption-Abstract": "one"}]', JSON) == [("x/a.png", ("one",))]
    for tag in ("XMP:Description", "IPTC:Caption-Abstract", "XMP-dc:Description", "EXIF:ImageDescription"):
        assert pairs(f"SourceFile,System:FileSize,{tag}\na.png,3,one\n") == [("a.png", ("one",))]


@pytest.mark.parametrize(
    "header",
    [
        "Nome file;Didascalia",
        "Arquivo;Legenda",
        "Bestandsnaam;Bijschrift",
        "Nazwa pliku;Opis",
        "ファイル名;説明",
        "文件名;描述",
        "Nom de fichier;Légende",
        "Nombre de archivo;Descripción",
        "Имя;Подпись",
        "Nom;Description",
        "Picture;Subtitle",
        "Photo;Legend",
    ],
)
def test_columns_can_have_names_in_many_languages(header: str) -> None:
    assert pairs(f"{header}\na.png;words\n") == [("a.png", ("words",))]


def test_captions_in_several_languages_are_captions_of_one_picture() -> None:
    for first, second in [("caption_en", "caption_de"), ("Image Caption (EN)", "Image Caption (pt-BR)")]:
        assert pairs(f"image,{first},{second}\na.png,one,eins\n") == [("a.png", ("one", "eins"))]
    with pytest.raises(MediaRejected, match="none of them is understood"):
        rows("image,caption_id,comment_no\na.png,1,2\n")


def test_a_description_goes_before_a_title() -> None:
    for better in ("Bildtext", "Subtitle", "Legend"):
        assert pairs(f"Datei;Titel;Title;{better}\na.png;T;T;words\n") == [("a.png", ("words",))]


def test_a_row_that_looks_like_a_header_is_no_header_below_one() -> None:
    assert pairs("a.png,one\nfile,caption\n") == [("a.png", ("one",)), ("file", ("caption",))]
    assert pairs("text\nfile and caption\n") == [("", ("file and caption",))]
    assert pairs("text\none\n") == [("", ("one",))]


def test_of_several_columns_the_one_whose_values_name_pictures_is_used() -> None:
    assert pairs("name,image,caption\na cat,x/a.png,words\na dog,x/b.png,more\n") == [
        ("x/a.png", ("words",)),
        ("x/b.png", ("more",)),
    ]
    assert pairs('[{"id": 7, "image": {"path": "a.png", "bytes": null}, "caption": "x"}]', JSON) == [("a.png", ("x",))]


def test_a_column_that_is_not_read_is_said() -> None:
    made, remarks = read("file,caption,width,mood\na.png,words,3,calm\n")
    assert made == [Row(2, "a.png", ("words",))]
    assert remarks == ['The columns "width", "mood" are not read.']
    assert read('{"file": "a.png", "caption": "x"}\n{"file": "b.png", "caption": "y", "hash": 3}', JSON)[1] == [
        'The column "hash" is not read.'
    ]
    assert read("file,caption\na.png,x\n")[1] == []


def test_columns_with_numbers_are_captions_of_one_picture() -> None:
    assert pairs("image,caption_1,caption_2\na.png,one,two\nb.png,,three\n") == [
        ("a.png", ("one", "two")),
        ("b.png", ("three",)),
    ]
    for header in ("caption,caption2,caption 3", "caption,caption,caption", "caption_1,caption_2,caption_3"):
        made, remarks = read(f"image,{header}\na.png,one,,three\n")
        assert made == [Row(2, "a.png", ("one", "three"))]
        assert remarks == []


@pytest.mark.parametrize(
    ("cell", "captions"),
    [
        # Flickr30k on Hugging Face; lists written by pandas and NumPy
        ('["Two young guys, here.", "Two men."]', ("Two young guys, here.", "Two men.")),
        ("['two', \"it's zwei\"]", ("two", "it's zwei")),
        ("['two' 'zwei'\n 'a \\'b\\' [c]']", ("two", "zwei", "a 'b' [c]")),
        ('[{"raw": "one", "tokens": ["one"]}, {"raw": "two"}]', ("one", "two")),
        ('["\\ud83d\\ude00", null]', ("\U0001f600",)),
        ("[1, 2]", ("[1, 2]",)),
        ("[a sign] says 'no' ['x']", ("[a sign] says 'no' ['x']",)),
        ("['x\\N{']", ("['x\\N{']",)),
    ],
)
def test_a_list_in_a_cell_is_several_captions(cell: str, captions: tuple[str, ...]) -> None:
    made = io.StringIO(newline="")
    csv.writer(made).writerows([("raw", "filename"), (cell, "a.png")])
    assert pairs(made.getvalue()) == [("a.png", captions)]


def test_a_column_without_values_needs_no_remark() -> None:
    made, remarks = read("file,mood,caption\n,,one\n,,two\n")
    assert made == [Row(2, "", ("one",)), Row(3, "", ("two",))]
    assert remarks == []


def test_a_sheet_of_texts_is_told_by_its_columns() -> None:
    for data, kind, texts in [
        ("text\none\n", CSV, True),
        ("text,title\none,first\n", CSV, True),
        ("text,name\none,a.png\n", CSV, False),
        ("caption\none\n", CSV, False),
        ("file,text\na.png,one\n", CSV, False),
        ('{"text": "one", "id": 4}', JSON, True),
        ('{"text": "one"}\n{"text": "two", "mood": "calm"}', JSON, False),
    ]:
        with read_rows(io.BytesIO(data.encode()), kind, SETTINGS) as sheet:
            assert sheet.has_texts is texts, data
    assert rows("text,title\none,first\n") == [Row(2, "", ("one",), name="first")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "empty: its first line"),
        ("\n", "empty: its first line"),
        ("\ufeff", "empty: its first line"),
        ("a,b\n1,2\n", 'first line has the columns "a", "b"'),
        ("file\na.png\n", 'first line has the columns "file"'),
        # pictures and labels, and judgments of captions
        ("a.png,3\nb.png,4\n", 'first line has the columns "a.png", "3"'),
        ("a.jpg\ta.jpg#2\t1\t1\t2\n", 'first line has the columns "a.jpg", "a.jpg#2"'),
    ],
)
def test_a_table_without_captions_is_refused_with_its_columns_and_those_it_needs(data: str, message: str) -> None:
    with pytest.raises(MediaRejected, match=message):
        rows(data)
