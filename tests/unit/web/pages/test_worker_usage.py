"""The page of workers and the API tell what each worker uses."""

from __future__ import annotations

from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Visitor

from retllm.db.session import transaction
from retllm.operations import workers
from retllm.operations.usage import Usage
from retllm.operations.workers import WorkerReport
from retllm_web.http.services import Services

GB = 1_000_000_000
ON_GPU = Usage(2 * GB, 3.25, 16, 40 * GB, 140 * GB, 0.54)


def _report(served: Services, name: str, device: str, usage: Usage | None) -> None:
    with transaction(served.sessions) as session:
        workers.record(session, WorkerReport(name, ["score"], device, "0.1.0", usage=usage))


def test_the_page_shows_memory_and_utilization_of_the_card_and_the_process(reader: Visitor, served: Services) -> None:
    _report(served, "gpu:1", "cuda:0: NVIDIA H200", ON_GPU)
    page = reader.get("/system")
    (device,) = page.all("td", data_label="Device")
    assert "NVIDIA H200" in device.text
    assert "40.0 GB of 140.0 GB used" in device.text
    assert "utilization 54 %" in device.text
    assert "2.0 GB resident, load 3.2 on 16 cores" in device.text
    assert page.one("progress", aria_label="Memory of the GPU").attributes["value"] == str(40 / 140)


def test_what_is_not_known_is_said_or_left_out(reader: Visitor, served: Services) -> None:
    _report(served, "a:1", "cuda:0: NVIDIA H200", Usage(2 * GB, 3.25, 16, 40 * GB, 140 * GB, None))
    _report(served, "b:1", "cpu", Usage(2 * GB, 0.5, 1))
    _report(served, "c:1", "cpu", None)
    first, second, third = (cell.text for cell in reader.get("/system").all("td", data_label="Device"))
    assert "utilization unknown" in first
    assert second == "cpu 2.0 GB resident, load 0.5 on 1 core"
    assert third == "cpu"


def test_the_live_part_changes_with_the_usage(reader: Visitor, served: Services) -> None:
    _report(served, "gpu:1", "cuda:0: NVIDIA H200", ON_GPU)
    headers = {"X-Requested-With": "fetch"}
    known = reader.client.get("/system/live", headers=headers).headers["ETag"]
    _report(served, "gpu:1", "cuda:0: NVIDIA H200", Usage(2 * GB, 3.25, 16, 80 * GB, 140 * GB, 0.9))
    fresh = reader.client.get("/system/live", headers={**headers, "If-None-Match": known})
    assert "80.0 GB of 140.0 GB used" in fresh.get_data(as_text=True)


def test_the_api_tells_the_usage(ada: Caller, served: Services) -> None:
    _report(served, "gpu:1", "cuda:0: NVIDIA H200", ON_GPU)
    _report(served, "old:1", "cpu", None)
    told = {worker["name"]: worker["usage"] for worker in ada.get("/system/workers").json["workers"]}
    assert told == {"gpu:1": ON_GPU.as_json(), "old:1": None}
