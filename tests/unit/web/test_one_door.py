"""The same folder goes in by command line, API, form, ZIP, tar and drag and drop with the same result."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from flask_openapi import OpenAPI
from playwright.sync_api import Browser, Page, Route
from tests.functional.browsing import CHROMIUM
from tests.unit.media.handmade_tars import tarred
from tests.unit.media.samples import zipped
from tests.unit.web.conftest import Caller

from retllm.cli import sending
from retllm.cli import upload as command
from retllm.cli.client import Api
from retllm.cli.folders import OpenedFile
from retllm.errors import InvalidInput
from retllm.media import special_files
from retllm.media.clutter import MAX_PLACES
from retllm_web.http.services import Services
from retllm_web.render import file_script

FILES = {
    "a.txt": b"a robin",
    "2023/b c.txt": b"a wren",
    "2023/Gr\u00f6\u00dfe.txt": b"a heron",
    "2024/b c.txt": b"an owl",
    "captions.csv": b"text\na kite\n",
    "2023/Thumbs.db": b"x",
    "2023/desktop.ini": b"x",
    "2024/THUMBS.DB": b"x",
    ".DS_Store": b"x",
    "2023/._b c.txt": b"x",
    "2023/._x.txt": b"x",
    "2023/@eaDir/b c.txt/SYNOPHOTO_THUMB_M.jpg": b"x",
    "2023/@eaDir/b c.txt@SynoEAStream": b"x",
    "#recycle/old.txt": b"x",
    "__MACOSX/2023/._b c.txt": b"x",
    ".git/config": b"x",
    ".git/objects/ab": b"x",
    "lost+found/1": b"x",
    "Catalogue.lrcat": b"x",
    "Catalogue Previews.lrdata/root.txt": b"x",
    "My.photoslibrary/resources/a.txt": b"x",
    "My.photoslibrary/originals/d.txt": b"a crane",
    "~$captions.xlsx": b"x",
    # more places than are listed one by one
    **{f"~~{n:03}/.nomedia": b"x" for n in range(MAX_PLACES)},
}
TAKEN = {
    "a.txt",
    "2023/b c.txt",
    "2023/Gr\u00f6\u00dfe.txt",
    "2024/b c.txt",
    "captions.csv, row 2",
    "My.photoslibrary/originals/d.txt",
}
Outcomes = dict[str, tuple[str, str | None]]


@pytest.fixture
def collection(ada: Caller) -> str:
    """An empty collection of ada's."""
    return str(ada.post("/collections", json={"name": "One door"}).json["id"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder."""
    for name, content in FILES.items():
        file = tmp_path / "folder" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return tmp_path / "folder"


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """An empty folder."""
    made = tmp_path / "empty"
    made.mkdir()
    return made


Upload = Callable[..., Result]


@pytest.fixture
def upload(app: OpenAPI, ada: Caller, collection: str, monkeypatch: pytest.MonkeyPatch) -> Upload:
    """Runs `retllm upload` into the collection."""
    http = httpx.Client(
        transport=httpx.WSGITransport(app),
        base_url="http://localhost/api/v1",
        headers={"Authorization": f"Bearer {ada.token}"},
    )
    monkeypatch.setattr(command, "connect", lambda: Api(http))

    def run(*arguments: object) -> Result:
        options = [collection, "--no-index", *map(str, arguments)]
        return CliRunner().invoke(command.upload, options, catch_exceptions=False)

    return run


def _read(outcomes: list[dict[str, Any]]) -> Outcomes:
    return {outcome["name"]: (outcome["status"], outcome["remark"]) for outcome in outcomes}


def _lines(output: str) -> list[str]:
    # the server logs to the same output; the notice and the progress are no outcomes
    return [line for line in output.splitlines() if re.match(r"One door:|  \S|\{", line)]


def _answer(done: Result) -> Outcomes:
    (line,) = _lines(done.stdout)
    return _read(json.loads(line)["files"])


def _send(caller: Caller, key: str, files: dict[str, bytes]) -> Outcomes:
    parts = [(io.BytesIO(content), name) for name, content in files.items()]
    answer = caller.post(
        f"/collections/{key}/items?index=false", data={"file": parts}, content_type="multipart/form-data"
    )
    assert answer.status_code == 200
    ignored = [outcome["count"] for outcome in answer.json["outcomes"] if outcome["status"] == "ignored"]
    assert answer.json["ignored"] == sum(ignored)
    return _read(answer.json["outcomes"])


def _ignored(outcomes: Outcomes) -> dict[str, str | None]:
    return {name: remark for name, (status, remark) in outcomes.items() if status == "ignored"}


@pytest.fixture
def expected(ada: Caller, collection: str) -> Outcomes:
    """The outcomes of the API, in the order of the names."""
    return _send(ada, collection, dict(sorted(FILES.items())))


def test_the_api_takes_what_people_mean_and_lists_the_rest_by_folder(expected: Outcomes) -> None:
    assert {name for name, (status, _) in expected.items() if status == "added"} == TAKEN
    ignored = _ignored(expected)
    assert expected["captions.csv"] == ("read", None)
    assert len(expected) == len(TAKEN) + len(ignored) + 1
    assert ignored["2023/@eaDir"] == "Left out: index and previews of a Synology, 2 files."
    assert ignored["~$captions.xlsx"] == "Left out: lock file of an office program."


@pytest.mark.parametrize("pack", [zipped, tarred], ids=["ZIP", "tar"])
def test_an_archive_gives_the_outcomes_of_the_api(
    ada: Caller, collection: str, expected: Outcomes, pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    outcomes = _send(ada, collection, {"all.bin": pack(dict(sorted(FILES.items())))})
    assert _ignored(outcomes) == _ignored(expected)
    assert {name for name, (status, _) in outcomes.items() if status == "duplicate"} == TAKEN


def test_the_command_line_gives_the_outcomes_of_the_api(upload: Upload, folder: Path, expected: Outcomes) -> None:
    done = upload("--json", folder)
    assert done.exit_code == 0
    outcomes = _answer(done)
    assert {name for name, (status, _) in outcomes.items() if status == "duplicate"} == TAKEN
    assert _ignored(outcomes) == _ignored(expected)
    assert outcomes.keys() == expected.keys()


def test_the_job_of_the_command_line_has_the_fate_of_every_file(
    upload: Upload, folder: Path, empty: Path, ada: Caller
) -> None:
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    done = upload("--json", folder, empty)
    (line,) = _lines(done.stdout)
    job = json.loads(line)["job"]["id"]
    exported = ada.get(f"/uploads/{job}/files.csv").text
    rows = list(csv.DictReader(io.StringIO(exported)))
    told = {(row["name"], row["status"], row["remark"] or None) for row in rows}
    assert told == {(name, status, remark) for name, (status, remark) in _answer(done).items()}
    assert {("gone.txt", "rejected", None), ("empty", "rejected", None), ("a.txt", "added", None)} <= told
    errors = {row["name"]: row["error"] for row in rows}
    assert errors["gone.txt"] == special_files.LINK_TO_NOTHING
    assert errors["empty"] == "The folder contains no files."


# the pages' scripts


@pytest.fixture(scope="module")
def scripts(chromium: Browser) -> Iterator[Page]:
    """A page that can load the scripts of the pages; needs no server."""
    static = file_script.PATH.parent

    def answer(route: Route) -> None:
        path = static / route.request.url.rpartition("/")[2]
        if path.suffix == ".js":
            route.fulfill(body=path.read_text("utf-8"), content_type="text/javascript")
        else:
            route.fulfill(body="<!doctype html><title>x</title>", content_type="text/html")

    context = chromium.new_context()
    page = context.new_page()
    page.route("**/*", answer)
    page.goto("http://pages.test/")
    yield page
    context.close()


browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)")


@browser
@pytest.mark.browser
def test_the_script_of_the_pages_gives_the_outcomes_of_the_api(scripts: Page, expected: Outcomes) -> None:
    found = scripts.evaluate(
        """async (names) => {
            const { chosen } = await import("/folders.js");
            const { files, unsent } = chosen(names.map((name) => ({ name })));
            return { files: files.map((entry) => entry.name), unsent };
        }""",
        sorted(FILES),
    )
    assert set(found["files"]) == (TAKEN - {"captions.csv, row 2"}) | {"captions.csv"}
    assert {one["status"] for one in found["unsent"]} == {"ignored"}
    assert {one["name"]: one["reason"] for one in found["unsent"]} == _ignored(expected)


@browser
@pytest.mark.browser
def test_the_script_says_what_it_leaves_out_of_a_drop(scripts: Page) -> None:
    unsent = scripts.evaluate(
        """async () => {
            const { dropped } = await import("/folders.js");
            const failing = (_, reject) => reject(new DOMException("no", "NotReadableError"));
            const folder = (name, inner) => ({
                name, fullPath: `/${name}`, isDirectory: true,
                createReader: () => ({ readEntries: inner ?? ((done) => done([])) }),
            });
            const file = (name) => ({ name, fullPath: `/${name}`, isFile: true, file: failing });
            const entries = [folder("empty"), folder("locked", failing), file("secret.png"), file("Thumbs.db")];
            const items = entries.map((entry) => ({ kind: "file", webkitGetAsEntry: () => entry }));
            return (await dropped({ items })).unsent.map(({ name, status }) => [name, status]);
        }"""
    )
    assert unsent == [
        ["empty", "rejected"],
        ["locked", "rejected"],
        ["secret.png", "rejected"],
        ["Thumbs.db", "ignored"],
    ]


@browser
@pytest.mark.browser
def test_files_that_may_describe_pictures_are_sent_before_them(scripts: Page) -> None:
    batches = scripts.evaluate(
        """async () => {
            const { nextBatch } = await import("/upload.js");
            const pictures = Array.from({ length: 30 }, (_, n) => `${n}.png`);
            const names = ["captions.TSV", "a.txt", "a.json", ...pictures, "a.xmp", "b.zip"];
            const waiting = names.map((name) => ({ name, file: { size: 1 } }));
            const batches = [];
            while (waiting.length) batches.push(nextBatch(waiting).map((entry) => entry.name));
            return batches;
        }"""
    )
    assert [len(batch) for batch in batches] == [4, 20, 11]
    assert batches[0] == ["captions.TSV", "a.txt", "a.json", "a.xmp"]


def test_the_generated_script_has_the_table_of_the_server() -> None:
    """`python -m retllm_web.render.file_script` writes it."""
    assert file_script.PATH.read_text("utf-8") == file_script.script()


# the command line


def test_the_fate_of_every_file_is_printed(upload: Upload, folder: Path) -> None:
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    for file in folder.glob("~~*/.nomedia"):
        file.unlink()
    done = upload(folder)
    assert done.exit_code == 1
    assert _lines(done.stdout) == ["One door: 6 added, 17 ignored, 1 rejected."]
    lines = _lines(done.stderr)
    assert f"  gone.txt: {special_files.LINK_TO_NOTHING}" in lines
    assert "  2023/._*: Left out: metadata of macOS, 2 files." in lines
    assert len(lines) == 15


def test_without_a_file_there_is_nothing_to_upload_and_no_job(upload: Upload, empty: Path, ada: Caller) -> None:
    before = ada.get("/jobs").json
    with pytest.raises(InvalidInput, match=r"^There is nothing to upload\. empty: The folder contains no files\.$"):
        upload(empty)
    for number in range(5):
        (empty / f"~$a{number}.xlsx").touch()
    (empty / ".hidden").touch()
    with pytest.raises(
        InvalidInput, match=r"nothing to upload\. \.hidden: Left out.*office program, 5 files\.$"
    ) as refused:
        upload(empty)
    assert [file["count"] for file in refused.value.detail["files"]] == [1, 5]
    assert ada.get("/jobs").json == before


def test_files_with_names_that_are_not_utf_8_go_in(upload: Upload, empty: Path) -> None:
    (empty / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"a robin")
    (empty / "b.txt").write_bytes(b"a wren")
    done = upload("--json", empty)
    assert done.exit_code == 0
    assert _answer(done) == {"b.txt": ("added", None), "café.txt": ("added", None)}


@pytest.mark.parametrize("change", ["removed", "changed before", "changed while hashed", "changed while sent"])
def test_a_file_that_changes_during_the_upload_is_rejected_alone(
    upload: Upload, empty: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    for name in ("a", "b", "c"):
        (empty / f"{name}.txt").write_text(name * 1_000)
    walk, read = command.walk, OpenedFile.read
    reads = 0

    def walked(paths: list[Path]) -> Iterator[Any]:
        found = list(walk(paths))
        if change == "removed":
            (empty / "b.txt").unlink()
        elif change == "changed before":
            (empty / "b.txt").write_text("")
        yield from found

    def reading(file: OpenedFile, count: int = -1) -> bytes:
        nonlocal reads
        reads += 1
        # two reads hash each of the three files
        if change == "changed while hashed" or (change == "changed while sent" and reads > 6):
            (empty / "b.txt").write_text("longer" * 1_000)
        return read(file, count)

    monkeypatch.setattr(command, "walk", walked)
    monkeypatch.setattr(OpenedFile, "read", reading)
    done = upload("--json", empty)
    assert done.exit_code == 1
    statuses = {name: status for name, (status, _) in _answer(done).items()}
    assert statuses == {"a.txt": "added", "c.txt": "added", "b.txt": "rejected"}


def test_a_file_that_the_server_finds_too_large_is_rejected_alone(
    upload: Upload, empty: Path, served: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "LARGE", 1000)
    monkeypatch.setattr(served.settings, "max_request_bytes", 2000)
    (empty / "a.txt").write_text("a" * 2001)
    (empty / "b.txt").write_text("a wren")
    done = upload("--json", empty)
    assert done.exit_code == 1
    assert {name: status for name, (status, _) in _answer(done).items()} == {"a.txt": "rejected", "b.txt": "added"}


def test_rows_without_a_picture_are_texts_if_asked_for(upload: Upload, empty: Path) -> None:
    (empty / "captions.csv").write_text("file,caption\n,a robin\n")
    assert _answer(upload("--json", empty))["captions.csv, row 2"] == ("rejected", None)
    assert _answer(upload("--json", "--texts", empty))["captions.csv, row 2"] == ("added", None)


# names in forms


@pytest.mark.parametrize(
    ("raw", "name"),
    [(b"caf\xe9.txt", "café.txt"), ("写真.txt".encode("cp932"), "写真.txt"), ("猫.txt".encode(), "猫.txt")],
)
def test_a_name_that_is_not_utf_8_in_a_form_is_read(ada: Caller, collection: str, raw: bytes, name: str) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="' + raw + b'"\r\n\r\na robin\r\n--x--\r\n'
    answer = ada.post(f"/collections/{collection}/items", data=body, content_type="multipart/form-data; boundary=x")
    assert answer.status_code == 200
    assert _read(answer.json["outcomes"]) == {name: ("added", None)}
