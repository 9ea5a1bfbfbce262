"""Entries of a ZIP that repeat long names take no more work than the archive has bytes."""

from __future__ import annotations

import io

import pytest
from tests.unit.media import handmade
from tests.unit.media.handmade import Entry, unicode_path

from retllm.errors import MediaRejected
from retllm.media import archives
from retllm.settings import Settings


def test_only_one_unicode_path_of_an_entry_is_compared_with_its_name(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = b"n" * 1_000
    data = handmade.made([Entry(name, extra=unicode_path(b"b.txt", "a.txt") * 1_000)])
    compared: list[bytes] = []

    def compared_with(data: bytes) -> int:
        compared.append(data)
        return 0

    monkeypatch.setattr("retllm.media.zips.zlib.crc32", compared_with)
    with archives.opened(io.BytesIO(data), settings):
        assert compared == [name]


def test_a_long_header_that_many_entries_share_is_not_read_for_each(settings: Settings) -> None:
    read = 0

    class Counted(io.BytesIO):
        def read(self, count: int | None = -1, /) -> bytes:
            nonlocal read
            data = super().read(count)
            read += len(data)
            return data

    first = Entry(b"a", local={"name": b"n" * 60_000})
    data = handmade.made([first, *[Entry(b"a", offset=0, written=False)] * 1_000])
    with pytest.raises(MediaRejected, match="overlap"), archives.opened(Counted(data), settings):
        pass
    assert read < 4 * len(data)
