"""The encodings of sheets: which one a file is in, and what becomes of bytes that are no text."""

from __future__ import annotations

import json

import pytest
from tests.unit.media.outcomes import reason
from tests.unit.media.samples import picture
from tests.unit.media.sheets.reading import CSV, JSON, pairs, read, rows
from tests.unit.media.test_sheet_rows import add_all

from retllm.errors import MediaRejected
from retllm.media.ingest import Ingest
from retllm.media.sheets.rows import Row
from retllm.media.sniffing import FileKind


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
        ("cp1254", "Güneşli bir gün, çocuklar ağaçların altında"),
        ("cp1254", "Kız çiçekleri tutuyor"),
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
    [
        *("¿qué? ¡sí! «niño» ñandú", "it’s “quoted” – dash…", "Foo™ Bar® §5 ½ £5", "5 m³ und 3 m² à 5 £"),
        *("Ærø, blåbær", "El niño está aquí"),
        *("Það er fallegur dagur og börnin leika sér", "Þetta er hundur við veður og mýri"),
    ],
)
def test_western_texts_stay_in_the_code_page_of_western_windows(text: str) -> None:
    made, remarks = read(f"file;caption\r\na.png;{text}\r\n".encode("cp1252"))
    assert made == [Row(2, "a.png", (text,))]
    assert "Windows-1252" in remarks[0]


def test_a_turkish_table_is_told_by_its_header_alone() -> None:
    assert rows("DOSYA ADI;AÇIKLAMA;Kişi\r\na.png;a cat;x\r\n".encode("cp1254")) == [Row(2, "a.png", ("a cat",))]


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
    name = bad.partition(b",")[0].decode(errors="replace")
    assert f"Row 3, {name!r}, has bytes that are not UTF-8" in broken.problem.error.message


@pytest.mark.parametrize("said", ["schön", "Größe", "a – b", "“a dog”", "猫", "Кот", "Café au lait"])
@pytest.mark.parametrize(
    "bad", [b"caf\xe9 cr\xe8me br\xfbl\xe9e", b"\xc3\xc3\xc3 dog", b"a\xff\xfe\x80 d\xf7g", b"\x81\x8d"]
)
def test_in_a_small_table_of_utf_8_the_rows_with_other_bytes_are_refused(said: str, bad: bytes) -> None:
    made, remarks = read(f"file,caption\na.png,{said}\nb.png,".encode() + bad + b"\nc.png,fine\n")
    assert [row.captions for row in made] == [(said,), (), ("fine",)]
    assert made[1].problem is not None
    assert "Row 3, 'b.png', has bytes that are not UTF-8" in made[1].problem.message
    assert remarks == []


def test_in_a_table_of_ascii_few_rows_that_are_in_no_code_page_are_refused_alone() -> None:
    made = rows(b"file,caption\na.png,x\nb.png,a \x81 dog\nc.png,fine\n")
    assert [row.captions for row in made] == [("x",), (), ("fine",)]


@pytest.mark.parametrize("said", ["CAFÉ”", "«CAFÉ»", "DÉJÀ VU…", "MAÇÃ”"])
def test_letters_and_quotes_of_western_windows_that_could_be_utf_8_stay_what_they_are(said: str) -> None:
    made, remarks = read(f"file;caption\na.png;{said}\nb.png;Crème brûlée für süße Füße\n".encode("cp1252"))
    assert made == [Row(2, "a.png", (said,)), Row(3, "b.png", ("Crème brûlée für süße Füße",))]
    assert "Windows-1252" in remarks[0]


@pytest.mark.parametrize("zeros", [1, 30])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
def test_zeros_lose_their_row_only(suffix: str, zeros: int, ingest: Ingest) -> None:
    texts = {"a.png": b"one", "b.png": b"two" + bytes(zeros), "c.png": b"three"}
    if suffix in (".csv", ".tsv"):
        between = b"," if suffix == ".csv" else b"\t"
        data = b"".join(
            b"%s%s%s\n" % (name.encode(), between, text) for name, text in {"file": b"caption", **texts}.items()
        )
    else:
        entries = [b'{"file": "%s", "caption": "%s"}' % (name.encode(), text) for name, text in texts.items()]
        data = b"\n".join(entries) if suffix == ".jsonl" else b"[%s]" % b",\n".join(entries)
    outcomes = add_all(ingest, {name: picture(at) for at, name in enumerate(texts)} | {f"s{suffix}": data})
    assert [outcome.status for outcome in outcomes[3:]] == ["updated", "rejected", "updated"]
    assert "'b.png', has bytes that are not UTF-8 or no text" in reason(outcomes[4])


@pytest.mark.parametrize("bad", [b"Ren\xe9", b"a\0b", b"\xff"])
@pytest.mark.parametrize("form", ["table", "list", "lines", "coco"])
def test_bytes_that_are_no_text_in_a_field_that_is_not_read_lose_nothing(form: str, bad: bytes) -> None:
    first, second = b'{"file": "a.png", "by": "' + bad + b'", "text": "x"}', b'{"file": "b.png", "text": "y"}'
    data = {
        "table": b"file,by,text\na.png," + bad + ",x\nb.png,Größe,y\n".encode(),
        "list": b"[" + first + b"," + second + b"]",
        "lines": first + b"\n" + second,
        "coco": b'{"info": {"by": "' + bad + b'"}, "images": [{"id": 1, "file_name": "a.png", "by": "' + bad + b'"}, '
        b'{"id": 2, "file_name": "b.png"}], "annotations": [{"image_id": 1, "by": "' + bad + b'", "caption": "x"}, '
        b'{"image_id": 2, "caption": "y"}]}',
    }[form]
    assert pairs(data, CSV if form == "table" else JSON) == [("a.png", ("x",)), ("b.png", ("y",))]


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
