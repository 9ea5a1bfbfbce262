"""Code in an untrusted model folder is never run."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retllm.embedding import load_embedder
from retllm.errors import ModelUnavailable
from retllm.settings import PRESETS

WEIGHTS = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"


class Trap:
    """Its pickle creates a file when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped encoder, whose tokenizer is from the transformers library."""
    made = tmp_path / "clip"
    shutil.copytree(PRESETS["demo"].embedder.removeprefix("local-dir:"), made)
    return made


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text("utf-8"))
    change(data)
    path.write_text(json.dumps(data), "utf-8")


def _pickled(name: str) -> Callable[[Path, Path], None]:
    def place_canary(folder: Path, canary: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / name).write_bytes(pickle.dumps(Trap(canary)))

    return place_canary


def _pickle_by_another_name(folder: Path, canary: Path) -> None:
    (folder / WEIGHTS).write_bytes(pickle.dumps(Trap(canary)))


def _code_of_the_tokenizer(folder: Path, canary: Path) -> None:
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(canary)!r}).touch()\nclass Evil: pass\n")
    _edit(
        folder / "tokenizer_config.json",
        lambda data: data.update(auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, tokenizer_class="Evil"),
    )


def _code_that_the_configuration_trusts(folder: Path, canary: Path) -> None:
    _code_of_the_tokenizer(folder, canary)
    _edit(
        folder / CONFIG,
        lambda data: data["model_cfg"]["text_cfg"].update(tokenizer_kwargs={"trust_remote_code": True}),
    )


@pytest.mark.parametrize(
    "place_canary",
    [
        _pickled("open_clip_pytorch_model.bin"),
        _pickled("open_clip_model.pt"),
        _pickled("pytorch_model.bin"),
        _pickle_by_another_name,
        _code_that_the_configuration_trusts,
    ],
)
def test_a_model_folder_with_code_is_refused_and_the_code_is_not_run(
    place_canary: Callable[[Path, Path], None], folder: Path, tmp_path: Path
) -> None:
    canary = tmp_path / "it ran"
    place_canary(folder, canary)
    with pytest.raises(ModelUnavailable) as caught:
        load_embedder(f"local-dir:{folder}", device="cpu")
    assert not canary.exists()
    assert "\n" not in caught.value.message


def test_code_of_a_tokenizer_is_not_run(folder: Path, tmp_path: Path) -> None:
    """The model may be loaded without it or refused."""
    canary = tmp_path / "it ran"
    _code_of_the_tokenizer(folder, canary)
    with contextlib.suppress(ModelUnavailable):
        load_embedder(f"local-dir:{folder}", device="cpu")
    assert not canary.exists()


def test_the_pickle_used_in_these_tests_creates_the_file(tmp_path: Path) -> None:
    canary = tmp_path / "it ran"
    pickle.loads(pickle.dumps(Trap(canary)))
    assert canary.exists()
