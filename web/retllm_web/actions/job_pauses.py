"""The pauses that keep a job waiting."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import OPEN_UNITS, Stage
from retllm.db.searches import Search
from retllm.history.job_views import JobView
from retllm.queue import pauses
from retllm.queue.pauses import Pause
from retllm_web.http.services import services


def pauses_of(session: Session, job: JobView) -> list[Pause]:
    """Return the pauses of the queues in which a job has open units."""
    stages = {stage.stage for stage in job.stages if any(stage.units.get(state) for state in OPEN_UNITS)}
    paused = pauses.paused(session) if stages else {}
    if not paused:
        return []
    scorer = session.scalar(sa.select(Search.scorer).where(Search.id == job.id)) if Stage.FINE in stages else None
    queues = {services().routing.queue_of(stage, scorer) for stage in stages}
    return [pause for name, pause in paused.items() if name in queues]
