"""The requests of `retllm upload` have the size that the line takes in a second, and sheets come first."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from tests.unit.media.fingerprints import fingerprint

from retllm.cli import sending, show
from retllm.cli.client import Unreachable
from retllm.cli.patience import Patience, PatientApi
from retllm.cli.sending import Sender, Sent
from retllm.cli.upload import find_files

MIB = 1 << 20


@dataclasses.dataclass
class Line:
    """A server behind a line of so many bytes a second, with a clock of its own."""

    per_second: float
    known: Callable[[str], bool] = lambda _: False
    fails: int = 0
    now: float = 0.0
    requests: list[list[str]] = dataclasses.field(default_factory=list)
    sizes: list[int] = dataclasses.field(default_factory=list)
    large: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    metadata: list[dict[str, str]] = dataclasses.field(default_factory=list)
    patience: Patience = dataclasses.field(
        default_factory=lambda: Patience(600, say=lambda _: None, sleep=lambda _: None)
    )

    def call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        return self.patience.keep(lambda: self.once(method, path, **options))

    def once(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        if path.endswith("/known"):
            return {"needs": ["known" if self.known(one["name"]) else "send" for one in options["json"]["files"]]}
        if path.endswith("/tus"):
            pairs = (pair.split(" ") for pair in options["headers"]["Upload-Metadata"].split(","))
            self.metadata.append({name: base64.b64decode(value).decode() for name, value in pairs})
            self.large["/large"] = [0, int(options["headers"]["Upload-Length"])]
            return {"id": "large"}
        if method == "GET":
            return dict(zip(("offset", "size"), self.large["/large"], strict=True))
        if path.endswith("/files"):
            self.requests.append([name for _, (name, _) in options["files"]])
            self._take(sum(len(stream.read()) for _, (_, stream) in options["files"]))
        elif method == "PATCH":
            self.large["/large"][0] += self._take(len(options["content"].read()))
        return {}

    def _take(self, count: int) -> int:
        if self.fails:
            self.fails -= 1
            raise Unreachable("away")
        self.sizes.append(count)
        self.now += count / self.per_second
        return count


def send(line: Line, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Sent]:
    """Send a folder; return how far it was each time that this was told."""
    monkeypatch.setattr(sending.time, "monotonic", lambda: line.now)
    told: list[Sent] = []
    Sender(cast("PatientApi", line), "key", lambda sent: told.append(dataclasses.replace(sent))).send(
        find_files([folder]).found
    )
    return told


def fill(folder: Path, number: int, size: int) -> None:
    for one in range(number):
        (folder / f"{one:03}.png").write_bytes(bytes([one]) * size)


@pytest.mark.parametrize(
    ("per_second", "most"), [(MIB // 10, 4), (6 * MIB, 6), (1000 * MIB, 32)], ids=["slow", "middling", "fast"]
)
def test_a_request_has_what_the_line_takes_in_a_second_within_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, per_second: int, most: int
) -> None:
    fill(tmp_path, 90, MIB)
    line = Line(per_second)
    send(line, tmp_path, monkeypatch)
    assert line.sizes[0] == 4 * MIB
    assert max(line.sizes) == most * MIB
    assert sum(line.sizes) == 90 * MIB


def test_a_line_that_becomes_slow_gets_small_requests_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, 90, MIB)
    line = Line(100 * MIB)
    take = line._take

    def slower(count: int) -> int:
        line.per_second = MIB if len(line.sizes) > 1 else line.per_second
        return take(count)

    monkeypatch.setattr(line, "_take", slower)
    send(line, tmp_path, monkeypatch)
    assert [size // MIB for size in line.sizes[:4]] == [4, 32, 32, 4]


def test_a_line_that_breaks_gets_small_requests_with_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 70, MIB)
    line = Line(100 * MIB)
    take = line._take

    def breaks(count: int) -> int:
        line.fails = int(len(line.requests) == 2)
        return take(count)

    monkeypatch.setattr(line, "_take", breaks)
    told = send(line, tmp_path, monkeypatch)
    assert [len(request) for request in line.requests] == [4, 32, 4, 28, 32, 2]
    assert told[-1].files == 70
    assert sum(line.sizes) == 70 * MIB


def test_a_file_larger_than_a_request_comes_in_parts_of_that_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 1, 10 * MIB)
    line = Line(MIB)
    told = send(line, tmp_path, monkeypatch)
    assert [size / MIB for size in line.sizes] == [4, 4, 2]
    assert line.requests == []
    assert told[-1] == Sent(of_files=1, of_bytes=10 * MIB, files=1, bytes=10 * MIB)


@pytest.mark.parametrize(("size", "more"), [(64 * MIB, set()), (64 * MIB + 1, {"slices"})])
def test_a_browser_can_go_on_with_the_parts_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, more: set[str]
) -> None:
    """It hashes files of up to 64 MiB as a whole, and larger ones in slices."""
    fill(tmp_path, 1, size)
    line = Line(100 * MIB)
    send(line, tmp_path, monkeypatch)
    (metadata,) = line.metadata
    assert metadata.keys() == {"filename", "sha256"} | more
    assert metadata.get("slices") in (None, fingerprint((tmp_path / "000.png").read_bytes()))


def test_few_small_files_say_nothing_of_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("file,caption\n")
    fill(tmp_path, 40, MIB)
    line = Line(100 * MIB)
    monkeypatch.setattr(sending, "_LOT_FILES", 20)
    send(line, tmp_path, monkeypatch)
    # the lots end with a file or two
    assert max(line.sizes) > 15 * MIB


def test_what_describes_pictures_is_sent_before_them_also_if_it_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 3, 1000)
    (tmp_path / "z.csv").write_bytes(b"x" * 5 * MIB)
    (tmp_path / "a.txt").write_text("a note")
    line = Line(MIB)
    send(line, tmp_path, monkeypatch)
    assert [[one.rpartition("/")[2] for one in request] for request in line.requests] == [
        ["a.txt"],
        ["000.png", "001.png", "002.png"],
    ]
    # between these the parts of the large one
    assert line.sizes[1:3] == [4 * MIB, MIB]


def test_progress_counts_bytes_while_they_go_out_and_not_those_that_the_server_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 4, 1000)
    line = Line(MIB, known=lambda name: name.endswith("000.png"), fails=1)
    told = send(line, tmp_path, monkeypatch)
    assert told[0] == Sent(of_files=4, of_bytes=3000, files=1)
    assert max(one.under_way for one in told) == 3000
    # what a broken request had sent does not count
    assert [one.under_way for one in told].count(1000) == 2
    assert told[-1] == Sent(of_files=4, of_bytes=3000, files=4, bytes=3000)
    assert all(one.bytes + one.under_way <= one.of_bytes for one in told)


@pytest.mark.parametrize(
    ("sent", "amount", "finished"),
    [
        (Sent(60, 9 * MIB, 20, 3 * MIB, MIB), "20/60 files, 4.2 MB of 9.4 MB", False),
        (Sent(60, 0, 60), "60/60 files", True),
        (Sent(2, 0, 1), "1/2 files", False),
    ],
    ids=["half", "nothing to send", "only empty files"],
)
def test_the_bar_of_an_upload_shows_files_and_bytes(sent: Sent, amount: str, finished: bool) -> None:
    with show.progress(quiet=True) as bar:
        task = bar.add_task("uploading", total=None)
        show.sent(bar, task, sent)
        (shown,) = bar.tasks
    assert show._Amount().render(shown).plain == amount
    assert shown.finished is finished


def test_the_bar_of_a_job_without_work_shows_no_amount() -> None:
    with show.progress(quiet=True) as bar:
        for total in (0, 5, None):
            bar.add_task("reading files", total=total)
    assert [show._Amount().render(task).plain for task in bar.tasks] == ["", "0/5", "0/?"]


def test_the_bar_says_how_much_time_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    bar = show.progress(quiet=True)
    now = [0.0]
    bar.get_time = lambda: now[0]
    task = bar.add_task("uploading", total=None)
    for done in range(4):
        now[0] = float(done)
        show.sent(bar, task, Sent(1, 90 * MIB, 0, 0, done * MIB))
    (shown,) = bar.tasks
    assert show._TimeLeft().render(shown).plain == "0:01:27 left"
    show.sent(bar, task, Sent(1, 90 * MIB, 1, 90 * MIB))
    assert show._TimeLeft().render(shown).plain == ""
    other = bar.add_task("reading files", total=5)
    assert show._TimeLeft().render(bar.tasks[other]).plain == ""
