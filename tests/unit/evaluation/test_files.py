"""Reads the first entries of a JSON array that is too large to be read at once."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retllm.errors import BenchmarkUnreadable
from retllm.evaluation.benchmarks import files

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(entries=st.lists(values, max_size=6), block=st.integers(1, 9), indent=st.sampled_from([None, 1]))
@settings(max_examples=60, deadline=None)
def test_the_first_entries_are_those_of_the_parsed_file(tmp_path_factory, entries, block, indent):
    """A block can end anywhere, even inside a text, a number or an escape."""
    path = tmp_path_factory.mktemp("json") / "array.json"
    path.write_text(json.dumps(entries, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_BLOCK", block)
        for count in (0, 2, 9):
            assert list(files.first_entries(path, count)) == entries[:count]


@pytest.mark.parametrize("text", ["", "{}", "[1, 2", "[1, 2,", '["a'])
def test_a_file_that_is_not_a_complete_array_is_refused(tmp_path, text):
    path = tmp_path / "array.json"
    path.write_text(text)
    with pytest.raises(BenchmarkUnreadable, match=r"array\.json is not a complete JSON array"):
        list(files.first_entries(path, 5))
