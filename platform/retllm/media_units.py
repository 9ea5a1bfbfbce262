"""What workers of the queue ``media`` do with a unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from retllm.duplicates.submit import STEP as DUPLICATES
from retllm.duplicates.worker import duplicates_unit
from retllm.imports.worker import import_unit
from retllm.maps.submit import MAP
from retllm.maps.worker import map_unit
from retllm.ocr.submit import STEP as OCR
from retllm.ocr.worker import ocr_unit
from retllm.queue.worker import LeasedUnit, Result, WorkerContext
from retllm.uploads import worker as uploads
from retllm.uploads.submit import IMPORT

Do = Callable[[WorkerContext, LeasedUnit], Result]

# by the entry of the payload that only these units have
_UNITS: Mapping[str, Do] = {IMPORT: import_unit, DUPLICATES: duplicates_unit, MAP: map_unit, OCR: ocr_unit}


def media_unit(context: WorkerContext, held: LeasedUnit) -> Result:
    """Do a unit of the queue ``media``: one of the jobs above, or of the files of an upload."""
    do: Do = next((do for entry, do in _UNITS.items() if entry in held.claim.payload), uploads.media_unit)
    return do(context, held)
