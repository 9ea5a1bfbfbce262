"""Every key of a profile: whatever stands there, and whatever the file is, the message says where and what to do."""

from __future__ import annotations

import inspect
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils.chat_template_utils import render_jinja_template

from retllm.profiles import BadProfile, Profile, load_profile, parse_profile
from retllm.profiles.parts import RESERVED
from retllm.profiles.reading import MOST_BYTES
from retllm.settings import Settings

EMPTY = ['""', '" "', '"\\n"']
NO_TEXT = ["3", "true", "1.5", "2026-01-01", '["x"]', "{ a = 1 }", "[[]]", '"a\\u0000b"', '"a\\u001b[31m"']
NO_NUMBER = ['"3"', "true", "3.0", "nan", "-1", "0", "1e3", "[3]", "{ a = 1 }", "9" * 30, "2026-01-01T10:00:00Z"]
NO_TABLE = ["3", '"x"', "true", "[]", '["x"]', "2026-01-01"]
NO_LIST = ['"x"', "3", "true", "{ a = 1 }"]
ASKED_THERE = [f'"Look: {place}"' for place in ("{query}", "{ask}", "@query.image", "{instruction}", "{candidate}")]
NO_ARGUMENT = [
    "[1]",
    "{ a = 1 }",
    "nan",
    "inf",
    "-inf",
    "2026-01-01",
    "10:00:00",
    "9" * 30,
    "-" + "9" * 30,
    '"\\u0000"',
]
LONG = '["%s"]' % ("y" * 101)
LABELS = 'labels.true_false = { positive = %s, negative = ["no"] }'

MISTAKES: dict[str, tuple[str, list[str]]] = {
    "source": ("source = %s", ["3", "true", '["x"]']),
    "system": ("system = %s", EMPTY + NO_TEXT + ASKED_THERE),
    "instruction": ("instruction = %s", EMPTY + NO_TEXT + ASKED_THERE),
    "score": ("score = %s", [*EMPTY, '"Labels"', "3", "true", '["labels"]', '"' + "x" * 5000 + '"']),
    "modes": ("modes = %s", [*NO_LIST, "[]", '[""]', '["choice"]', '["true_false", "yes"]', "[3]", '[["true_false"]]']),
    "picture_tokens": ("picture_tokens = %s", [*NO_NUMBER, "15", "1000001"]),
    "k": ("k = %s", [*NO_NUMBER, "1000001"]),
    "template_arguments": ("template_arguments = %s", NO_TABLE),
    "template_arguments.": ("template_arguments = { a_name = %s }", NO_ARGUMENT),
    "template_arguments..": (
        "template_arguments = { %s = true }",
        [*sorted(RESERVED), '""', '"a b"', '"{% x %}"', '"1a"', '"' + "-" * 5000 + '"', '"a\\u0000"'],
    ),
    "ask": ("ask = %s", [*NO_TABLE, '{ verbalised = "x" }']),
    "ask.": ("ask = { true_false = %s }", EMPTY + NO_TEXT + ASKED_THERE),
    "labels": ("labels = %s", [*NO_TABLE, "{ verbalized = { positive = ['a'], negative = ['b'] } }"]),
    "labels.true_false": ("labels = { true_false = %s }", [*NO_TABLE, "{}", '{ positive = ["y"] }', '{ yes = ["x"] }']),
    "labels.true_false.positive": (LABELS, [*NO_LIST, "[]", '[""]', '[" "]', "[3]", '["y", 3]', LONG]),
    "spellings": (LABELS, ['["no"]', '[" no"]', '["NO"]', '["ｎｏ"]', '["not"]', '["n"]', '["yes", "no "]', '["No."]']),
    "pairs": ("pairs = %s", [*NO_TABLE, '{ "" = ["x"] }', '{ "text" = ["x"] }', '{ "%s" = ["x"] }' % ("y" * 5000)]),
    "pairs.": (
        'pairs = { "text->text" = %s }',
        [*NO_LIST, "[]", '[""]', '["{query}"]', '["{query} {candidate}"]', '["{query} {candidate} {ask} {ask}"]',
         '["{query} {candidate} {ask} {x}"]', '["{query}{candidate}{ask}", "@query.image"]',
         '["{query} {candidate} {ask}", 3]', '["{query} {candidate} {ask} \\u0000"]'],
    ),
    "match": ("match = %s", [*NO_TABLE, "{ type = 1 }"]),
    "match.": ("match = { names = %s }", [*NO_LIST, '[""]', "[3]"]),
    "match..": ("match = { named = %s }", ['"yes"', "1", "[]"]),
    "another": ("%s = 1", ["name", '""', "nom", '"a\\u001b[2J"', '"' + "x" * 9000 + '"', "a.b.c"]),
}  # fmt: skip

TOML = {
    "deep lists": f"k = {'[' * 3000}{']' * 3000}",
    "deep tables": f"k = {'{a=' * 3000}1{'}' * 3000}",
    "dotted keys": f"{'a.' * 3000}a = 1",
    "deep arguments": f"template_arguments = {{ x = {'[' * 200}{']' * 200} }}",
    "a number of many digits": f"k = {'9' * 5000}",
    "twice": 'system = "a"\nsystem = "b"',
    "a table twice": "[ask]\n[ask]",
    "no value": "system =",
    "a bare word": "score = labels",
    "JSON": '{"system": "x"}',
    "another day": "k = 2026-02-31",
    "control characters": 'system = "\x00"',
}


def _each() -> Iterator[Any]:
    for key, (text, values) in MISTAKES.items():
        for number, value in enumerate(values):
            yield pytest.param(text % value, key.rstrip("."), id=f"{key}-{number}")
    for name, text in TOML.items():
        yield pytest.param(text, "", id=name)


@pytest.mark.parametrize(("text", "key"), list(_each()))
def test_a_mistake_is_one_sentence_that_names_the_key(text: str, key: str) -> None:
    with pytest.raises(BadProfile) as caught:
        parse_profile(text, "mine", "mine.toml")
    message = str(caught.value)
    assert message.startswith("The profile mine.toml")
    named = {"another": "key", "spellings": "labels.true_false"}.get(key, key)
    assert named in message
    assert len(message) < 600
    assert not any(unicodedata.category(one).startswith("C") for one in message)
    # it says what the value has to be, or what to do
    assert re.search(r"remove|correct|add|set|use|choose|must have|rename", message.lower())
    assert not re.search(r"after validation|Tuple|pattern|instance|dictionary|valid (string|integer|boolean)", message)


def test_every_key_has_mistakes() -> None:
    assert set(Profile.model_fields) - {"name"} <= {key.partition(".")[0] for key in MISTAKES}


def test_no_argument_of_the_call_that_fills_in_a_template_can_be_set() -> None:
    for call in (
        ProcessorMixin.apply_chat_template,
        PreTrainedTokenizerBase.apply_chat_template,
        render_jinja_template,
    ):
        assert set(inspect.signature(call).parameters) <= RESERVED
    # what the template itself is given
    assert {"messages", "tools", "documents", "add_generation_prompt"} <= RESERVED


def test_what_is_no_file_of_text_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    reasons = {}
    os.mkfifo(path)
    reasons["a pipe"] = _refused(str(path))
    path.unlink()
    path.mkdir()
    reasons["a folder"] = _refused(str(path))
    path.rmdir()
    for target in ("/dev/zero", "/dev/tty", str(path)):
        path.symlink_to(target)
        reasons[target] = _refused(str(path))
        path.unlink()
    path.write_bytes(b"#" * (MOST_BYTES + 1))
    reasons["a large file"] = _refused(str(path))
    path.write_bytes("système = 1".encode("latin-1"))
    reasons["another encoding"] = _refused(str(path))
    for name in ("~nobody-of-this-name/mine.toml", "mine\0.toml", f"{'x' * 300}.toml", "a\udcff.toml", "mine.json"):
        reasons[name] = _refused(name)
    assert {name: reason for name, reason in reasons.items() if not reason} == {}
    for name in ("a pipe", "/dev/zero"):
        assert "it is no regular file" in reasons[name]
    assert "64 KiB" in reasons["a large file"]
    assert "UTF-8" in reasons["another encoding"]


def _refused(name: str) -> str:
    with pytest.raises(ValueError, match="Value error, The") as caught:
        Settings(profile=name)
    return str(caught.value)


def test_a_file_of_a_windows_editor_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b'\xef\xbb\xbfsystem = "Be brief."\r\n')
    assert load_profile(str(path)).system == "Be brief."


def test_the_largest_allowed_profile_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    text = 'system = "%s"' % ("x" * (MOST_BYTES - 11))
    path.write_text(text, encoding="utf-8")
    assert path.stat().st_size == MOST_BYTES
    assert load_profile(str(path)).system
