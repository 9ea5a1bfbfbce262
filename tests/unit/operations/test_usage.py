"""A worker reports what it uses of its host, and of its GPU as far as that is known."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from retllm.operations.usage import Usage, usage_of

GB = 1_000_000_000


class Cuda:
    """A stand-in for ``torch.cuda`` with two cards, of which the second one has less free memory."""

    def __init__(self, *, initialized: bool = True, utilization: int | Exception = 54) -> None:
        self._initialized = initialized
        self._utilization = utilization

    def is_initialized(self) -> bool:
        return self._initialized

    def mem_get_info(self, index: int) -> tuple[int, int]:
        assert self._initialized, "this would take memory of the card"
        return (100 * GB, 140 * GB) if index == 0 else (30 * GB, 140 * GB)

    def utilization(self, index: int) -> int:
        if isinstance(self._utilization, Exception):
            raise self._utilization
        return self._utilization + index


def _use(monkeypatch: pytest.MonkeyPatch, cuda: Any) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))


@pytest.mark.parametrize(
    ("device", "used", "utilization"),
    [("cuda: NVIDIA H200", 40 * GB, 0.54), ("cuda:0: NVIDIA H200", 40 * GB, 0.54), ("cuda:1: H200", 110 * GB, 0.55)],
)
def test_memory_and_utilization_are_those_of_the_card_of_the_worker(
    monkeypatch: pytest.MonkeyPatch, device: str, used: int, utilization: float
) -> None:
    _use(monkeypatch, Cuda())
    found = usage_of(device)
    assert (found.gpu_used_bytes, found.gpu_total_bytes, found.gpu_utilization) == (used, 140 * GB, utilization)


@pytest.mark.parametrize("error", [ModuleNotFoundError("pynvml"), RuntimeError("NVML_ERROR_NOT_SUPPORTED")])
def test_the_utilization_is_unknown_without_its_package_and_where_the_driver_does_not_tell(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    _use(monkeypatch, Cuda(utilization=error))
    found = usage_of("cuda:0: NVIDIA H200")
    assert (found.gpu_total_bytes, found.gpu_utilization) == (140 * GB, None)


def test_a_card_is_not_asked_before_a_model_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    _use(monkeypatch, Cuda(initialized=False))
    assert usage_of("cuda:0: NVIDIA H200").gpu_total_bytes is None


@pytest.mark.parametrize("device", ["cpu", "server", "mps", "No GPU is here."])
def test_without_a_card_pytorch_is_not_asked(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    _use(monkeypatch, None)
    found = usage_of(device)
    assert (found.gpu_used_bytes, found.gpu_total_bytes, found.gpu_utilization) == (None, None, None)
    assert found.cores == os.cpu_count()
    assert found.load is not None
    assert found.load >= 0
    assert found.resident_bytes is not None
    assert 0 < found.resident_bytes < psutil.virtual_memory().total


def test_what_another_release_stored_is_read_as_far_as_it_is_known() -> None:
    whole = Usage(1, 0.5, 2, 3, 4, 0.25)
    assert Usage.from_json(whole.as_json()) == whole
    assert Usage.from_json({"resident_bytes": 7, "fans": 2}) == Usage(resident_bytes=7)
    assert Usage.from_json(None) is None
