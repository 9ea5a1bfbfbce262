"""The same folder goes in by command line, API, form, ZIP, tar and drag and drop with the same result."""

from __future__ import annotations

import csv
import io
import json
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

from retllm.cli import upload as command
from retllm.cli.client import Api
from retllm.media import special_files
from retllm.media.clutter import MAX_PLACES
from retllm_web.render import file_script

_FILES = {
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
FILES = {f"folder/{name}": content for name, content in _FILES.items()}
TAKEN = {
    "folder/a.txt",
    "folder/2023/b c.txt",
    "folder/2023/Gr\u00f6\u00dfe.txt",
    "folder/2024/b c.txt",
    "folder/captions.csv, row 2",
    "folder/My.photoslibrary/originals/d.txt",
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
        file = tmp_path / name
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
    assert expected["folder/captions.csv"] == ("read", None)
    assert len(expected) == len(TAKEN) + len(ignored) + 1
    assert ignored["folder/2023/@eaDir"] == "Left out: index and previews of a Synology, 2 files."
    assert ignored["folder/~$captions.xlsx"] == "Left out: lock file of an office program."


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
    assert {("folder/gone.txt", "rejected", None), ("empty", "rejected", None), ("folder/a.txt", "added", None)} <= told
    errors = {row["name"]: row["error"] for row in rows}
    assert errors["folder/gone.txt"] == special_files.LINK_TO_NOTHING
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
    assert set(found["files"]) == (TAKEN - {"folder/captions.csv, row 2"}) | {"folder/captions.csv"}
    assert {one["status"] for one in found["unsent"]} == {"ignored"}
    assert {one["name"]: one["reason"] for one in found["unsent"]} == _ignored(expected)


@browser
@pytest.mark.browser
def test_the_script_says_what_it_leaves_out_of_a_drop(scripts: Page) -> None:
    found = scripts.evaluate(
        """async () => {
            const { dropped } = await import("/folders.js");
            const failing = (_, reject) => reject(new DOMException("no", "NotReadableError"));
            const folder = (name, inner) => ({
                name, fullPath: `/${name}`, isDirectory: true,
                createReader: () => ({ readEntries: inner ?? ((done) => done([])) }),
            });
            const file = (name) => ({ name, fullPath: `/${name}`, isFile: true, file: failing });
            // Chromium answers never for the content of some folders
            let calls = 0;
            const half = folder("half", (done, fail) => [done, fail][calls++]([good]));
            // and gives names that are not UTF-8 as empty ones with the path of their folder
            const bad = [true, true, false].map((isDirectory) => ({ name: "", fullPath: "/outer/", isDirectory }));
            const nested = [[half, ...bad, folder("stuck", () => {})], []];
            const good = { ...file("good.png"), file: (done) => done(new File([], "good.png")) };
            const outer = folder("outer", (done) => done(nested.shift()));
            const entries = [folder("empty"), folder("locked", failing), file("secret.png"), file("Thumbs.db"), outer];
            const items = entries.map((entry) => ({ kind: "file", webkitGetAsEntry: () => entry }));
            const wait = globalThis.setTimeout;
            globalThis.setTimeout = (act, ms) => wait(act, ms / 1000);
            const { files, unsent } = await dropped({ items });
            globalThis.setTimeout = wait;
            return { files: files.map(({ name }) => name), unsent };
        }"""
    )
    reasons = {one["name"]: one["reason"] for one in found["unsent"]}
    assert all("cannot read this folder" in reasons[name] for name in ("locked", "stuck", "half"))
    assert "2 folders here, since their names are not UTF-8. Upload the folder by the" in reasons["outer/…/…"]
    assert "a file here, since its name is not UTF-8" in reasons["outer/…"]
    assert "permissions" in reasons["secret.png"]
    # what a folder gave before it failed is sent
    assert found["files"] == ["good.png"]
    assert [[one["name"], one["status"]] for one in found["unsent"]] == [
        ["empty", "rejected"],
        ["locked", "rejected"],
        ["secret.png", "rejected"],
        ["outer/…/…", "rejected"],
        ["outer/…", "rejected"],
        ["half", "rejected"],
        ["stuck", "rejected"],
        ["Thumbs.db", "ignored"],
    ]


@browser
@pytest.mark.browser
def test_files_that_may_describe_pictures_are_sent_before_them(scripts: Page) -> None:
    batches = scripts.evaluate(
        """async () => {
            const { nextBatch } = await import("/upload_batches.js");
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


@browser
@pytest.mark.browser
@pytest.mark.parametrize(
    ("later", "own"),
    [
        (["captions.csv"], True),
        (["corrected.CSV", "9.png"], True),
        (["1.txt"], True),
        (["2.txt", "2.png"], False),
        (["1.png"], False),
        (["a.zip"], False),
    ],
)
def test_what_may_contradict_the_files_of_an_upload_needs_one_of_its_own(
    scripts: Page, later: list[str], own: bool
) -> None:
    found = scripts.evaluate(
        """async ([later, earlier]) => {
            const { mayContradict } = await import("/upload_batches.js");
            const entries = (names) => names.map((name) => ({ name }));
            return mayContradict(entries(later), entries(earlier));
        }""",
        [later, ["captions.csv", "1.txt"]],
    )
    assert found is own


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
    assert f"  folder/gone.txt: {special_files.LINK_TO_NOTHING}" in lines
    assert "  folder/2023/._*: Left out: metadata of macOS, 2 files." in lines
    assert len(lines) == 15
