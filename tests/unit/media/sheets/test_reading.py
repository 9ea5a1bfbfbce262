"""Rows of tables and JSON are read unchanged in the forms that people have; a bad row does not affect the others."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.unit.media.sheets.reading import CSV, JSON, SETTINGS, pairs, read, rows

from retllm.errors import MediaRejected, TooLarge
from retllm.media.sheets.reading import is_sheet, read_rows
from retllm.media.sheets.rows import Row
from retllm.media.sniffing import FileKind
from retllm.settings import Settings

# what a spreadsheet cell can contain: no control characters except line feed and tab
CELL = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('",;\n\t'), max_size=40)


def captions(text: str) -> tuple[str, ...]:
    return (text.strip(),) if text.strip() else ()


@given(
    st.lists(st.tuples(CELL, CELL), max_size=8),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.booleans(),
)
def test_quoted_tables_survive_a_round_trip(
    cells: list[tuple[str, str]], delimiter: str, end: str, mark: bool, throughout: bool
) -> None:
    made = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if throughout else csv.QUOTE_MINIMAL
    writer = csv.writer(made, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerow(("file", "caption"))
    writer.writerows(cells)
    expected = [
        Row(number, file.strip(), captions(text))
        for number, (file, text) in enumerate(cells, start=2)
        if file.strip() or text.strip()
    ]
    assert rows(("\ufeff" if mark else "") + made.getvalue()) == expected


@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=8), st.booleans(), st.booleans())
def test_json_survives_a_round_trip(cells: list[tuple[str, str]], ascii_only: bool, lines: bool) -> None:
    objects = [{"file": file, "caption": text} for file, text in cells]
    made = "\n".join(json.dumps(each, ensure_ascii=ascii_only) for each in objects)
    whole = json.dumps(objects, ensure_ascii=ascii_only, indent=1)
    expected = [Row(number, file.strip(), captions(text)) for number, (file, text) in enumerate(cells, start=1)]
    assert rows(made if lines else whole, JSON) == expected


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
            assert sheet.is_texts is texts, data
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


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("sep=;\nfile;caption\na.png;x, y\n", [("a.png", ("x, y",))]),
        ("sep=\t\r\nfile\tcaption\na.png\tx\n", [("a.png", ("x",))]),
        ('"sep=\t"\nfile\tcaption\na.png\tx\n', [("a.png", ("x",))]),
        ("\n\n;;\nfile;caption\na.png;x\n", [("a.png", ("x",))]),
        # Markdown
        (
            "| file | caption |\n|:--|--:|\n| a.png | one \\| two |\n|b.png|-|\n",
            [("a.png", ("one | two",)), ("b.png", ("-",))],
        ),
        # what programs and people write above the header
        ("Table 1,,\nfile,caption,x\na.png,one,1\n", [("a.png", ("one",))]),
        ("My captions,,\n,,\nfile,caption,\na.png,one,\n", [("a.png", ("one",))]),
        ("Captions\n\nfile,caption\na.png,one\n", [("a.png", ("one",))]),
        ("# exported 2024, by me\n# again\nfile;caption\na.png;x, y\n", [("a.png", ("x, y",))]),
        ("image,caption\na.jpg,one\na.jpg,two\n", [("a.jpg", ("one",)), ("a.jpg", ("two",))]),
        ('a.jpg#0\tA dog .\na.jpg#1\tA "dog\n', [("a.jpg#0", ("A dog .",)), ("a.jpg#1", ('A "dog',))]),
        ('image_name| comment_number| comment\na.jpg| 0| Two "men" run\n', [("a.jpg", ('Two "men" run',))]),
        ("a.jpg|0|Two men\nb.jpg|0|Three\n", [("a.jpg", ("Two men",)), ("b.jpg", ("Three",))]),
        ("x/a.png,a cat\nx/b.png,a dog\n", [("x/a.png", ("a cat",)), ("x/b.png", ("a dog",))]),
        ("0,a.png,a cat\n1,b.png,a dog\n", [("a.png", ("a cat",)), ("b.png", ("a dog",))]),
        # Conceptual Captions, and a caption with the delimiter
        ("a cat\thttp://host/a.png?w=3\n", [("http://host/a.png?w=3", ("a cat",))]),
        ("a cat\thttp://host/12345\n", [("http://host/12345", ("a cat",))]),
        ("image| number| comment\na.jpg| 0| one | two\n", [("a.jpg", ("one | two",))]),
    ],
)
def test_tables_of_spreadsheets_and_of_well_known_collections_are_read(
    data: str, expected: list[tuple[str, tuple[str, ...]]]
) -> None:
    assert pairs(data) == expected


@pytest.mark.parametrize(
    ("line", "caption"),
    [
        ('"big" red thing', '"big" red thing'),
        ('a 5" screen', 'a 5" screen'),
        ('"never closed', '"never closed'),
        ('"a, ""b"""', 'a, "b"'),
    ],
)
def test_tabs_are_quoted_only_if_all_quotes_of_the_sheet_are_those_of_fields(line: str, caption: str) -> None:
    assert pairs(f"file\tcaption\na.png\t{line}\nb.png\tplain\n") == [("a.png", (caption,)), ("b.png", ("plain",))]


def test_a_bad_csv_row_is_reported_and_the_next_row_is_read() -> None:
    made = rows('file,caption\na.png,a "quoted" cat\nb.png,"bad" quote\nc.png,red, blue\nd.png\n\ne.png,fine\n')
    assert [(row.number, row.file, bool(row.problem)) for row in made] == [
        (2, "a.png", False),
        (3, "", True),
        (4, "", True),
        (5, "d.png", False),
        (7, "e.png", False),
    ]
    assert made[1].problem is not None
    assert "Row 3" in made[1].problem.error.message


@pytest.mark.parametrize("stray", ['"big red thing', '"a 5"" screen', 'x,"', '"'])
def test_a_stray_quote_loses_its_row_only(stray: str) -> None:
    made = rows(f'file,caption\na.png,{stray}\nb.png,fine\nc.png,"quoted, and\ntwo lines"\nd.png,5" wide"\n')
    assert made[0].problem is not None
    assert made[1:3] == [Row(3, "b.png", ("fine",)), Row(4, "c.png", ("quoted, and\ntwo lines",))]
    assert len(made) == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "not an object"),
        ('"text"', "not an object"),
        ('{"caption": 3}', "has to be a text"),
        ('{"file": ["a"], "caption": "x"}', "has to be a text"),
        ('{"a":' * 20_000, "not valid JSON"),
    ],
)
def test_a_bad_json_line_is_reported_and_the_next_line_is_read(line: str, message: str) -> None:
    settings = Settings(max_text_chars=20_000)
    made = rows('{"caption": "first", "file": "a"}\n' + line + '\n{"caption": "last"}', JSON, settings)
    assert [row.number for row in made] == [1, 2, 3]
    assert made[1].problem is not None
    assert message in made[1].problem.error.message
    assert made[2].captions == ("last",)


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        ("cp1251", "Кошка на окне"),
        ("koi8-r", "Кошка на окне"),
        ("cp932", "窓辺の猫"),
        ("gbk", "窗台上的猫"),
        ("cp949", "창가의 고양이"),
        ("big5", "窗台上的貓"),
        ("cp1250", "Żółć gęślą jaźń"),
        ("cp1250", "Dziewczyna czyta książkę na ławce"),
        ("cp1253", "Η γάτα στο παράθυρο"),
        ("cp1255", "חתול על החלון"),
        ("cp1256", "قطة على النافذة"),
        ("cp874", "แมวบนหน้าต่าง"),
        ("mac_roman", "Größe über Café"),
    ],
)
def test_the_code_pages_of_spreadsheets_elsewhere_are_told_by_their_words(codec: str, text: str) -> None:
    made, remarks = read(f"file;caption\r\na.png;{text}\r\nb.png;plain\r\n".encode(codec))
    assert made == [Row(2, "a.png", (text,)), Row(3, "b.png", ("plain",))]
    assert f"in the code page {codec}," in remarks[0]


@pytest.mark.parametrize(
    "text",
    ["¿qué? ¡sí! «niño» ñandú", "it’s “quoted” – dash…", "Foo™ Bar® §5 ½ £5", "5 m³ und 3 m² à 5 £", "Ærø, blåbær"],
)
def test_western_texts_stay_in_the_code_page_of_western_windows(text: str) -> None:
    made, remarks = read(f"file;caption\r\na.png;{text}\r\n".encode("cp1252"))
    assert made == [Row(2, "a.png", (text,))]
    assert "Windows-1252" in remarks[0]


def test_a_code_page_is_that_of_the_whole_file() -> None:
    table = "file;caption\n" + "a.png;窓辺の猫\n" * 1000
    with pytest.raises(MediaRejected, match="UTF-8"):
        rows(table.encode("cp932") + b"b.png;\x82 \n")


@pytest.mark.parametrize("kind", [CSV, JSON])
def test_a_file_in_another_code_page_is_refused_before_the_first_row(kind: FileKind) -> None:
    words = "приветы".encode("cp1251") if kind is JSON else "Größe über Café".encode("cp850")
    data = b"file,caption\na.png,fine\nb.png," + words if kind is CSV else b'{"caption": "fine"}\n"' + words + b'"\n'
    with pytest.raises(MediaRejected, match="UTF-8"):
        rows(data, kind)


@pytest.mark.parametrize(
    "bad",
    [b"b.png,caf\xe9\n", b"b.png,one\0\n", b"b.png,\xe7\x8c", b"b\xe9.png,one\n", b'b.png,"caf\xe9\nnoir"\n'],
)
def test_bytes_that_are_no_text_lose_their_row_only(bad: bytes) -> None:
    good, broken = rows("file,caption\na.png,Größe 猫\n".encode() + bad)
    assert good == Row(2, "a.png", ("Größe 猫",))
    assert broken.problem is not None
    assert "Row 3 has bytes that are not UTF-8" in broken.problem.error.message


def test_a_row_between_other_delimiters_than_the_header_is_refused_for_that() -> None:
    first, second, third = rows("file,caption\na.png;one\nb.png|two\nc.png,x;y\n")
    for row, other in ((first, ";"), (second, "|")):
        assert row.problem is not None
        assert f"has {other!r} between its fields, but the header has ','" in row.problem.error.message
    assert third == Row(4, "c.png", ("x;y",))


def test_the_encodings_of_spreadsheets_are_read_with_a_remark() -> None:
    table = "file;caption\nGröße.png;Crème brûlée – „süß“ für 5 €\n"
    expected = [Row(2, "Größe.png", ("Crème brûlée – „süß“ für 5 €",))]
    for codec, name in [
        ("utf-8", None),
        ("utf-8-sig", None),
        ("utf-16", "UTF-16"),
        ("utf-32", "UTF-32"),
        ("cp1252", "Windows-1252"),
    ]:
        made, remarks = read(table.encode(codec))
        assert made == expected
        assert name in remarks[0] if name else remarks == []
    objects = json.dumps([{"file": "ä.png", "caption": "ö"}], ensure_ascii=False)
    assert pairs(objects.encode("utf-16"), JSON) == [("ä.png", ("ö",))]
    with pytest.raises(MediaRejected, match="UTF-8"):
        rows('{"file": "a.png", "caption": "gr\xfcn"}'.encode("latin-1"), JSON)
    with pytest.raises(MediaRejected, match="UTF-16"):
        rows(table.encode("utf-16")[:-1])


def test_a_sheet_that_is_too_large_is_refused() -> None:
    with pytest.raises(TooLarge, match="RETLLM_MAX_FILE_BYTES"):
        rows("caption\n" + "words\n" * (1 << 18))


@pytest.mark.parametrize("start", ["caption\n", "caption\na,", 'caption\n"', '{"caption": "x"}\n{"caption": "'])
def test_an_endless_line_is_not_read_into_memory(start: str) -> None:
    kind = JSON if start.startswith("{") else CSV
    stream = io.BytesIO(start.encode() + b"x" * (60 << 20))
    settings = Settings(max_text_chars=200, max_file_bytes=1 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match="RETLLM_MAX_TEXT_CHARS"), read_rows(stream, kind, settings) as sheet:
            list(sheet.rows)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 << 20


def test_quotes_that_never_close_are_given_up_after_a_bounded_amount_of_work() -> None:
    # every row runs on to the end of what one row may have
    data = "file,caption\n" + 'x","a\n' * 40_000
    settings = Settings(max_text_chars=200, max_file_bytes=1 << 30)
    with pytest.raises(MediaRejected, match="too many quotes do not close"):
        rows(data, settings=settings)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("image,caption\na.jpg,a dog\n", True),
        ("a.jpg#0\ta dog\n", True),
        ("image,caption\n", False),
        ("Image, caption and text: a poem\nby me, myself\n", False),
        ("a.jpg\nb.jpg\n", False),
        ("My cat\n\nIt sleeps, it eats.", False),
        ("", False),
        ("\xff", False),
    ],
)
def test_a_plain_text_is_a_sheet_only_if_it_names_pictures(data: str, expected: bool) -> None:
    stream = io.BytesIO(data.encode("latin-1"))
    assert is_sheet(stream, SETTINGS) is expected
    assert stream.tell() == 0


@pytest.mark.parametrize("between", [" ", ": ", "  "])
def test_a_text_whose_lines_begin_with_names_is_a_sheet(between: str) -> None:
    data = f"IMG 1.png#0{between}A dog , red .\nb.jpg{between}Two: cats\n\nmore words\n"
    assert is_sheet(io.BytesIO(data.encode()), SETTINGS)
    first, second, third = rows(data)
    assert (first, second) == (Row(1, "IMG 1.png#0", ("A dog , red .",)), Row(2, "b.jpg", ("Two: cats",)))
    assert third.problem is not None
    assert third.problem.error.message == "Row 4 does not begin with the name of a picture."


@pytest.mark.parametrize(
    "data",
    [
        "a.png shows a dog\n",
        "a.png shows a dog\nIt is red.\n",
        "a.png 1\nb.png 2\n",
        "a.png b.png\nc.png d.png\n",
        "a.png 0.1 0.2 0.3\nb.png 0.1 0.2 0.3\n",
    ],
)
def test_a_text_that_mentions_pictures_is_no_sheet(data: str) -> None:
    assert not is_sheet(io.BytesIO(data.encode()), SETTINGS)


def test_the_stream_stays_open_and_can_be_read_again() -> None:
    stream = io.BytesIO(b"caption\none\n")
    for _ in range(2):
        with read_rows(stream, CSV, SETTINGS) as sheet:
            assert list(sheet.rows) == [Row(2, "", ("one",))]


WORDS = "file caption image_path text a.png b.jpg#1 sep=; 1 - null é %20 ../ http://x/ { } [ ] : , ; | \ud800 \u0000"
KEYS = ["images", "annotations", "id", "image_id", "file", "caption"]
FRAGMENT = st.sampled_from([*WORDS.split(), *map(json.dumps, KEYS), '"', '""', "\t", "\n", "\r", " ", "\ufeff"])


@given(st.lists(FRAGMENT | st.text(max_size=4), max_size=40).map("".join), st.sampled_from([CSV, JSON, FileKind.TEXT]))
@example('{"images":[{"id":1,"file_name":2}],"annotations":[{"image_id":1,"caption":{"caption":"x"}}]}', JSON)
@example('{"file":[1],"caption":{"a":null}}', JSON)
def test_any_text_gives_rows_or_one_reason(data: str, kind: FileKind) -> None:
    raw = data.encode("utf-8", "surrogatepass")
    if kind is FileKind.TEXT:
        is_sheet(io.BytesIO(raw), SETTINGS)
        return
    with suppress(MediaRejected, TooLarge):
        assert all(row.number >= 1 for row in rows(raw, kind))


@given(st.binary(max_size=200), st.sampled_from([CSV, JSON]))
def test_any_bytes_give_rows_or_one_reason(data: bytes, kind: FileKind) -> None:
    with suppress(MediaRejected, TooLarge):
        rows(data, kind)
