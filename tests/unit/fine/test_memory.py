"""The cache of image prefixes has the size that the device has free."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from tests.unit.fine.pairs import OFF, QUERIES, picture

from retllm.errors import TooLargeForDevice
from retllm.fine import Content, Scorer, load_scorer
from retllm.fine.engine import Engine
from retllm.fine.memory import describe_caches, fitting_prefix_bytes, fitting_token_budget, pass_bytes
from retllm.fine.opening import open_scorer
from retllm.fine.prefix import PrefixCache
from retllm.metrics import PREFIX_USES, PREFIXES
from retllm.settings import Settings

GIB = 1 << 30
CUDA = torch.device("cuda", 0)

#: the text model of Qwen2.5-VL-7B
CONFIG = SimpleNamespace(
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    vocab_size=152_064,
)
MODULE = SimpleNamespace(device=CUDA, dtype=torch.bfloat16, config=SimpleNamespace(get_text_config=lambda: CONFIG))


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the GPU report so many free bytes, and so many that PyTorch holds without using them."""

    def report(free: int, unused: int = 0) -> None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 141 * GIB))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 16 * GIB + unused)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 16 * GIB)

    return report


def test_on_a_gpu_prefixes_get_what_is_free_less_one_pass(card: Callable[..., None]) -> None:
    room = pass_bytes(CONFIG, 8192, 2)
    assert 2 * GIB < room < 6 * GIB, "a few gigabytes for 8,192 tokens of a model of 7 billion parameters"
    card(120 * GIB, unused=3 * GIB)
    assert fitting_prefix_bytes(MODULE, 8192, GIB) == int(0.9 * 123 * GIB) - room - GIB
    card(120 * GIB)
    assert fitting_prefix_bytes(MODULE, 8192, 0) == int(0.9 * 120 * GIB) - room
    assert fitting_prefix_bytes(MODULE, 16_384, 0) < fitting_prefix_bytes(MODULE, 8192, 0)


def test_a_full_gpu_keeps_no_prefixes(card: Callable[..., None]) -> None:
    card(GIB)
    assert fitting_prefix_bytes(MODULE, 8192, 0) == 0


@pytest.mark.parametrize(("available", "expected"), [(64 * GIB, GIB), (8 * GIB, GIB), (2 * GIB, GIB // 4)])
def test_on_a_cpu_prefixes_get_an_eighth_of_the_memory_and_at_most_a_gibibyte(
    available: int, expected: int, monkeypatch: pytest.MonkeyPatch, model_folder: Callable[[str], Path]
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=available))
    folder = str(model_folder("qwen2_5_vl"))
    assert load_scorer(folder, device="cpu")._prefixes._kept.maxsize == expected
    assert load_scorer(folder, device="cpu", prefix_bytes=12_345)._prefixes._kept.maxsize == 12_345


@pytest.mark.parametrize(
    ("free", "tokens"), [(126 * GIB, 16_384), (64 * GIB, 16_384), (9 * GIB, 8192), (7 * GIB, 4096), (GIB, 2048)]
)
def test_on_a_gpu_a_batch_takes_at_most_half_of_the_free_memory(
    free: int, tokens: int, card: Callable[..., None]
) -> None:
    card(free)
    assert fitting_token_budget(MODULE) == tokens
    assert pass_bytes(CONFIG, tokens, 2) <= free / 2 or tokens == 2048
    assert pass_bytes(CONFIG, 2 * tokens, 2) > free / 2 or tokens == 16_384


def test_on_a_cpu_a_batch_has_8192_tokens_unless_another_number_is_set(model_folder: Callable[[str], Path]) -> None:
    folder = str(model_folder("qwen2_5_vl"))
    assert load_scorer(folder, device="cpu").token_budget == 8192
    for number in (300, 20_000):
        settings = Settings(scorer=folder, device="cpu", token_budget=number)
        assert open_scorer(settings).token_budget == number


def test_the_doctor_says_what_a_worker_will_use(card: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    card(130 * GIB)
    told = describe_caches(CUDA, 8192, None)
    assert (
        told
        == "A batch has at most 8,192 tokens; image prefixes use what cuda:0 has free after loading (now 130.0 GB)."
    )
    assert describe_caches(CUDA, None, None).startswith(
        "A batch has 2,048 to 16,384 tokens, by what is free after loading; image prefixes use"
    )
    assert describe_caches(torch.device("cpu"), None, 0).startswith("A batch has at most 8,192 tokens;")
    assert describe_caches(CUDA, 4096, 3 * GIB).endswith("3.0 GB are for image prefixes (RETLLM_PREFIX_CACHE_BYTES).")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=4 * GIB))
    assert describe_caches(torch.device("cpu"), 8192, None).endswith("up to 0.5 GB of memory are for image prefixes.")


def test_the_metrics_tell_how_often_a_cached_prefix_is_used(qwen: Scorer) -> None:
    def uses(query: Content, pool: list[Content]) -> list[float]:
        before = [PREFIXES.labels(use)._value.get() for use in PREFIX_USES]
        qwen.score(query, pool, OFF)
        return [PREFIXES.labels(use)._value.get() - old for use, old in zip(PREFIX_USES, before, strict=True)]

    pictures, texts = [Content(image=picture(at)) for at in (70, 71)], [Content(text=text) for text in ("a", "b", "c")]
    # the first use of a model checks whether it allows prefixes
    uses(texts[0], pictures)
    qwen.forget()
    assert uses(texts[0], pictures) == [2, 0]
    assert uses(texts[1], pictures) == [0, 2]
    assert uses(Content(image=picture(72)), texts) == [1, 3]
    assert uses(texts[0], texts[1:]) == [0, 0]


def test_a_full_device_makes_the_cache_smaller_but_not_below_a_gibibyte() -> None:
    cache = PrefixCache(8 * GIB)
    assert not cache.make_room()
    assert cache._kept.maxsize == 4 * GIB
    for _ in range(5):
        cache.make_room()
    assert cache._kept.maxsize == GIB
    small = PrefixCache(1000)
    small.make_room()
    assert small._kept.maxsize == 1000
    closed = PrefixCache(0)
    closed.make_room()
    assert not closed.open


@pytest.mark.parametrize("frees_enough", [True, False])
def test_a_pair_that_runs_out_of_memory_is_tried_again_without_cached_prefixes(
    qwen: Scorer, frees_enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    qwen.forget()
    expected = qwen.score(QUERIES["text"], [Content(image=picture(51))], OFF)
    qwen.score(QUERIES["text"], [Content(image=picture(50))], OFF)
    assert qwen._prefixes._kept
    plain = Engine._whole

    def full(self: Engine, group: Any, read: Any) -> Any:
        if qwen._prefixes._kept or not frees_enough:
            raise torch.OutOfMemoryError
        return plain(self, group, read)

    monkeypatch.setattr(Engine, "_whole", full)
    del qwen._prefixes._kept[next(key for key in qwen._prefixes._kept)]
    if frees_enough:
        assert qwen.score(QUERIES["text"], [Content(image=picture(51))], OFF) == expected
    else:
        with pytest.raises(TooLargeForDevice):
            qwen.score(QUERIES["text"], [Content(image=picture(51))], OFF)
    assert not qwen._prefixes._kept or frees_enough
