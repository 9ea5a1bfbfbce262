"""What is missing in an imported folder is deleted if that is asked for, unless something else brought it too."""

from __future__ import annotations

import io
import os

import sqlalchemy as sa
from PIL import Image
from tests.unit.imports.conftest import Imports
from tests.unit.uploads.conftest import packed, picture

from retllm.db.enums import ItemState
from retllm.db.tables import Item


def test_items_of_files_that_are_gone_are_deleted_and_files_never(imports: Imports) -> None:
    imports.write(a_png=picture(1), b_png=picture(2), words_txt=b"some words")
    imports.run()
    imports.at("a_png").unlink()
    imports.at("words_txt").unlink()
    imports.remove_missing(imports.run())
    assert imports.names() == ["Pictures/b.png"]
    assert imports.at("b_png").exists()
    assert imports.run().gone == 0
    imports.uploads.check()


def test_the_earlier_content_of_a_file_is_deleted_once_the_present_one_was_taken(imports: Imports) -> None:
    imports.write(a_png=picture(1))
    imports.run()
    (first,) = imports.uploads.items().values()
    imports.write(a_png=picture(1)[:40])
    imports.remove_missing(imports.run())
    assert imports.names() == ["Pictures/a.png"]
    imports.write(a_png=picture(2))
    imports.remove_missing(imports.run())
    assert imports.names() == ["Pictures/a.png"]
    assert [item.id for item in imports.uploads.items().values()] != [first.id]


def test_a_file_that_was_moved_keeps_its_item(imports: Imports) -> None:
    imports.write(a_png=picture(1))
    imports.run()
    imports.at("a_png").rename(imports.path / "moved.png")
    imports.remove_missing(imports.run())
    assert imports.names() == ["Pictures/a.png"]


def test_a_content_that_comes_back_stays(imports: Imports) -> None:
    for number in (1, 2, 1):
        imports.write(a_png=picture(number))
        os.utime(imports.at("a_png"), ns=(0, 10 + len(imports.jobs)))
        imports.run()
    imports.remove_missing(imports.scan())
    with imports.uploads.world.sessions() as session:
        (content,) = session.scalars(sa.select(Item.content_sha256).where(Item.state == ItemState.READY))
    assert content == imports.known()[b"a.png"].sha256


def test_what_somebody_uploaded_too_stays(imports: Imports) -> None:
    imports.write(a_png=picture(1), b_png=picture(2), c_png=picture(3))
    imports.run()
    imports.uploads.upload({"mine.png": picture(1)})
    imports.at("a_png").unlink()
    imports.at("b_png").unlink()
    imports.remove_missing(imports.run())
    assert imports.names() == ["Pictures/a.png", "Pictures/c.png"]


def test_entries_of_an_archive_go_with_it_but_those_that_its_next_content_has(imports: Imports) -> None:
    imports.write(all_zip=packed({"a.png": picture(1), "b.png": picture(2)}), c_png=picture(3))
    imports.run()
    imports.write(all_zip=packed({"b.png": picture(2), "d.png": picture(4)}))
    imports.remove_missing(imports.run())
    assert imports.names() == ["Pictures/c.png", "b.png", "d.png"]
    imports.at("all_zip").unlink()
    imports.remove_missing(imports.run())
    assert imports.names() == ["Pictures/c.png"]


def test_pages_go_with_their_document_unless_it_is_there_twice(imports: Imports) -> None:
    file = io.BytesIO()
    first, second = (Image.new("RGB", (24, 16), colour) for colour in ("red", "blue"))
    first.save(file, "TIFF", save_all=True, append_images=[second])
    imports.write(a_tif=file.getvalue(), b_tif=file.getvalue(), c_png=picture(1))
    imports.run()
    imports.at("a_tif").unlink()
    imports.remove_missing(imports.run())
    assert len(imports.names()) == 3
    imports.at("b_tif").unlink()
    imports.remove_missing(imports.run())
    assert imports.names() == ["Pictures/c.png"]


def test_what_was_deleted_comes_back_with_its_file_alone(imports: Imports) -> None:
    imports.write(a_png=picture(1), b_png=picture(2))
    imports.run()
    imports.at("a_png").unlink()
    imports.remove_missing(imports.run())
    assert not imports.run().has_news
    imports.write(a_png=picture(1))
    assert imports.run().new == 1
    assert imports.names() == ["Pictures/a.png", "Pictures/b.png"]
    assert not imports.run().has_news
