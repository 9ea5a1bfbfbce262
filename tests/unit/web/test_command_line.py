"""`retllm upload` and `retllm jobs` tell what became of every file, also of an upload that was stopped."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.media.samples import zipped
from tests.unit.web.commands import Run, files, lines, the_job
from tests.unit.web.conftest import Caller
from tests.unit.web.pictures import picture

from retllm.cli import collections, jobs, sending, show, upload
from retllm.cli.client import Api
from retllm.cli.patience import GaveUp, PatientApi, Unreachable
from retllm.errors import NotFound
from retllm.media import special_files
from retllm_web.http.services import Services

STOPPED = "Not sent: the upload was stopped; run the command again to send the rest."


@pytest.fixture
def collection(ada: Caller) -> str:
    """An empty collection of ada's."""
    return str(ada.post("/collections", json={"name": "Command line"}).json["id"])


def stop_in(monkeypatch: pytest.MonkeyPatch, request: int) -> None:
    """Press Ctrl-C while the command waits for the answer to this request with files."""
    monkeypatch.setattr(sending, "_REQUEST_FILES", 2)
    once = PatientApi.once
    sent = 0

    def stopped(api: PatientApi, method: str, path: str, **options: Any) -> Any:
        nonlocal sent
        answer = once(api, method, path, **options)
        sent += path.endswith("/files")
        if path.endswith("/files") and sent == request:
            raise KeyboardInterrupt
        return answer

    monkeypatch.setattr(PatientApi, "once", stopped)


def test_an_upload_that_is_stopped_lists_what_was_not_sent_and_counts_what_arrived(
    monkeypatch: pytest.MonkeyPatch, run: Run, ada: Caller, collection: str, folder: Path
) -> None:
    stop_in(monkeypatch, 2)
    done = run(upload.upload, collection, "--no-index", folder)
    job = the_job(ada, collection)
    assert done.exit_code == 130
    # the answer to the second request was lost, and its files arrived
    assert f"Stopped: 4 of 6 files arrived; they stay, and job {job} goes on with them. Run the same" in done.stderr
    assert files(ada, job) == [
        *((f"folder/{number}.png", "added", None) for number in range(4)),
        *((f"folder/{number}.png", "not_sent", STOPPED) for number in (4, 5)),
    ]
    state = ada.get(f"/uploads/{job}").json
    assert (state["arrived"], state["processed"]) == (4, True)
    shown = run(jobs.jobs, "show", job)
    assert "4 added, 2 not sent" in shown.stdout
    assert f"  folder/4.png: {STOPPED}" in shown.stdout


def test_an_upload_that_is_stopped_before_its_first_file_says_so(
    monkeypatch: pytest.MonkeyPatch, run: Run, ada: Caller, collection: str, folder: Path
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(upload, "walk", stopped)
        done = run(upload.upload, collection, folder)
        assert (done.exit_code, lines(done.stderr)) == (130, ["Stopped: nothing was sent."])
        done = run(upload.upload, collection, "--json", folder)
        (answer,) = lines(done.stdout)
        assert json.loads(answer)["error"]["message"] == "Stopped: nothing was sent."
    assert ada.get(f"/jobs?collection={collection}").json["jobs"] == []
    monkeypatch.setattr(sending.Sender, "_send_lot", stopped)
    done = run(upload.upload, collection, folder)
    job = the_job(ada, collection)
    assert f"Stopped: no file arrived whole, as job {job} lists." in done.stderr
    assert files(ada, job) == [(f"folder/{number}.png", "not_sent", STOPPED) for number in range(6)]


def test_a_server_that_does_not_answer_keeps_nobody_who_stops(
    monkeypatch: pytest.MonkeyPatch, run: Run, collection: str, folder: Path
) -> None:
    stop_in(monkeypatch, 2)
    asked: list[float] = []
    once = PatientApi.once

    def away(api: PatientApi, method: str, path: str, **options: Any) -> Any:
        if "timeout" in options:
            asked.append(options["timeout"])
            raise Unreachable("away")
        return once(api, method, path, **options)

    monkeypatch.setattr(PatientApi, "once", away)
    done = run(upload.upload, collection, "--no-index", folder)
    assert "Stopped: at least 2 of 6 files arrived. The server did not answer in time" in done.stderr
    assert len(asked) == 1
    assert asked[0] <= 5


def test_a_second_stop_leaves_at_once(
    monkeypatch: pytest.MonkeyPatch, run: Run, ada: Caller, collection: str, folder: Path
) -> None:
    stop_in(monkeypatch, 1)

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sending.Sender, "_before", stopped)
    done = run(upload.upload, collection, "--no-index", folder)
    assert done.exit_code == 130
    assert f"Left at once; job {the_job(ada, collection)} lists later what did not arrive." in done.stderr


def test_files_that_were_not_sent_when_patience_ends_are_listed(
    monkeypatch: pytest.MonkeyPatch, run: Run, collection: str, folder: Path
) -> None:
    monkeypatch.setattr(sending, "_REQUEST_FILES", 2)
    once = PatientApi.once
    sent = 0

    def away(api: PatientApi, method: str, path: str, **options: Any) -> Any:
        nonlocal sent
        sent += path.endswith("/files")
        if sent > 2:
            raise Unreachable("The network is away.")
        return once(api, method, path, **options)

    monkeypatch.setattr(PatientApi, "once", away)
    monkeypatch.setattr(upload, "_PRINTED", 1)
    told: list[str] = []
    monkeypatch.setattr(show, "say", told.append)
    with pytest.raises(GaveUp, match=r"At least 4 of 6 files arrived") as gave_up:
        run(upload.upload, collection, "--no-index", "--patience", "0", folder)
    assert gave_up.value.as_json()["error"]["detail"] == {"not_sent": ["folder/4.png", "folder/5.png"]}
    assert told[-2:] == [
        "  folder/4.png: not sent, or its arrival was not confirmed",
        "  and 1 more; --json lists all.",
    ]


def test_the_command_names_the_job_and_its_page(run: Run, ada: Caller, collection: str, folder: Path) -> None:
    done = run(upload.upload, collection, "--no-index", folder)
    job = the_job(ada, collection)
    assert f"Upload {job}: http://retllm.test/jobs/{job}\n" in done.stderr


def test_jobs_show_lists_the_first_rejected_files_and_counts_the_others(
    monkeypatch: pytest.MonkeyPatch, run: Run, ada: Caller, collection: str, empty: Path
) -> None:
    monkeypatch.setattr(jobs, "SHOWN_FILES", 2)
    (empty / "all.zip").write_bytes(zipped({f"{number}.png": b"" for number in range(5)} | {"a.txt": b"a wren"}))
    assert run(upload.upload, collection, "--no-index", empty).exit_code == 1
    job = the_job(ada, collection)
    shown = run(jobs.jobs, "show", job)
    assert lines(shown.stdout) == [
        f"upload {job}: succeeded, 5 rejected, 100%",
        "1 added, 5 rejected",
        "  0.png in folder/all.zip: The file is empty.",
        "  1.png in folder/all.zip: The file is empty.",
        f"  and 3 more rejected; http://retllm.test/jobs/{job} lists all.",
    ]
    answer = json.loads(lines(run(jobs.jobs, "show", job, "--json").stdout)[0])
    assert (answer["id"], answer["counts"]) == (job, {"added": 1, "rejected": 5, "read": 1})
    assert [file["name"] for file in answer["rejected"]] == ["0.png", "1.png"]


def test_jobs_retry_tries_the_rejected_files_again_that_are_kept(
    run: Run, ada: Caller, served: Services, collection: str, empty: Path
) -> None:
    (empty / "long.txt").write_text("a wren in a hedge")
    served.settings.max_text_chars = 5
    assert run(upload.upload, collection, "--no-index", empty).exit_code == 1
    served.settings.max_text_chars = 100
    job = the_job(ada, collection)
    done = run(jobs.jobs, "retry", job)
    assert (done.exit_code, lines(done.stdout)[1:]) == (0, ["Trying again: 1 file."])
    assert files(ada, job) == [("folder/long.txt", "added", None)]


def test_jobs_retry_says_that_a_sheet_is_read_again_for_its_rejected_rows(
    run: Run, ada: Caller, collection: str, folder: Path
) -> None:
    (folder / "late.png").write_bytes(picture("red"))
    (folder / "captions.csv").write_text("file,caption\nlate.png,late\n0.png,dark\n")
    first = [file for file in sorted(folder.iterdir()) if file.name != "late.png"]
    assert run(upload.upload, collection, "--no-index", *first).exit_code == 1
    job = the_job(ada, collection)
    assert run(upload.upload, collection, "--no-index", folder / "late.png").exit_code == 0
    told = lines(run(jobs.jobs, "retry", job).stdout)[1]
    assert told == "Trying again: 1 sheet or document with rows or pages left out."
    assert "rejected" not in {status for _, status, _ in files(ada, job)}


def test_every_file_has_one_entry_also_those_that_hold_others(
    run: Run, ada: Caller, collection: str, folder: Path
) -> None:
    captions = b"file,caption\n0.png,dark\n"
    content = zipped({"0.png": picture("red"), "captions.csv": captions})
    (folder / "all.zip").write_bytes(content)
    (folder / "captions.csv").write_bytes(captions)
    done = run(upload.upload, collection, "--no-index", "--json", folder)
    told = json.loads(lines(done.stdout)[0])["files"]
    assert {(file["within"], file["name"]): file["status"] for file in told} == {
        **{(None, f"folder/{number}.png"): "added" for number in range(6)},
        (None, "folder/all.zip"): "read",
        (None, "folder/captions.csv"): "read",
        ("folder/captions.csv", "folder/captions.csv, row 2"): "updated",
        ("folder/all.zip", "0.png"): "added",
        ("folder/all.zip", "captions.csv"): "read",
        ("folder/all.zip/captions.csv", "captions.csv, row 2"): "updated",
    }
    assert len(told) == 12


def test_counts_are_those_of_files_and_rows_also_where_they_are_listed_together(
    run: Run, ada: Caller, collection: str, empty: Path
) -> None:
    (empty / "captions.csv").write_text("file,caption\n" + "".join(f"{n}.png,x\n" for n in range(1000)))
    (empty / "@eaDir").mkdir()
    for number in range(30):
        (empty / "@eaDir" / f"{number}.jpg").touch()
    done = run(upload.upload, collection, "--no-index", empty)
    assert lines(done.stdout) == ["Command line: 30 ignored, 1,000 rows rejected."]
    job = the_job(ada, collection)
    counts = {"ignored": 30, "read": 1, "rejected": 1000}
    assert ada.get(f"/uploads/{job}").json["counts"] == counts
    rows = ada.get(f"/uploads/{job}/files").json["files"]
    assert {row["name"]: row["count"] for row in rows if row["count"] > 1} == {
        "folder/@eaDir": 30,
        "folder/captions.csv": 980,
    }
    shown = lines(run(jobs.jobs, "show", job).stdout)
    assert shown[1] == "30 ignored, 1,000 rows rejected"
    assert shown[-1] == f"  and 980 more rejected; http://retllm.test/jobs/{job} lists all."
    # a form and an archive count alike
    clutter = {f"@eaDir/{number}.jpg": b"x" for number in range(30)}
    files = {"captions.csv": (empty / "captions.csv").read_bytes(), **clutter}
    parts = [(io.BytesIO(zipped(files)), "all.zip")]
    answer = ada.post(f"/collections/{collection}/items?index=false", data={"file": parts}).json
    assert {status: answer[status] for status in counts} == {**counts, "read": 2}


# links, and documents of office programs


def _zip_of(folder: Path) -> bytes:
    """Pack a folder with its name as `zip -r --symlinks` does."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*")):
            info = zipfile.ZipInfo(str(path.relative_to(folder.parent)))
            info.create_system = 3
            if path.is_symlink():
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
                archive.writestr(info, str(path.readlink()))
            elif path.is_file():
                archive.writestr(info, path.read_bytes())
    return target.getvalue()


def _tar_of(folder: Path) -> bytes:
    """Pack a folder with its name as `tar -c` does."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.add(path, str(path.relative_to(folder.parent)), recursive=False)
    return target.getvalue()


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder with links of all kinds, and with files that are not taken."""
    made = tmp_path / "odd"
    (made / "x" / "y").mkdir(parents=True)
    (made / "b.txt").write_bytes(b"a robin")
    (made / "x" / "y" / "c.txt").write_bytes(b"a wren")
    for name, target in {
        "a.txt": "b.txt",
        "x/up.txt": "../a.txt",
        "x/y/gone.txt": "nowhere.txt",
        "x/y/through.txt": "../../b.txt/more",
        "x/y/self": "self",
        "x/y/here": ".",
        "x/y/top": "../..",
        "w": "x/y",
    }.items():
        (made / name).symlink_to(target)
    os.link(made / "x" / "y" / "c.txt", made / "x" / "hard.txt")
    (made / "letter.docx").write_bytes(zipped({"[Content_Types].xml": b"<x/>", "word/document.xml": b"<x/>"}))
    table = zipped({"[Content_Types].xml": b"<x/>", "xl/workbook.xml": b"<x/>"})
    (made / "table.xlsx").write_bytes(table)
    (made / "cut.xlsx").write_bytes(table[:40])
    (made / "none.xlsx").write_bytes(b"no workbook")
    (made / "table.ods").write_bytes(zipped({"mimetype": b"x", "content.xml": b"<x/>"}))
    (made / "old.doc").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(600))
    (made / "empty.png").touch()
    (made / "noise.dat").write_bytes(bytes(600))
    return made


@pytest.mark.parametrize("pack", [_zip_of, _tar_of])
def test_links_and_documents_have_the_same_fate_in_an_archive_and_in_a_folder(
    ada: Caller, run: Run, collection: str, odd: Path, pack: Callable[[Path], bytes]
) -> None:
    def fates(told: list[dict[str, Any]]) -> dict[str, tuple[str, str | None]]:
        reasons = {one["name"]: one["remark"] or (one["error"] or {}).get("message") for one in told}
        # that of two equal files which is read first is added
        return {
            one["name"].removeprefix("odd/"): (
                "taken" if one["status"] in ("added", "duplicate") else one["status"],
                reasons[one["name"]],
            )
            for one in told
        }

    (line,) = lines(run(upload.upload, collection, "--no-index", "--json", odd).stdout)
    in_folder = fates(json.loads(line)["files"])
    other = ada.post("/collections", json={"name": "Archives"}).json["id"]
    parts = [(io.BytesIO(pack(odd)), "all.bin")]
    answer = ada.post(
        f"/collections/{other}/items?index=false", data={"file": parts}, content_type="multipart/form-data"
    )
    in_archive = fates(answer.json["outcomes"])
    assert in_archive.pop("all.bin") == ("read", None)
    assert all(one["name"].startswith("odd/") for one in answer.json["outcomes"][1:])
    assert in_archive == in_folder
    taken = {"a.txt", "b.txt", "x/up.txt", "x/hard.txt", "x/y/c.txt"}
    assert {name for name, (status, _) in in_folder.items() if status == "taken"} == taken
    assert {in_folder[name] for name in ("w", "x/y/here", "x/y/top")} == {("ignored", special_files.LINK_TAKEN)}
    assert in_folder["x/y/gone.txt"] == in_folder["x/y/through.txt"] == ("rejected", special_files.LINK_TO_NOTHING)
    assert in_folder["x/y/self"] == ("rejected", special_files.LINK_ROUND)
    word = "The file is a document of Word (DOCX): save it as PDF, or as plain text."
    assert in_folder["letter.docx"] == ("rejected", word)
    table = "The file is a workbook of Excel (XLSX): save each sheet as CSV."
    assert {in_folder[f"{name}.xlsx"] for name in ("table", "cut", "none")} == {("rejected", table)}


@pytest.mark.parametrize("command", ["upload", "models"])
def test_an_id_of_no_collection_is_named_and_makes_none(run: Run, ada: Caller, folder: Path, command: str) -> None:
    key = "0190a1b2-0000-7000-8000-000000000000"
    arguments = (upload.upload, key, folder) if command == "upload" else (collections.collections, "models", key)
    with pytest.raises(NotFound, match=rf"no collection with the id {key}\. `retllm collections` lists"):
        run(*arguments)
    assert ada.get("/collections").json["collections"] == []


def test_a_collection_that_another_command_makes_meanwhile_is_used(
    run: Run, ada: Caller, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = Api.collection
    made: list[str] = []

    def late(api: Api, name: str) -> Any:
        try:
            return once(api, name)
        except NotFound:
            made.append(ada.post("/collections", json={"name": name}).json["id"])
            raise

    monkeypatch.setattr(Api, "collection", late)
    done = run(upload.upload, "both", "--no-index", "--json", folder)
    (line,) = lines(done.stdout)
    assert (done.exit_code, json.loads(line)["collection"]) == (0, made[0])
    assert len(json.loads(line)["files"]) == 6
