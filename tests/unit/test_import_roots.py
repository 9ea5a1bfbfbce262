"""What may be written in RETLLM_IMPORT_ROOTS, and what lies within it."""

from __future__ import annotations

from pathlib import Path

import pytest

from retllm.import_roots import Prefix, is_plain, root_of
from retllm.settings import Settings


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("/srv/pictures", Path("/srv/pictures")),
        ("s3://bucket", Prefix("bucket", "")),
        ("s3://bucket/", Prefix("bucket", "")),
        ("s3://bucket/photos", Prefix("bucket", "photos/")),
        ("s3://bucket/photos/2019/", Prefix("bucket", "photos/2019/")),
    ],
)
def test_a_folder_or_a_prefix_is_told_by_its_address(address: str, meant: Prefix | Path) -> None:
    assert root_of(address) == meant


@pytest.mark.parametrize(
    "address", ["s3://", "s3://b/", "s3:///photos", "s3://bucket/../other", "s3://bucket/a//b", "ftp://host/photos"]
)
def test_any_other_address_is_refused_when_a_process_starts(address: str) -> None:
    with pytest.raises(ValueError, match="s3://BUCKET/PREFIX/"):
        Settings(import_roots=("/srv", address))


def test_a_prefix_ends_at_a_slash() -> None:
    photos = Prefix("bucket", "photos/")
    assert photos.contains(Prefix("bucket", "photos/2019/"))
    assert not photos.contains(Prefix("bucket", "photos-private/"))
    assert not photos.contains(Prefix("bucket", ""))
    assert not photos.contains(Prefix("other", "photos/2019/"))


def test_parts_of_a_key_that_lead_elsewhere_are_found() -> None:
    assert is_plain("a/..b/c")
    assert not any(map(is_plain, ("a/../b", "/a", "a//b", "a/.", "a/", "")))
