"""What came last counts: an upload that ends late, or is tried again, keeps the captions of files that came after."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from tests.unit.uploads.conftest import Files, Uploads, packed, picture
from tests.unit.uploads.test_rows_of_pages_that_may_come import document

from retllm.db.enums import FileStatus
from retllm.db.jobs import Job
from retllm.db.many import one_of
from retllm.db.session import transaction
from retllm.db.tables import Item, new_id
from retllm.db.uploads import UploadFile
from retllm.history.control import cancel_job
from retllm.media.ingest import delete_item
from retllm.uploads import caption_order, unsent
from retllm.uploads.kept import release
from retllm.uploads.retry import retry_rejected

PICTURE = {"a.png": picture(1)}


def sheet(text: str, name: str = "rows.csv") -> Files:
    return {name: f"file,caption\na.png,{text}\n".encode()}


def finish(uploads: Uploads, job_id) -> None:
    uploads.close(job_id)
    uploads.run(job_id)


FORMS = {
    "sheet": (sheet("old"), "rows.csv, row 2"),
    "sidecar": ({"a.txt": b"old"}, "a.txt"),
    "archive": ({"old.zip": packed({"a.txt": b"old"} | PICTURE)}, "a.txt"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("later", [sheet("new", "new.csv"), {"new.zip": packed({"a.txt": b"new", **PICTURE})}])
def test_a_caption_that_came_later_stays_when_an_older_upload_ends(uploads: Uploads, form: str, later: Files) -> None:
    files, row = FORMS[form]
    uploads.upload(PICTURE, index=False)
    left_open = uploads.open(index=False)
    uploads.send(left_open, files)
    uploads.upload(later, index=False)
    before = uploads.items()["a.png"]
    assert before.text == "new"
    finish(uploads, left_open)

    after = uploads.items()["a.png"]
    assert (after.text, after.version) == ("new", before.version)
    told = uploads.rows(left_open)[row]
    assert told.status is FileStatus.IGNORED
    assert told.item_id == after.id
    giver = repr(next(iter(later)))
    advice = "To use this one, change it or its name."
    assert told.remark == f"Not used: {giver}, which was uploaded later, gave the caption. {advice}"
    uploads.check()


def test_the_order_is_that_of_the_files_and_not_of_the_uploads(uploads: Uploads) -> None:
    first = uploads.open(index=False)
    uploads.send(first, PICTURE)
    uploads.run(first)
    uploads.upload(sheet("second"), index=False)
    uploads.send(first, sheet("third"))
    finish(uploads, first)
    assert uploads.items()["a.png"].text == "third"


def test_a_later_file_that_says_the_same_confirms_a_caption(uploads: Uploads) -> None:
    uploads.upload(PICTURE | sheet("right"), index=False)
    left_open = uploads.open(index=False)
    uploads.send(left_open, sheet("wrong"))
    uploads.upload(sheet("right", "again.csv"), index=False)
    before = uploads.items()["a.png"].version
    finish(uploads, left_open)
    assert (uploads.items()["a.png"].text, uploads.items()["a.png"].version) == ("right", before)


def test_an_older_file_that_says_the_same_leaves_the_later_one_in_its_right(uploads: Uploads) -> None:
    uploads.upload(PICTURE, index=False)
    first, second = uploads.open(index=False), uploads.open(index=False)
    uploads.send(first, sheet("right"))
    uploads.send(second, sheet("wrong"))
    uploads.upload(sheet("right", "again.csv"), index=False)
    finish(uploads, first)
    finish(uploads, second)
    assert uploads.items()["a.png"].text == "right"


def test_a_caption_of_an_upload_that_was_deleted_stays(uploads: Uploads) -> None:
    uploads.upload(PICTURE, index=False)
    left_open = uploads.open(index=False)
    uploads.send(left_open, sheet("old"))
    later = uploads.upload(sheet("new"), index=False)
    with transaction(uploads.world.sessions) as session:
        session.execute(sa.delete(Job).where(Job.id == later))
    finish(uploads, left_open)
    assert uploads.items()["a.png"].text == "new"
    remark = uploads.rows(left_open)["rows.csv, row 2"].remark
    assert (
        remark == "Not used: a file that was uploaded later gave the caption. To use this one, change it or its name."
    )


def test_a_retry_of_an_old_upload_keeps_what_later_ones_said(uploads: Uploads) -> None:
    old = uploads.upload({"rows.csv": b"file,caption\na.png,old\nb.png,only here\n"}, index=False)
    assert uploads.statuses(old)["rows.csv, row 2"] is FileStatus.REJECTED
    uploads.upload(PICTURE | sheet("new") | {"b.png": picture(2)}, index=False)
    with transaction(uploads.world.sessions) as session:
        retry_rejected(session, session.get_one(Job, old))
    uploads.run(old)
    assert {name: item.text for name, item in uploads.items().items()} == {"a.png": "new", "b.png": "only here"}
    assert uploads.statuses(old)["rows.csv, row 2"] is FileStatus.IGNORED
    assert uploads.statuses(old)["rows.csv, row 3"] is FileStatus.UPDATED


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cancelled", [False, True])
def test_files_that_come_again_take_back_no_correction(uploads: Uploads, form: str, cancelled: bool) -> None:
    """Who uploads a folder again adds what is new in it, also if the first upload did not come so far."""
    files, row = FORMS[form]
    uploads.upload(PICTURE, index=False)
    first = uploads.open(index=False)
    uploads.send(first, files)
    if cancelled:
        with transaction(uploads.world.sessions) as session:
            cancel_job(session, uploads.world.user, first)
    else:
        finish(uploads, first)
        assert uploads.items()["a.png"].text == "old"
    uploads.upload(sheet("new", "new.csv"), index=False)
    again = uploads.upload(files, index=False)
    assert uploads.items()["a.png"].text == "new"
    assert "To use this one" in (uploads.rows(again)[row].remark or "")


def test_what_is_new_in_an_archive_that_comes_again_counts(uploads: Uploads) -> None:
    entries = PICTURE | sheet("old")
    uploads.upload({"all.zip": packed(entries)}, index=False)
    uploads.upload(sheet("new", "new.csv"), index=False)
    more = {"b.png": picture(2), "b.txt": b"of b"}
    uploads.upload({"all.zip": packed(entries | more)}, index=False)
    assert {name: item.text for name, item in uploads.items().items()} == {"a.png": "new", "b.png": "of b"}
    uploads.upload({"all.zip": packed(PICTURE | sheet("third"))}, index=False)
    assert uploads.items()["a.png"].text == "third"


def test_a_sheet_that_another_of_its_upload_contradicted_counts_by_itself(uploads: Uploads) -> None:
    second = sheet("second", "2.csv")
    # the second one comes first, as files of one upload do
    old = uploads.upload(second | PICTURE | sheet("first", "1.csv"), index=False)
    refused = uploads.rows(old)["2.csv, row 2"]
    assert refused.status is FileStatus.REJECTED
    assert "upload this sheet again by itself" in (refused.error or "")
    uploads.upload(second, index=False)
    assert uploads.items()["a.png"].text == "second"


@pytest.mark.parametrize("announced", [True, False])
def test_what_is_said_of_a_picture_that_another_upload_brings_waits_for_it(uploads: Uploads, announced: bool) -> None:
    first = uploads.open(index=False)
    if announced:
        with transaction(uploads.world.sessions) as session:
            unsent.expect(session, first, 0, ["a.png"])
    else:
        uploads.send(first, PICTURE)
    rows = b"file,caption\na.png,of the sheet\nno.png,x\n"
    early = uploads.upload({"a.txt": b"of the text", "rows.csv": rows}, index=False)
    assert uploads.items() == {}
    files = uploads.rows(early)
    assert "retry this job" in (files["a.txt"].error or "")
    assert "retry this job" in (files["rows.csv, row 2"].error or "")
    assert "correct the name" in (files["rows.csv, row 3"].error or "")
    if announced:
        uploads.send(first, PICTURE)
    finish(uploads, first)
    with transaction(uploads.world.sessions) as session:
        retry_rejected(session, session.get_one(Job, early))
    uploads.run(early)
    assert {name: item.text for name, item in uploads.items().items()} == {"a.png": "of the sheet"}


@pytest.mark.parametrize("text", ["two", "three"])
def test_a_folder_that_comes_again_contradicts_no_correction_in_it(uploads: Uploads, text: str) -> None:
    folder = PICTURE | sheet("one", "captions.csv")
    uploads.upload(folder, index=False)
    uploads.upload(sheet("two", "fixed.csv"), index=False)
    again = uploads.upload(folder | sheet(text, "fixed.csv"), index=False)
    assert uploads.items()["a.png"].text == text
    assert FileStatus.REJECTED not in uploads.statuses(again).values()
    told = uploads.rows(again)["captions.csv, row 2"]
    assert (told.status, str(told.remark)[:10]) == (FileStatus.IGNORED, "Not used: ")


LIST = {"2019/Liste.csv": b"file,caption\na.png,old\n", "2019/a.png": picture(1), "x.png": picture(9)}
WAYS: dict[str, Files] = {
    "folder": {f"Archiv/{name}": content for name, content in LIST.items()},
    "contents": LIST,
    "subfolder": {name: content for name, content in LIST.items() if name.startswith("2019/")},
    "zip": {"Archiv.zip": packed({f"Archiv/{name}": content for name, content in LIST.items()})},
    "zip again": {"Archiv (1).zip": packed({f"Archiv/{name}": content for name, content in LIST.items()})},
    "zip of contents": {"sub/backup.zip": packed(LIST)},
}


def as_sidecars(files: Files) -> Files:
    """The same with a text in place of the sheet, also in a ZIP."""
    made: dict[str, bytes] = {}
    for name, content in files.items():
        if name.endswith(".zip"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                made[name] = packed(as_sidecars({each: archive.read(each) for each in archive.namelist()}))
        else:
            made |= {name.replace("Liste.csv", "a.txt"): b"old"} if name.endswith(".csv") else {name: content}
    return made


@pytest.mark.parametrize("form", [dict, as_sidecars])
@pytest.mark.parametrize(
    ("first", "second"),
    [*(("folder", way) for way in WAYS), *((way, "folder") for way in list(WAYS)[1:]), ("zip", "zip again")],
)
def test_what_comes_again_another_way_takes_back_no_correction(
    uploads: Uploads, form: Callable[[Files], Files], first: str, second: str
) -> None:
    uploads.upload(form(WAYS[first]), index=False)
    (old,) = [item for item in uploads.items().values() if item.name.endswith("a.png")]
    assert old.text == "old"
    uploads.upload({"korrektur.csv": f"file,caption\n{old.name},corrected\n".encode()}, index=False)
    again = uploads.upload(form(WAYS[second]), index=False)
    assert uploads.items()[old.name].text == "corrected"
    (told,) = [row for row in uploads.rows(again).values() if row.status is FileStatus.IGNORED]
    assert "'korrektur.csv', which was uploaded later, gave the caption" in str(told.remark)
    uploads.check()


def test_a_renamed_sheet_is_the_way_back_to_an_older_one(uploads: Uploads) -> None:
    uploads.upload(WAYS["folder"], index=False)
    uploads.upload({"Archiv/2019/korrektur.csv": b"file,caption\na.png,corrected\n"}, index=False)
    uploads.upload({"Archiv/2019/Liste alt.csv": LIST["2019/Liste.csv"]}, index=False)
    assert uploads.items()["Archiv/2019/a.png"].text == "old"


@pytest.mark.parametrize("backup", ["zip", "zip again", "zip of contents", "contents"])
def test_an_old_backup_takes_back_no_edit_of_a_sheet(uploads: Uploads, backup: str) -> None:
    uploads.upload(WAYS["folder"], index=False)
    edited = WAYS["folder"] | {"Archiv/2019/Liste.csv": b"file,caption\na.png,edited\n"}
    for files in (edited, WAYS[backup], edited, WAYS["folder"], WAYS[backup]):
        uploads.upload(files, index=False)
        assert uploads.items()["Archiv/2019/a.png"].text == "edited"


@pytest.mark.parametrize("cancelled", ["zip", "zip again"])
def test_a_sheet_of_a_cancelled_upload_came_then_in_whatever_archive(uploads: Uploads, cancelled: str) -> None:
    uploads.upload({"Archiv/2019/a.png": picture(1)}, index=False)
    first = uploads.open(index=False)
    uploads.send(first, WAYS[cancelled])
    with transaction(uploads.world.sessions) as session:
        cancel_job(session, uploads.world.user, first)
    uploads.upload({"Archiv/2019/new.csv": b"file,caption\na.png,new\n"}, index=False)
    uploads.upload(WAYS["zip"], index=False)
    assert uploads.items()["Archiv/2019/a.png"].text == "new"


def test_equal_texts_of_different_pictures_are_different_files_at_one_place_too(uploads: Uploads) -> None:
    """An export has the same names each time."""
    text = {"0001.txt": b"a cat"}
    uploads.upload({"export.zip": packed({"0001.png": picture(1)} | text)}, index=False)
    uploads.upload({"y/0001.png": picture(2), "y/draft.csv": b"file,caption\n0001.png,draft\n"}, index=False)
    uploads.upload({"export.zip": packed({"0001.png": picture(2)} | text)}, index=False)
    assert {item.text for item in uploads.items().values()} == {"a cat"}


def test_equal_sheets_in_folders_of_one_upload_each_give_their_own_captions(uploads: Uploads) -> None:
    rows = b"file,caption\n1.png,a cat\n"
    sent = {
        f"{name}/{end}": data for n, name in enumerate("xy") for end, data in (("1.png", picture(n)), ("c.csv", rows))
    }
    job_id = uploads.upload(sent, index=False)
    rows_of = uploads.rows(job_id)
    given = {item.name: item.caption_file_id for item in uploads.items().values()}
    assert given == {"x/1.png": rows_of["x/c.csv"].id, "y/1.png": rows_of["y/c.csv"].id}


def test_when_many_files_came_is_asked_in_few_statements(uploads: Uploads) -> None:
    counts = []
    for number in (2, 40):
        files = {f"{number}/{n}.txt": b"%d of %d" % (n, number) for n in range(number)}
        pictures = {f"{number}/{n}.png": picture(number * 100 + n) for n in range(number)}
        uploads.upload({f"{number}.zip": packed(files | pictures)}, index=False)
        job_id = uploads.upload({f"{number} (1).zip": packed(files | pictures)}, index=False)
        with uploads.world.sessions() as session:
            job = session.get_one(Job, job_id)
            query = sa.select(UploadFile).filter_by(job_id=job_id).where(UploadFile.name.endswith(".txt"))
            texts = session.scalars(query).all()
            statements: list[str] = []
            connection = session.connection()
            sa.event.listen(connection, "before_cursor_execute", lambda *args, to=statements: to.append(args[2]))
            sha256s = {file.id: str(file.sha256) for file in texts}
            times = caption_order.came(session, job, texts, sha256s)
        assert all(len(again) == 1 for _, again in times.values())
        counts.append(len(statements))
    assert counts == [2, 2]


def test_a_new_text_goes_before_a_sheet_that_came_before(uploads: Uploads) -> None:
    uploads.upload(PICTURE | sheet("one"), index=False)
    again = uploads.upload(PICTURE | sheet("one") | {"a.txt": b"new"}, index=False)
    assert uploads.items()["a.png"].text == "new"
    assert uploads.statuses(again)["a.txt"] is FileStatus.UPDATED


def test_equal_texts_of_different_archives_are_different_files(uploads: Uploads) -> None:
    text = {"1.txt": b"a photo of a dog"}
    uploads.upload({"x.zip": packed({"1.png": picture(1)} | text)}, index=False)
    uploads.upload({"y/1.png": picture(2), "y/draft.csv": b"file,caption\n1.png,draft\n"}, index=False)
    uploads.upload({"y.zip": packed({"1.png": picture(2)} | text)}, index=False)
    assert {item.text for item in uploads.items().values()} == {"a photo of a dog"}


def test_a_picture_in_an_archive_that_waits_is_awaited(uploads: Uploads) -> None:
    first = uploads.open(index=False)
    uploads.send(first, {"t.zip": packed(PICTURE)})
    (unit,) = uploads.ready(first)
    assert uploads.do(unit), "only unpacked"
    early = uploads.upload({"t.zip": packed({"a.txt": b"x"})}, index=False)
    assert "retry this job" in (uploads.rows(early)["a.txt"].error or "")
    finish(uploads, first)
    with transaction(uploads.world.sessions) as session:
        retry_rejected(session, session.get_one(Job, early))
    uploads.run(early)
    assert {name: item.text for name, item in uploads.items().items()} == {"a.png": "x"}


def test_an_upload_may_have_more_files_than_a_statement_has_parameters(uploads: Uploads) -> None:
    keys = [new_id() for _ in range(70_000)]
    with transaction(uploads.world.sessions) as session:
        assert release(session, keys) == []
        assert session.scalars(sa.select(UploadFile.id).where(one_of(UploadFile.id, keys))).all() == []


FOLDER: Files = {"f/a.png": picture(1), "f/s.csv": b"file,caption\na.png,of the sheet\n", "f/a.txt": b"of the text"}


@pytest.mark.parametrize("first", ["folder", "zip"])
@pytest.mark.parametrize("second", ["folder", "zip"])
@pytest.mark.parametrize("how", ["edited", "deleted"])
def test_a_picture_that_is_new_has_the_caption_that_its_folder_gave_before(
    uploads: Uploads, first: str, second: str, how: str
) -> None:
    """The sheet and the text came before, so the one counts that counted then."""
    uploads.upload({"f.zip": packed(FOLDER)} if first == "zip" else FOLDER, index=False)
    if how == "deleted":
        with transaction(uploads.world.sessions) as session:
            delete_item(session, uploads.context.storage, session.get_one(Item, uploads.items()["f/a.png"].id))
    files = FOLDER | ({"f/a.png": picture(2)} if how == "edited" else {})
    again = uploads.upload({"f.zip": packed(files)} if second == "zip" else files, index=False)
    rows = uploads.rows(again)
    assert uploads.items()["f/a.png"].text == "of the sheet"
    assert rows["f/a.png"].status is FileStatus.ADDED
    assert rows["f/s.csv, row 2"].status is FileStatus.UPDATED
    assert (rows["f/a.txt"].status, rows["f/a.txt"].remark) == (
        FileStatus.IGNORED,
        "Not used: 'f/s.csv, row 2' has the caption.",
    )


def test_a_document_that_is_new_has_the_caption_that_its_folder_gave_before(uploads: Uploads) -> None:
    said: Files = {"s.csv": b"file,caption\ns.tif,of the sheet\n", "s.txt": b"of the text"}
    uploads.upload(said | {"s.tif": document("s.tif", 0)}, index=False)
    again = uploads.upload(said | {"s.tif": document("s.tif", 200)}, index=False)
    assert {item.text for item in uploads.items().values()} == {"of the sheet"}
    assert uploads.statuses(again)["s.txt"] is FileStatus.IGNORED


def test_an_edited_picture_keeps_the_correction_in_its_folder(uploads: Uploads) -> None:
    uploads.upload(FOLDER, index=False)
    fixed = FOLDER | {"f/fixed.csv": b"file,caption\na.png,corrected\n"}
    uploads.upload(fixed, index=False)
    again = uploads.upload(fixed | {"f/a.png": picture(2)}, index=False)
    assert uploads.items()["f/a.png"].text == "corrected"
    statuses = uploads.statuses(again)
    assert [str(statuses[name]) for name in ("f/fixed.csv, row 2", "f/s.csv, row 2", "f/a.txt")] == [
        "updated",
        "ignored",
        "ignored",
    ]


def test_of_an_edited_picture_the_text_counts_that_came_after_the_sheet(uploads: Uploads) -> None:
    """The row of the sheet does not count, and says so."""
    without = {name: content for name, content in FOLDER.items() if name != "f/a.txt"}
    uploads.upload(without, index=False)
    for number in (1, 2):
        again = uploads.upload(FOLDER | {"f/a.png": picture(number)}, index=False)
        rows = uploads.rows(again)
        assert uploads.items()["f/a.png"].text == "of the text"
        assert rows["f/a.txt"].status is FileStatus.UPDATED
        assert (rows["f/s.csv, row 2"].status, str(rows["f/s.csv, row 2"].remark)[:19]) == (
            FileStatus.IGNORED,
            "Not used: 'f/a.txt'",
        )
