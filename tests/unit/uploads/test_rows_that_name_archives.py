"""A row that names an archive means a picture in it, and no picture of the same name in another one."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest
import sqlalchemy as sa
from tests.unit.uploads.conftest import Files, Uploads, packed, picture

from retllm.db.enums import FileStatus
from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.db.uploads import UploadFile
from retllm.uploads import unsent

NAMES = [f"Bilder/IMG_{number}.png" for number in range(3)]
# the last one is in the second archive only
MEIER = {name: picture(number) for number, name in enumerate(NAMES[:2])}
MUELLER = {name: picture(10 + number) for number, name in enumerate(NAMES)}
BOTH = {"Nachlass Meier.zip": packed(MEIER), "Nachlass Müller.zip": packed(MUELLER)}


def captioned(uploads: Uploads) -> dict[bytes, str]:
    """The captions of pictures by their contents."""
    contents = {hashlib.sha256(data).hexdigest(): data for data in (*MEIER.values(), *MUELLER.values())}
    with uploads.world.sessions() as session:
        items = session.scalars(sa.select(Item).where(Item.text.is_not(None))).all()
    return {contents[item.content_sha256]: str(item.text) for item in items}


def row(uploads: Uploads, name: str, *, files: Files | None = None, sheet: str = "liste.csv") -> UploadFile:
    """What became of a row in a sheet that comes later, or with these files."""
    job_id = uploads.upload({**(files or {}), sheet: f"file,caption\n{name},right\n".encode()}, index=False)
    return uploads.rows(job_id)[f"{sheet}, row 2"]


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(
    "archive", ["Nachlass Meier", "Nachlass Meier.zip", "nachlass meier.ZIP", "D:/x/Nachlass Meier"]
)
def test_a_row_may_name_the_archive_with_or_without_its_suffix(uploads: Uploads, archive: str, together: bool) -> None:
    if not together:
        uploads.upload(BOTH, index=False)
    told = row(uploads, f"{archive}/{NAMES[0]}", files=BOTH if together else None)
    assert (told.status, told.remark) == (FileStatus.UPDATED, None)
    assert captioned(uploads) == {MEIER[NAMES[0]]: "right"}


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz"])
@pytest.mark.parametrize("named", ["", "suffix"])
def test_archives_of_each_form_are_named(uploads: Uploads, suffix: str, named: str) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w" if suffix == ".tar" else "w:gz") as archive:
        for name, data in MEIER.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    uploads.upload({f"sub/Nachlass 1.5{suffix}": file.getvalue(), "Müller.zip": packed(MUELLER)}, index=False)
    told = row(uploads, f"Nachlass 1.5{suffix if named else ''}/{NAMES[0]}")
    assert (told.status, told.remark) == (FileStatus.UPDATED, None)
    assert captioned(uploads) == {MEIER[NAMES[0]]: "right"}


@pytest.mark.parametrize("together", [False, True])
def test_a_row_that_names_an_archive_without_the_picture_is_rejected(uploads: Uploads, together: bool) -> None:
    if not together:
        uploads.upload(BOTH, index=False)
    told = row(uploads, f"Nachlass Meier.zip/{NAMES[2]}", files=BOTH if together else None)
    assert told.status is FileStatus.REJECTED
    assert "the only one of that name is 'Nachlass Müller/Bilder/IMG_2.png', in another" in str(told.error)
    assert captioned(uploads) == {}


@pytest.mark.parametrize("together", [False, True])
def test_a_row_with_another_folder_above_means_the_only_picture_with_a_remark(uploads: Uploads, together: bool) -> None:
    files = {"Nachlass Müller.zip": packed(MUELLER)}
    if not together:
        uploads.upload(files, index=False)
    told = row(uploads, f"Nachlass Meier/{NAMES[0]}", files=files if together else None)
    assert told.status is FileStatus.UPDATED
    assert told.remark == (
        "Its sheet names it 'Nachlass Meier/Bilder/IMG_0.png', and 'Bilder/IMG_0.png' in 'Nachlass Müller.zip' is the "
        "only such picture."
    )
    assert captioned(uploads) == {MUELLER[NAMES[0]]: "right"}


@pytest.mark.parametrize("archive", ["Nachlass Meier", "Nachlass Meier.zip"])
@pytest.mark.parametrize("is_sent", [True, False])
def test_a_row_waits_for_the_archive_that_it_names(uploads: Uploads, archive: str, is_sent: bool) -> None:
    uploads.upload({"Nachlass Müller.zip": packed(MUELLER)}, index=False)
    job_id = uploads.open(index=False)
    with transaction(uploads.world.sessions) as session:
        unsent.expect(session, job_id, 0, ["Nachlass Meier.zip", "liste.csv"])
    rows = {"liste.csv": f"file,caption\n{archive}/{NAMES[0]},right\n".encode()}
    if is_sent:
        told = row(uploads, f"{archive}/{NAMES[0]}")
        assert "it may be in 'Nachlass Meier.zip', which another upload is still bringing" in str(told.error)
    else:
        uploads.send(job_id, rows)
        uploads.close(job_id)
        uploads.run(job_id)
        assert uploads.statuses(job_id)["liste.csv, row 2"] is FileStatus.NOT_SENT
    assert captioned(uploads) == {}


def test_a_row_with_another_folder_above_is_not_guessed_if_its_archive_came_before(uploads: Uploads) -> None:
    uploads.upload({"Nachlass Meier.zip": BOTH["Nachlass Meier.zip"]}, index=False)
    told = row(uploads, f"Nachlass Meier/{NAMES[0]}", files={"Nachlass Müller.zip": BOTH["Nachlass Müller.zip"]})
    assert (told.status, told.remark) == (FileStatus.UPDATED, None)
    assert captioned(uploads) == {MEIER[NAMES[0]]: "right"}


@pytest.mark.parametrize("loose", [False, True])
def test_a_row_that_names_an_absent_archive_is_rejected(uploads: Uploads, loose: bool) -> None:
    uploads.upload(MUELLER if loose else {"Nachlass Müller.zip": packed(MUELLER)}, index=False)
    told = row(uploads, f"Nachlass Meier.zip/{NAMES[0]}")
    assert told.status is FileStatus.REJECTED
    assert "in another folder or archive than the row and its sheet" in str(told.error)
    assert captioned(uploads) == {}


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("name", [NAMES[0], f"Nachlass/{NAMES[0]}", "IMG_0.png"])
def test_a_row_that_fits_pictures_in_different_archives_is_rejected_with_advice_that_works(
    uploads: Uploads, name: str, together: bool
) -> None:
    if not together:
        uploads.upload(BOTH, index=False)
    told = row(uploads, name, files=BOTH if together else None)
    assert told.status is FileStatus.REJECTED
    assert told.error == (
        f"Row 2 names the picture {name!r}, which 2 pictures may be (in 'Nachlass Meier.zip', in 'Nachlass "
        "Müller.zip'): put the archive before the name, as in 'Nachlass Meier.zip/Bilder/IMG_0.png', or the sheet into "
        "the archive."
    )
    assert captioned(uploads) == {}
    assert row(uploads, "Nachlass Meier.zip/Bilder/IMG_0.png").status is FileStatus.UPDATED
    assert captioned(uploads) == {MEIER[NAMES[0]]: "right"}


def test_archives_of_one_name_in_different_folders_are_different(uploads: Uploads) -> None:
    uploads.upload({"a/x.zip": packed(MEIER), "b/x.zip": packed(MUELLER)}, index=False)
    assert row(uploads, NAMES[0]).status is FileStatus.REJECTED
    assert row(uploads, f"b/x.zip/{NAMES[0]}").status is FileStatus.UPDATED
    assert captioned(uploads) == {MUELLER[NAMES[0]]: "right"}


def test_the_sheets_archive_tells(uploads: Uploads) -> None:
    uploads.upload(BOTH, index=False)
    sheet = {"liste.csv": f"file,caption\n{NAMES[0]},right\n".encode()}
    job_id = uploads.upload({"Nachlass Meier.zip": packed(sheet)}, index=False)
    assert uploads.statuses(job_id)["liste.csv, row 2"] is FileStatus.UPDATED
    assert captioned(uploads) == {MEIER[NAMES[0]]: "right"}


def test_of_an_archive_that_came_again_the_newest_picture_gets_the_caption_with_a_remark(uploads: Uploads) -> None:
    for files in (MEIER, MUELLER):
        uploads.upload({"Nachlass.zip": packed(files)}, index=False)
    told = row(uploads, NAMES[0])
    assert told.remark == "2 pictures are named 'Bilder/IMG_0.png'; the newest has this caption."
    assert captioned(uploads) == {MUELLER[NAMES[0]]: "right"}


@pytest.mark.parametrize("together", [False, True])
def test_a_picture_beside_which_an_archive_has_its_name_is_told(uploads: Uploads, together: bool) -> None:
    files = MEIER | {"Nachlass Müller.zip": packed(MUELLER)}
    if not together:
        uploads.upload(files, index=False)
    told = row(uploads, NAMES[0], files=files if together else None)
    assert told.status is FileStatus.UPDATED
    assert told.remark == (
        "2 or more pictures have that name; 'Bilder/IMG_0.png' outside of archives has this caption."
    )
    assert captioned(uploads) == {MEIER[NAMES[0]]: "right"}
    # the folder of a sheet tells
    assert row(uploads, "IMG_1.png", sheet="Bilder/liste.csv").remark is None


def test_a_caption_that_was_cut_keeps_the_remark_which_picture_has_it(uploads: Uploads) -> None:
    uploads.upload({"Nachlass Müller.zip": packed(MUELLER)}, index=False)
    name = f"Nachlass Meier/{NAMES[0]}"
    size = uploads.context.settings.max_text_chars // 2 + 1
    rows = f"file,caption\n{name},{'a' * size}\n{name},{'b' * size}\n".encode()
    told = uploads.rows(uploads.upload({"liste.csv": rows}, index=False))["liste.csv, row 2"]
    assert "is the only such picture. It has the first 1 of 2 captions" in str(told.remark)
