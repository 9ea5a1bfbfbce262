"""How a table is quoted is told by all its rows: a bad one loses itself and no others."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.media.sheets.reading import pairs, rows

from retllm.media.sheets.rows import Row


def test_quotes_with_a_backslash_before_them_are_read_where_that_loses_fewer_rows() -> None:
    data = r"""file,caption
a.png,"a \"big\" dog, red"
b.png,"a back\\slash, C:\new"
c.png,"\"all\""
d.png,"two
\"lines\", both"
e.png,plain
"""
    expected = ['a "big" dog, red', r"a back\slash, C:\new", '"all"', 'two\n"lines", both', "plain"]
    assert pairs(data) == [(f"{name}.png", (text,)) for name, text in zip("abcde", expected, strict=True)]
    made = rows(data + 'f.png,"doubled "" quote"\ng.png,"stray" quote\n')
    assert [row.number for row in made if row.problem] == [8]
    assert rows(data + 'f.png,"a ""dog"""\n')[-1] == Row(7, "f.png", ('a "dog"',))


def test_a_backslash_at_the_end_of_a_field_is_one() -> None:
    assert pairs('file,caption\na.png,"in C:\\dir\\"\nb.png,"x\\"\n') == [
        ("a.png", ("in C:\\dir\\",)),
        ("b.png", ("x\\",)),
    ]


@given(st.lists(st.text(alphabet='ab ,"\\\n', max_size=12), max_size=6))
def test_what_python_writes_with_backslashes_survives_a_round_trip(texts: list[str]) -> None:
    target = io.StringIO()
    writer = csv.writer(target, doublequote=False, escapechar="\\", quoting=csv.QUOTE_ALL, lineterminator="\n")
    words = [*texts, 'he said "no"']
    writer.writerows([("file", "caption"), *((f"{number}.png", text) for number, text in enumerate(words))])
    assert pairs(target.getvalue()) == [
        (f"{number}.png", (text.strip(),) if text.strip() else ()) for number, text in enumerate(words)
    ]


BROKEN = ['"bad" quote', '"never closed', '"one" more\t"x"', '"ends in \\"', '"a ""b"" \\"c""']


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("escape", ['\\"', '""'])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_broken_row_of_a_table_with_quotes_throughout_loses_itself_only(
    delimiter: str, escape: str, broken: str
) -> None:
    good = {f"{number}.png": f'the "{number}"\n and, so; on | more' for number in range(4)}
    lines = [f'"{name}"{delimiter}"{text.replace(chr(34), escape)}"' for name, text in good.items()]
    lines.insert(2, f'"x.png"{delimiter}' + broken.replace("\t", delimiter))
    made = rows(f'"file"{delimiter}"caption"\n' + "\n".join(lines) + "\n")
    assert [(row.file, *row.captions) for row in made if row.problem is None and row.file != "x.png"] == list(
        good.items()
    )


def test_tabs_between_quoted_names_are_those_of_a_quoted_table() -> None:
    made = rows('file\tcaption\n"a.png"\t"He said \\"hi\\""\n"b.png"\t"pl" ain\n"c.png"\t"a\ttab"\n')
    assert made[0] == Row(2, "a.png", ('He said "hi"',))
    assert made[1].problem is not None
    assert made[2] == Row(4, "c.png", ("a\ttab",))


@pytest.mark.parametrize("text", ['"Hi" he said', '5" disk', 'say \\"hi\\"', '"Ho"!'])
def test_captions_that_begin_with_quotes_make_no_quoted_table_of_names_without(text: str) -> None:
    assert pairs(f'file\tcaption\na.png\t{text}\nb.png\t"Ho"\n') == [("a.png", (text,)), ("b.png", ('"Ho"',))]


def test_a_folder_at_the_end_of_which_is_a_backslash_is_no_escaped_quote() -> None:
    made = rows('file,dir,caption\n"a.png","C:\\","A dog"\n"b.png","D:\\","A cat, big"\n"c.png","E:\\","x" y\n')
    assert [row.captions for row in made] == [("A dog",), ("A cat, big",), ()]


def test_what_mysql_writes_for_nothing_is_no_caption() -> None:
    assert rows('file,caption,text\n"a.png",\\N,"a dog"\n') == [Row(2, "a.png", ("a dog",))]


def test_a_decimal_number_before_the_name_is_no_name() -> None:
    assert pairs("1,5;a.png;Ein Hund, der läuft\n2,5;b.png;Zwei\n") == [
        ("a.png", ("Ein Hund, der läuft",)),
        ("b.png", ("Zwei",)),
    ]


LISTED = 'First the dog,\nb.png, the second one, is beside it\nc.png,and "more"'


@pytest.mark.parametrize("throughout", [False, True])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_lines_of_a_valid_table_that_begin_like_rows_stay_in_their_caption(
    delimiter: str, end: str, throughout: bool
) -> None:
    text = LISTED.replace(",", delimiter).replace("\n", end)
    target = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if throughout else csv.QUOTE_MINIMAL
    writer = csv.writer(target, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows([("file", "caption"), ("a.png", text), ("b.png", "fine"), ("c.png", text)])
    assert pairs(target.getvalue()) == [("a.png", (text,)), ("b.png", ("fine",)), ("c.png", (text,))]


@pytest.mark.parametrize("stray", ['d.png,"open', 'd.png,"shut" it', 'd.png,"two", many', '"d.png,x'])
def test_a_stray_quote_in_a_table_of_lines_that_begin_like_rows_loses_its_row_only(stray: str) -> None:
    good = 'e.png,fine\nf.png,"over\ntwo lines"\ng.png,fine\n'
    made = rows(f"file,caption\na.png,fine\n{stray}\n{good}")
    assert [row.file for row in made if row.problem is None] == ["a.png", "e.png", "f.png", "g.png"]
    assert len(made) == 5


def test_tabs_with_quotes_that_only_open_and_close_over_rows_are_those_of_rows() -> None:
    data = 'file\tcaption\na.png\t"Once upon\nb.png\ta time\nc.png\tthey lived"\n'
    assert pairs(data) == [("a.png", ('"Once upon',)), ("b.png", ("a time",)), ("c.png", ('they lived"',))]


STRAY = """{0}.png,"Opened and never closed
{1}.png,two
{2}.png,three
{3}.png,ends with inch 5"
{4}.png,five
"""


@pytest.mark.parametrize("suffix", [".png", ""])
@pytest.mark.parametrize(
    "further", ["", '8.png,"over\ntwo lines"\n', f'8.png,"{LISTED.replace(chr(34), chr(34) * 2)}"\n']
)
def test_two_stray_quotes_lose_the_row_of_the_first_only(further: str, suffix: str) -> None:
    more = further and f'8.png,"{further.replace(chr(34), chr(34) * 2)}"\n'
    data = f"file,caption\n{STRAY.format(*range(1, 6)).replace('.png', suffix)}{more}"
    lost, *others = rows(data)
    assert lost.problem is not None
    assert "Row 2 is not valid CSV (a quote is not closed before lines that look like rows)" in lost.problem.message
    expected = [("2", "two"), ("3", "three"), ("4", 'ends with inch 5"'), ("5", "five")]
    assert [(row.file, *row.captions) for row in others[:4]] == [(f"{name}{suffix}", text) for name, text in expected]
    assert [row.number for row in others[:4]] == [3, 4, 5, 6]
    assert [row.problem for row in others] == [None] * (5 if further else 4)


def test_rows_between_two_stray_quotes_are_told_wherever_the_name_is() -> None:
    data = 'id,caption,file\n1,"Open,1.png\n2,two,2.png\n3,three,3.png\n4,inch 5",4.png\n5,five,5.png\n'
    made = rows(data)
    assert [row.file for row in made if row.problem is None] == ["2.png", "3.png", "4.png", "5.png"]


@pytest.mark.parametrize("text", ["Shopping:\n2 eggs, milk\n3, two", "1, a dog\n2, a cat", "one\n\nb.png\nx, y"])
def test_lines_in_a_caption_that_have_no_names_of_rows_stay_in_it(text: str) -> None:
    assert pairs(f'file,caption\na.png,"{text}"\nb.png,fine\n') == [("a.png", (text,)), ("b.png", ("fine",))]


def test_a_caption_of_several_lines_before_the_name_is_one() -> None:
    data = 'caption,file\n"a.png shows\na dog",a.png\n"one\n\ntwo, b.png",b.png\n'
    assert pairs(data) == [("a.png", ("a.png shows\na dog",)), ("b.png", ("one\n\ntwo, b.png",))]
