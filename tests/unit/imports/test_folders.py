"""Only what lies in an allowed folder is found and opened, whatever links and other programs do."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from retllm.errors import Forbidden, InvalidInput
from retllm.imports import allowing
from retllm.imports.folders import LINK_OUT, LINK_WITHIN, Folder
from retllm.imports.found import Listed
from retllm.media import special_files
from retllm.media.clutter import ClutterCount
from retllm.media.local_files import Unreadable

_NOBODY = 65534


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file outside the folder that may be imported."""
    path = tmp_path / "secret" / "key.png"
    path.parent.mkdir()
    path.write_bytes(b"secret")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root" / "photos"
    path.mkdir(parents=True)
    return path


@contextmanager
def not_as_root() -> Iterator[None]:
    """Have the rights of somebody whom no file belongs to, if this is root, who may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


def allowed(path: Path, roots: Sequence[Path]) -> Folder:
    opened = allowing.allowed(str(path), [str(root) for root in roots])
    assert isinstance(opened, Folder)
    return opened


def found(path: Path, clutter: ClutterCount | None = None) -> dict[str, Listed]:
    with allowed(path, [path]) as folder:
        return {one.name: one for one in folder.files(clutter or ClutterCount())}


def test_nothing_may_be_imported_unless_it_is_allowed(root: Path, secret: Path) -> None:
    with pytest.raises(Forbidden, match="RETLLM_IMPORT_ROOTS"):
        allowed(root, [])
    with pytest.raises(Forbidden, match="may not be imported"):
        allowed(secret.parent, [root])
    with pytest.raises(Forbidden, match="may not be imported"):
        allowed(root.parent, [root])
    with pytest.raises(Forbidden, match="may not be imported"):
        allowed(root / ".." / ".." / "secret", [root])
    for path in (root / "none", secret):
        with pytest.raises(InvalidInput, match="can't be imported"):
            allowed(path, [secret.parent, root])


def test_a_link_to_a_folder_counts_as_what_it_leads_to(root: Path, secret: Path, tmp_path: Path) -> None:
    (root / "out").symlink_to(secret.parent)
    with pytest.raises(Forbidden, match="may not be imported"):
        allowed(root / "out", [root])
    (tmp_path / "link").symlink_to(root)
    with allowed(tmp_path / "link", [root]) as folder:
        assert folder.path == root
    with allowed(root, [tmp_path / "link"]) as folder:
        assert folder.path == root


def test_everything_has_the_name_that_an_upload_gives_it(root: Path) -> None:
    (root / "2023" / "june").mkdir(parents=True)
    for name in ("b.png", "a.png", "2023/c.png", "2023/june/d.png"):
        (root / name).write_bytes(b"x")
    (root / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    names = list(found(root))
    assert names == ["photos/a.png", "photos/b.png", "photos/café.png", "photos/2023/c.png", "photos/2023/june/d.png"]
    with allowed(root, [root]) as folder, folder.open(b"caf\xe9.png") as opened:
        assert opened.read() == b"x"


def test_files_of_one_name_are_told_apart(root: Path) -> None:
    for raw in (b"a\x01.png", b"a\x02.png"):
        Path(os.fsdecode(bytes(root) + b"/" + raw)).write_bytes(raw)
    assert len(found(root)) == 2


def test_links_are_not_followed_and_it_is_said_where_they_lead(root: Path, secret: Path) -> None:
    (root / "a.png").write_bytes(b"x")
    (root / "out.png").symlink_to(secret)
    (root / "folder").symlink_to(secret.parent)
    (root / "within.png").symlink_to(root / "a.png")
    (root / "round").symlink_to(root)
    (root / "up.png").symlink_to("../../secret/key.png")
    remarks = {name: one.remark for name, one in found(root).items()}
    assert remarks == {
        "photos/a.png": None,
        "photos/out.png": LINK_OUT,
        "photos/up.png": LINK_OUT,
        "photos/folder": LINK_OUT,
        "photos/within.png": LINK_WITHIN,
        "photos/round": LINK_WITHIN,
    }


def test_a_link_put_in_the_place_of_a_file_or_folder_is_not_followed(root: Path, secret: Path) -> None:
    (root / "inner").mkdir()
    (root / "inner" / "key.png").write_bytes(b"harmless")
    with allowed(root, [root]) as folder:
        assert [one.path for one in folder.files(ClutterCount())] == [b"inner/key.png"]
        (root / "inner" / "key.png").unlink()
        (root / "inner" / "key.png").symlink_to(secret)
        with pytest.raises(Unreadable), folder.open(b"inner/key.png"):
            pass
        (root / "inner" / "key.png").unlink()
        (root / "inner").rmdir()
        (root / "inner").symlink_to(secret.parent)
        with pytest.raises(Unreadable), folder.open(b"inner/key.png"):
            pass
        assert [one.remark for one in folder.files(ClutterCount())] == [LINK_OUT]


def test_a_link_put_in_the_place_of_the_folder_is_not_followed(root: Path, secret: Path) -> None:
    (root / "key.png").write_bytes(b"harmless")
    with allowed(root, [root.parent]) as folder:
        root.rename(root.parent / "moved")
        root.symlink_to(secret.parent)
        with folder.open(b"key.png") as opened:
            assert opened.read() == b"harmless"
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        Folder(root.parent, root)


def test_devices_and_pipes_are_told_and_never_opened(root: Path) -> None:
    os.mkfifo(root / "pipe")
    assert found(root)["photos/pipe"].error == special_files.NO_FILE
    with allowed(root, [root]) as folder, pytest.raises(Unreadable, match="changed"), folder.open(b"pipe"):
        pass


def test_a_file_that_is_written_while_it_is_read_is_refused(root: Path) -> None:
    file = root / "a.png"
    file.write_bytes(b"before")
    with allowed(root, [root]) as folder:
        with folder.open(b"a.png") as opened:
            assert opened.read() == b"before"
            opened.check()
            # of the same size
            file.write_bytes(b"behind")
            os.utime(file, ns=(0, opened.facts.changed_ns + 1))
            with pytest.raises(Unreadable, match="changed while it was read"):
                opened.check()
        with folder.open(b"a.png") as opened:
            file.write_bytes(b"now longer")
            with pytest.raises(Unreadable, match="changed while it was read"):
                opened.read()


def test_clutter_is_counted_as_in_an_upload(root: Path) -> None:
    (root / "@eaDir").mkdir()
    for name in (".DS_Store", "Thumbs.db", "@eaDir/a.png", "@eaDir/b.png", "a.png"):
        (root / name).write_bytes(b"x")
    clutter = ClutterCount()
    assert list(found(root, clutter)) == ["photos/a.png"]
    assert {one.name: one.count for one in clutter.outcomes()} == {
        "photos/.DS_Store": 1,
        "photos/Thumbs.db": 1,
        "photos/@eaDir": 2,
    }


def test_a_folder_that_can_not_be_read_is_told() -> None:
    # not in the folder of the test, which only its owner may enter
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        (Path(path) / "closed").mkdir(mode=0o000)
        with not_as_root():
            (told,) = found(Path(path)).values()
    assert "can't be read" in str(told.error)
