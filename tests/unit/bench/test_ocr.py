"""``retllm bench ocr`` tells which letters are read at which size of picture."""

from __future__ import annotations

import json

import pytest

from retllm.bench import ocr
from retllm.cli.main import main
from retllm.ocr.reader import PictureText


class _Blind:
    """Reads large pictures only, and all words in these."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def read(self, picture: object, max_chars: int) -> PictureText:
        large = max(picture.size) > 1000  # type: ignore[attr-defined]
        return PictureText("\n".join(ocr.WORDS).upper() if large else "", 1.0)


def test_the_command_prints_a_row_for_each_size_of_letters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ocr, "Reader", _Blind)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "ocr", "--pictures", "1", "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recall"]["40"] == {"2000": 1.0, "1600": 1.0, "1200": 1.0, "800": 0.0, "400": 0.0}
    with pytest.raises(SystemExit):
        main(["bench", "ocr", "--pictures", "1"])
    shown = capsys.readouterr().out
    for size in ocr.LETTERS:
        assert f"letters of {size} pixels" in shown


def test_large_letters_are_read_and_letters_that_vanish_are_not() -> None:
    result = ocr.measure_ocr(1, 1, letters=(10, 60), sides=(800, 200))
    assert result.recall[60][800] >= 0.8
    assert result.recall[10][200] == 0
    assert all(seconds > 0 for seconds in result.seconds.values())
