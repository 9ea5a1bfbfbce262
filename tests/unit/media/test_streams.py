"""Streams are measured, hashed and copied in chunks."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retllm.errors import MediaRejected, TooLarge
from retllm.media import streams


@given(st.binary(max_size=3000))
def test_the_digest_covers_the_whole_stream_from_any_position(data: bytes) -> None:
    stream = io.BytesIO(data)
    stream.seek(len(data) // 2)
    assert streams.digest(stream, 3000) == hashlib.sha256(data).hexdigest()
    assert stream.tell() == 0


def test_size_limits_are_exact_to_the_byte() -> None:
    assert streams.digest(io.BytesIO(b"x" * 10), 10)
    streams.spool(io.BytesIO(b"x" * 10), 10).close()
    for call in (streams.digest, streams.spool, streams.check_utf8):
        with pytest.raises(TooLarge, match="RETLLM_MAX_FILE_BYTES"):
            call(io.BytesIO(b"x" * 11), 10)


def test_a_large_copy_is_kept_on_disk() -> None:
    for count, on_disk in ((1000, False), (streams.IN_MEMORY + 1, True)):
        with streams.spool(io.BytesIO(bytes(count)), 1 << 30) as kept:
            assert isinstance(kept, tempfile.SpooledTemporaryFile)
            assert kept._rolled is on_disk  # type: ignore[attr-defined]
            assert streams.length(kept) == count


class Slowly(io.BytesIO):
    """Returns three bytes at a time, so that characters are split."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(3)


@given(st.text(max_size=60))
def test_utf8_is_accepted_even_if_characters_are_split(text: str) -> None:
    stream = Slowly(text.encode())
    streams.check_utf8(stream, 10_000)
    assert stream.tell() == 0


@given(
    st.text(max_size=20),
    st.sampled_from([b"\xff", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80"]),
    st.sampled_from(["", "a", "猫!"]),
)
def test_the_error_names_the_first_invalid_byte(before: str, wrong: bytes, after: str) -> None:
    at = len(before.encode()) + 1
    with pytest.raises(MediaRejected, match=rf"byte {at:,}\)"):
        streams.check_utf8(Slowly(before.encode() + wrong + after.encode()), 10_000)


def test_sizes_are_formatted_with_a_unit() -> None:
    assert streams.size(64 << 20) == "67.1 MB"
    assert streams.exact_size(64 << 20) == "67.1 MB (67,108,864 bytes)"
    assert streams.size(1500) == "1.5 kB"
    assert streams.exact_size(999) == "999 bytes"


def test_a_file_is_passed_for_reading_only_and_keeps_its_own_position(tmp_path: Path) -> None:
    content = bytes(range(256)) * 100
    (tmp_path / "a").write_bytes(content)
    with tempfile.TemporaryFile() as temporary, (tmp_path / "a").open("rb") as stored:
        temporary.write(content)
        for stream in (io.BytesIO(content), temporary, stored):
            stream.seek(0)
            assert stream.read(10) == content[:10]
            with streams.read_only(stream) as descriptor:
                assert os.read(descriptor, 300) == content[:300]
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.write(descriptor, b"x")
                os.lseek(descriptor, 20_000, os.SEEK_SET)
            stream.seek(0)
            assert stream.read() == content
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(descriptor)
