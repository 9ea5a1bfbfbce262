"""Names of embedders of sentence-transformers, and the files that are refused: code, pickles, other kinds of models."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

if find_spec("sentence_transformers") is None:
    pytest.skip("the extra `sentence` is not installed", allow_module_level=True)

from tests.unit.embedding.sentence_models import edit, save_text
from tests.unit.embedding.test_hostile_models import Trap

from retllm.embedding import can_load, load_embedder, sentence_sources
from retllm.embedding.sentence_sources import SentenceName, parse
from retllm.errors import ModelUnavailable, ModelUnsuited
from retllm.fine import sources as fine_sources
from retllm.settings import public_name

WEIGHTS = "model.safetensors"
OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text(tmp_path_factory.mktemp("sentence") / "model")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    made = tmp_path / "copy"
    shutil.copytree(saved, made)
    return made


def test_a_name_is_a_repository_or_a_folder_with_a_length_and_a_commit() -> None:
    for name, parsed in {
        "st:org/repo": SentenceName("", repo="org/repo"),
        "st:org/repo@abc": SentenceName("", repo="org/repo", revision="abc"),
        "st:org/repo#256@abc": SentenceName("", repo="org/repo", revision="abc", dimension=256),
        "st:LaBSE": SentenceName("", repo="sentence-transformers/LaBSE"),
        "st:local-dir:/models/a@b": SentenceName("", folder=Path("/models/a@b")),
        "st:local-dir:/models/a#64": SentenceName("", folder=Path("/models/a"), dimension=64),
    }.items():
        found = parse(name)
        assert (found.repo, found.folder, found.revision, found.dimension) == (
            parsed.repo, parsed.folder, parsed.revision, parsed.dimension,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["st:", "st:local-dir:", "st:org/repo@", "st:org/repo#x", "st:org/repo#0", "st:a/b/c"])
def test_another_name_is_refused_with_the_forms(name: str) -> None:
    source = can_load(name)
    assert source.where == "nowhere"
    assert "st:local-dir:<folder>" in source.message
    with pytest.raises(ModelUnavailable):
        load_embedder(name, device="cpu")


def test_the_public_name_has_neither_the_commit_nor_the_place_of_a_folder() -> None:
    assert public_name("st:org/repo#256@abc") == "st:org/repo#256"
    assert public_name("st:local-dir:/models/multi@2#64") == "st:local-dir:multi@2#64"


def test_without_the_library_the_command_that_installs_it_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentence_sources, "find_spec", lambda _: None)
    for name in (f"st:local-dir:{folder}", "st:org/repo"):
        assert "pip install 'retllm-platform[sentence]'" in can_load(name).message
        with pytest.raises(ModelUnavailable, match="not installed"):
            load_embedder(name, device="cpu")


def _first_module(folder: Path, **changes: str) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[0].update(changes)
    (folder / "modules.json").write_text(json.dumps(modules))


def _pickled(name: str) -> Callable[[Path, Path], None]:
    def place(folder: Path, canary: Path) -> None:
        (folder / name).with_name(WEIGHTS).unlink()
        (folder / name).write_bytes(pickle.dumps(Trap(canary)))

    return place


def _pickle_named_safetensors(folder: Path, canary: Path) -> None:
    (folder / WEIGHTS).write_bytes(pickle.dumps(Trap(canary)))


def _own_code(folder: Path, canary: Path) -> str:
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(canary)!r}).touch()\nclass Evil: pass\n")
    return "evil.Evil"


def _module_of_its_own(folder: Path, canary: Path) -> None:
    _first_module(folder, type=_own_code(folder, canary))


def _module_that_is_none(folder: Path, canary: Path) -> None:
    _first_module(folder, type="sentence_transformers.base.model.pickle")


def _model_of_its_own(folder: Path, canary: Path) -> None:
    evil = _own_code(folder, canary)
    edit(folder / "config.json", model_type="evil", auto_map={"AutoConfig": evil, "AutoModel": evil})


def _trusted_by_its_configuration(folder: Path, canary: Path) -> None:
    _model_of_its_own(folder, canary)
    trusted = {"trust_remote_code": True}
    edit(folder / "sentence_bert_config.json", model_kwargs=trusted, config_kwargs=trusted, processor_kwargs=trusted)


def _tokenizer_of_its_own(folder: Path, canary: Path) -> None:
    evil = _own_code(folder, canary)
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [evil, evil]}, tokenizer_class="Evil")


def _kernel(folder: Path, canary: Path) -> None:
    edit(folder / "sentence_bert_config.json", model_kwargs={"attn_implementation": "evil/kernel"})


def _adapter(folder: Path, canary: Path) -> None:
    edit(folder / "adapter_config.json", base_model_name_or_path="evil/base")


def _tokenizer_elsewhere(folder: Path, canary: Path) -> None:
    edit(folder / "sentence_bert_config.json", tokenizer_name_or_path="evil/tokenizer")


def _other_kind(folder: Path, canary: Path) -> None:
    edit(folder / "config_sentence_transformers.json", model_type="CrossEncoder")


def _plain_transformer(folder: Path, canary: Path) -> None:
    (folder / "modules.json").unlink()


def _module_outside(folder: Path, canary: Path) -> None:
    _first_module(folder, path="../elsewhere")


def _cut(folder: Path, canary: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:500])


def _too_new(folder: Path, canary: Path) -> None:
    edit(folder / "config_sentence_transformers.json", requirements={"sentence_transformers": ">=99"})


REFUSED = {
    _pickled("pytorch_model.bin"): "pickle files, which are never loaded",
    _pickled("2_Dense/pytorch_model.bin"): "pickle files, which are never loaded",
    _pickle_named_safetensors: "can't be loaded",
    _module_of_its_own: "needs code from its own files",
    _module_that_is_none: "module pickle, which is not supported",
    _model_of_its_own: "needs code from its own files",
    _trusted_by_its_configuration: "needs code from its own files",
    _kernel: "needs code from its own files",
    _adapter: "Merge both",
    _tokenizer_elsewhere: "Save model and tokenizer together",
    _other_kind: "is a CrossEncoder",
    _plain_transformer: "not a model in sentence-transformers' format",
    _module_outside: "outside of the folder",
    _cut: "can't be loaded",
    _too_new: "can't be loaded",
    lambda folder, _: shutil.rmtree(folder): "does not exist",
}


@pytest.mark.parametrize("damage", REFUSED)
def test_a_refused_folder_has_a_reason_of_one_line_and_runs_no_code(
    damage: Callable[[Path, Path], None], folder: Path, tmp_path: Path
) -> None:
    canary = tmp_path / "it ran"
    damage(folder, canary)
    with pytest.raises(ModelUnavailable) as caught:
        load_embedder(f"st:local-dir:{folder}", device="cpu")
    assert not canary.exists()
    assert REFUSED[damage] in caught.value.message
    assert "\n" not in caught.value.message


def test_code_of_a_tokenizer_is_not_run(folder: Path, tmp_path: Path) -> None:
    """The model may be loaded without it or refused."""
    canary = tmp_path / "it ran"
    _tokenizer_of_its_own(folder, canary)
    with contextlib.suppress(ModelUnavailable):
        load_embedder(f"st:local-dir:{folder}", device="cpu")
    assert not canary.exists()


@pytest.mark.parametrize("damage", [_module_of_its_own, _model_of_its_own, _kernel, _adapter, _other_kind])
def test_what_no_attempt_can_help_is_told_before_the_model_is_loaded(
    damage: Callable[[Path, Path], None], folder: Path, tmp_path: Path
) -> None:
    damage(folder, tmp_path / "it ran")
    source = can_load(f"st:local-dir:{folder}")
    assert source.where == "nowhere"
    assert REFUSED[damage] in source.message


class Hub:
    """Takes the place of the hub: its files, and what was downloaded of them into the cache."""

    def __init__(self, files: Path, cache: Path) -> None:
        self.files, self.cache = files, cache
        self.revision = NEW
        self.got: list[str] = []

    def download(self, repo: str, *, revision: str | None = None, allow_patterns: Sequence[str], **_: Any) -> str:
        commit = revision or self.revision
        snapshot = self.cache / f"models--{repo.replace('/', '--')}" / "snapshots" / commit
        for path in sorted(path for path in self.files.rglob("*") if path.is_file()):
            inside = path.relative_to(self.files)
            if any(fnmatch(str(inside), pattern) for pattern in allow_patterns) and not (snapshot / inside).exists():
                (snapshot / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, snapshot / inside)
                self.got.append(str(inside))
        if revision is None:
            refs = snapshot.parent.parent / "refs"
            refs.mkdir(exist_ok=True)
            (refs / "main").write_text(commit)
        return str(snapshot)


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(folder, tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(made.cache))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.download)
    monkeypatch.setattr(fine_sources, "hub_problem", lambda: None)
    return made


def test_a_model_of_the_hub_is_downloaded_once_and_known_by_its_commit(hub: Hub, folder: Path) -> None:
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").touch()
    (folder / "pytorch_model.bin").touch()
    assert can_load("st:some/model").where == "download"
    loaded = load_embedder("st:some/model", device="cpu")
    assert loaded.info.revision == NEW
    assert not {"onnx/model.onnx", "pytorch_model.bin", "README.md"} & set(hub.got)
    assert {WEIGHTS, "2_Dense/model.safetensors", "1_Pooling/config.json"} <= set(hub.got)
    # the branch moves on the hub; what is cached is loaded without asking it
    hub.revision, hub.got = OLD, []
    assert can_load("st:some/model").where == "cache"
    assert load_embedder("st:some/model", device="cpu").info.revision == NEW
    assert hub.got == []
    pinned = load_embedder(f"st:some/model@{OLD}", device="cpu")
    assert pinned.info.revision == OLD


def test_no_weights_are_downloaded_for_a_model_that_is_refused(hub: Hub, folder: Path, tmp_path: Path) -> None:
    _module_of_its_own(folder, tmp_path / "it ran")
    with pytest.raises(ModelUnsuited, match="needs code"):
        load_embedder("st:some/model", device="cpu")
    assert "modules.json" in hub.got
    assert not any(name.endswith((".safetensors", ".py")) for name in hub.got)
    assert can_load("st:some/model").where == "nowhere"


def test_a_model_without_safetensors_on_the_hub_is_refused(hub: Hub, folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelUnavailable, match="no safetensors weights on the hub"):
        load_embedder("st:some/model", device="cpu")


def test_a_hub_that_is_away_leaves_the_advice_to_use_a_folder(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", away)
    with pytest.raises(ModelUnavailable, match=r"use st:local-dir:<folder>.*no route to host"):
        load_embedder("st:some/model", device="cpu")
