"""Secrets are replaced by three stars; all other text stays unchanged."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, quote_plus

import pydantic
import pytest

from retllm.cli.checks import Check
from retllm.cli.main import settings_sentence
from retllm.errors import InvalidInput, StackError
from retllm.queue.claim import describe
from retllm.redaction import redact, remember, remember_addresses, remember_environment
from retllm.settings import Settings

pytestmark = pytest.mark.slow

PASSWORD = "Xq7/we@ird:pw%20"  # with every separator of a URL


@pytest.mark.parametrize(
    ("original", "redacted"),
    [
        ("at postgresql+psycopg://me:Xq7weirdpw@db/name now", "at postgresql+psycopg://me:***@db/name now"),
        ("redis://:Xq7weirdpw@127.0.0.1:6379/0", "redis://:***@127.0.0.1:6379/0"),
        ("s3://AKIAKEY:Xq7weirdpw@bucket/folder", "s3://AKIAKEY:***@bucket/folder"),
        ("https://h/x?a=1&access_token=Xq7weirdpw&b=2", "https://h/x?a=1&access_token=***&b=2"),
        ("connection host=db password=Xq7weirdpw user=me", "connection host=db password=*** user=me"),
        ("Authorization: Bearer Xq7weirdpw", "Authorization: Bearer ***"),
        ("the token rlm_Xq7weirdpw is over", "the token rlm_*** is over"),
        ("path=/s/rll_Xq7weirdpw/items", "path=/s/rll_***/items"),
    ],
)
def test_text_that_looks_like_a_secret_is_redacted(original: str, redacted: str) -> None:
    assert redact(original) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "it looks like postgresql://user:password@host:5432/name.",
        "send a valid token as a bearer token of the API",
        "see http://127.0.0.1:8080/jobs?after=5&state=dead, a@b.c",
        "two: lines\nof a log 12:30:01 user@host",
        "file:///srv/media, s3://bucket/folder",
    ],
)
def test_other_text_is_not_changed(text: str) -> None:
    assert redact(text) == text


def test_a_known_secret_is_redacted_in_every_encoding() -> None:
    remember_addresses(f"s3://key:{PASSWORD}@bucket")
    remember('quoted "Xq8weird" secret')
    remember("k+Xq8/a=&<z>9")
    for form in (
        quote("k+Xq8/a=&<z>9"),
        quote_plus("k+Xq8/a=&<z>9", safe="/"),
        "k+Xq8\\/a=&<z>9",
        "k+Xq8/a=&amp;&lt;z&gt;9",
        "k+Xq8/a=\\u0026\\u003cz\\u003e9",
        base64.b64encode(b"k+Xq8/a=&<z>9").decode(),
        base64.urlsafe_b64encode(b"k+Xq8/a=&<z>9").decode().rstrip("="),
    ):
        assert redact(f"refused: {form}, again {form}").replace("=", "") == "refused: ***, again ***", form
    for spelling in (PASSWORD, "Xq7%2Fwe%40ird%3Apw%2520", "Xq7/we@ird:pw "):
        assert redact(f"a {spelling} b") == "a *** b"
    assert redact('{"line": "quoted \\"Xq8weird\\" secret"}') == '{"line": "***"}'


def test_a_secret_that_contains_another_one_is_redacted_as_a_whole() -> None:
    secrets = [f"Xq6-nested{'-longer' * times}" for times in range(6)]
    remember(*secrets)
    assert redact(" ".join(secrets)) == " ".join(["***"] * 6)


def test_secrets_of_the_environment_are_recognized_by_the_variable_name() -> None:
    names = ("AWS_SECRET_ACCESS_KEY", "RETLLM_SECRET_KEY", "HF_TOKEN", "PGPASSWORD")
    remember_environment({name: f"Xq9-of-{name}" for name in names} | {"HOME": "/home/Xq9", "SHORT_TOKEN": "a"})
    for name in names:
        assert redact(f"<Xq9-of-{name}>") == "<***>"
    assert redact("a cat in /home/Xq9") == "a cat in /home/Xq9"


def test_errors_redact_secrets_in_message_and_detail() -> None:
    error = StackError(
        "s3://k:Xq7weirdpw@b is away", url="s3://k:Xq7weirdpw@b", tail=["at s3://k:Xq7weirdpw@b"], count=3
    )
    assert error.as_json()["error"]["message"] == "s3://k:***@b is away"
    assert error.detail == {"url": "s3://k:***@b", "tail": ["at s3://k:***@b"], "count": 3}
    assert str(error) == "s3://k:***@b is away"
    assert InvalidInput("plain", index=1).detail == {"index": 1}


def test_the_error_of_a_unit_redacts_secrets() -> None:
    assert describe(OSError("s3://k:Xq7weirdpw@b: denied")) == "OSError: s3://k:***@b: denied"


def test_a_check_of_the_doctor_redacts_secrets() -> None:
    assert Check("storage", "failed", "at s3://k:Xq7weirdpw@b").as_json()["message"] == "at s3://k:***@b"


def test_settings_do_not_show_their_secrets(tmp_path: Path) -> None:
    made = Settings(
        home=tmp_path,
        database_url="postgresql://me:Xq7-of-database@db/x",
        redis_url="redis://:Xq7-of-redis@r/0",
        storage_url="s3://key:Xq7-of-storage@b",
        secret_key="Xq7-of-the-key-1234567890-abcdefghij",
        metrics_token="Xq7-of-metrics",
    )
    assert "Xq7" not in repr(made) + str(made)
    assert redact("Xq7-of-database Xq7-of-redis Xq7-of-metrics Xq7-of-storage") == "*** *** *** ***"


CRASH = """
import sys, threading
from retllm import logs
logs.configure("INFO", sys.argv[1])
def crash():
    raise RuntimeError("at postgresql://me:Xq7weirdpw@db/x, Bearer Xq7weirdpw, Xq7-in-the-environment")
thread = threading.Thread(target=crash)
thread.start()
thread.join()
import logging
try:
    crash()
except RuntimeError:
    logging.getLogger("theirs").exception("it broke at %s", "redis://:Xq7weirdpw@r")
crash()
"""


@pytest.mark.parametrize("form", ["console", "json"])
def test_log_lines_and_tracebacks_contain_no_secret(form: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CRASH, form],
        env={"DATABASE_PASSWORD": "Xq7-in-the-environment"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.count("RuntimeError: at postgresql://me:***@db/x, Bearer ***, ***") == 3
    assert "Xq7" not in done.stderr + done.stdout


def test_the_error_for_an_invalid_setting_does_not_show_secrets_of_others() -> None:
    folders = "local-dir:/a/same,local-dir:/b/same"
    secrets = {"RETLLM_SECRET_KEY": "Xq7-of-the-key-1234567890-abcdefghij", "REDIS_URL": "redis://:Xq7-pw@h/0"}
    for program in ("from retllm.cli.main import main; main(['doctor', '--json'])", "import retllm_web.wsgi"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={"RETLLM_EXTRA_EMBEDDERS": folders, **secrets},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode != 0
        assert "two embedders are called" in done.stderr
        assert "Xq7" not in done.stdout + done.stderr


def test_the_error_for_an_invalid_setting_does_not_show_a_password_in_its_value() -> None:
    with pytest.raises(pydantic.ValidationError) as refused:
        Settings(port="postgresql://me:Xq7weirdpw@db/x")  # type: ignore[arg-type]  # meant for another variable
    assert "postgresql://me:***@db/x" in settings_sentence(refused.value)
