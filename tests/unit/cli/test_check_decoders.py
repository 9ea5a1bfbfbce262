"""`retllm doctor` tells what the kernel keeps from the decoders of pictures."""

from __future__ import annotations

import pytest

from retllm.cli.checks import check_decoders
from retllm.errors import StackError
from retllm.media import decoder, decoder_process
from retllm.media.decoding.confinement import PROTECTIONS
from retllm.settings import Settings


@pytest.mark.parametrize(
    ("held", "status", "words"),
    [
        (PROTECTIONS, "ok", "calls, files, network, signals, namespaces"),
        # a container that allows no namespaces, and a kernel whose Landlock is older
        (("calls", "files"), "ok", "(calls, files)"),
        (("calls", "namespaces"), "warning", "could read files of this account."),
        (("files", "network", "signals"), "warning", "could use every call of the kernel."),
        (("files",), "warning", "connect to servers; send signals"),
        ((), "warning", "read files of this account; connect to servers"),
    ],
)
def test_what_does_not_hold_is_told_with_advice(
    held: tuple[str, ...], status: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_process, "protections", lambda _: frozenset(held))
    check = check_decoders(Settings())
    assert check.state == status
    assert words in check.message
    assert bool(check.advice) == (status == "warning")


def test_a_decoder_itself_tells_what_holds() -> None:
    assert decoder_process.protections(1 << 30) <= set(PROTECTIONS)


def test_decoders_that_cannot_be_started_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "__file__", "/nowhere/decoder.py")
    with pytest.raises(StackError, match="can't be started"):
        decoder_process.protections(1 << 29)
