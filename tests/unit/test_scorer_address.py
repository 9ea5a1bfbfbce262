"""The address of a scorer on a server, and the settings that do not go with one."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from retllm.redaction import redact
from retllm.scorer_address import BadScorerAddress, parse_scorer_address
from retllm.settings import Settings, public_name


@pytest.mark.parametrize(
    ("text", "api", "name"),
    [
        ("openai+http://gpu:8000/v1#Qwen/Qwen3-VL-8B", "http://gpu:8000/v1", "openai:Qwen/Qwen3-VL-8B"),
        ("openai+http://gpu:8000#q", "http://gpu:8000/v1", "openai:q"),
        ("openai+https://API.example.com/openai/v1/#a#b@c", "https://api.example.com/openai/v1", "openai:a#b@c"),
        ("rerank+http://gpu:8001#jinaai/m0", "http://gpu:8001/rerank", "rerank:jinaai/m0"),
        ("rerank+http://gpu:8001/v1#m", "http://gpu:8001/v1/rerank", "rerank:m"),
        ("rerank+http://[::1]:8001/score#m", "http://[::1]:8001/score", "rerank:m"),
    ],
)
def test_an_address_has_an_api_and_a_name_that_does_not_contain_it(text: str, api: str, name: str) -> None:
    found = parse_scorer_address(text)
    assert (found.api, found.name) == (api, name)
    assert public_name(text) == public_name(name) == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http://gpu:8000/v1#m", "is openai+http://HOST:8000/v1#MODEL or"),
        ("ollama+http://gpu#m", "is openai+http://HOST:8000/v1#MODEL or"),
        ("openai+http://gpu:8000/v1", "ends in # and the name"),
        ("openai+http://gpu:8000/v1#", "ends in # and the name"),
        ("openai+http://gpu:8000/v1#a b", "ends in # and the name"),
        ("openai+ftp://gpu#m", "needs http or https and a host"),
        ("openai+http://#m", "needs http or https and a host"),
        ("openai+http://gpu:99999#m", "host or port"),
        ("openai+http://[::1#m", "host or port"),
        ("openai+http://me:canary@gpu#m", "no user name and no password: set its key"),
        ("openai+http://gpu/v1?key=canary#m", "no parameters"),
    ],
)
def test_a_malformed_address_is_an_error_that_says_what_to_do(text: str, message: str) -> None:
    with pytest.raises(BadScorerAddress) as raised:
        parse_scorer_address(text)
    assert message in str(raised.value)
    assert "canary" not in str(raised.value)
    with pytest.raises(ValidationError) as invalid:
        Settings(scorer=text)
    assert message in str(invalid.value)
    assert "canary" not in str(invalid.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trigger": "entropy"}, "unset RETLLM_TRIGGER"),
        ({"scorer_revision": "main"}, "unset RETLLM_SCORER_REVISION"),
        ({"scorer": "rerank+http://gpu#m", "mode": "choice"}, "unset RETLLM_MODE"),
        ({"scorer_key": "a-canary\nb"}, "such as a line break"),
    ],
)
def test_settings_that_a_server_cannot_follow_are_refused_at_the_start(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Settings(**({"scorer": "openai+http://gpu#m"} | values))
    assert message in str(raised.value)
    assert "canary" not in str(raised.value)


def test_re_injection_is_off_with_a_scorer_on_a_server_unless_it_is_set() -> None:
    assert Settings(scorer="openai+http://gpu#m").default_trigger == "off"
    assert Settings(scorer="openai+http://gpu#m", trigger="off").default_trigger == "off"
    assert Settings().default_trigger == "entropy"


def test_the_key_is_redacted_and_not_part_of_what_settings_show() -> None:
    settings = Settings(scorer="openai+http://gpu#m", scorer_key="canary-of-a-key")
    assert "canary" not in repr(settings)
    assert redact("Bearer canary-of-a-key") == "Bearer ***"
