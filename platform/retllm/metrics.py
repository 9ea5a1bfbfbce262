"""What a process counts of its own work; what it counted goes to the database (``retllm.operations.totals``).

Names and help texts are those of ``/metrics``. Nothing here knows the database or the web, so that whatever does the
work can count it.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

REGISTRY = CollectorRegistry()
"""Of this process; the library's own registry would bring figures of one process of several."""

STAGES = ("embed", "coarse", "fine")
MODELS = ("embedder", "scorer")
OUTCOMES = {
    "done": "it was worked through",
    "failed": "an error ended it",
    "stale": "what it made was dropped, since the claim was lost",
    "cancelled": "it saw that its job was cancelled",
    "returned": "its worker was told to stop and handed the unit back",
}
"""How an attempt ends. One whose process was killed or cut off from the database has no end: its lease runs out."""

ATTEMPTS = Counter("retllm_attempts", "Attempts at units that workers began.", ["stage"], registry=REGISTRY)
ENDED = Counter(
    "retllm_attempts_ended",
    f"Attempts that ended: {'; '.join(f'{name}: {meaning}' for name, meaning in OUTCOMES.items())}.",
    ["stage", "outcome"],
    registry=REGISTRY,
)
UNIT_SECONDS = Histogram(
    "retllm_unit_seconds",
    "Seconds from the claim of a unit to the end of its attempt, whatever the outcome.",
    ["stage"],
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300),
    registry=REGISTRY,
)
LEASES_LOST = Counter(
    "retllm_leases_lost",
    "Leases that ran out, and whose units a dispatcher took back: their worker died or lost the database.",
    ["stage"],
    registry=REGISTRY,
)
FENCED = Counter(
    "retllm_fenced_writes",
    "Writes that were refused because the unit was not the worker's any more.",
    ["stage"],
    registry=REGISTRY,
)
PASSED_OVER = Counter(
    "retllm_dispatcher_passed_over",
    "Times that a dispatcher could not take a unit back or end a cancelled job for an error of its own.",
    registry=REGISTRY,
)
BATCH = Histogram(
    "retllm_batch_size",
    "Pictures, texts or pairs in one forward pass of a model.",
    ["model"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    registry=REGISTRY,
)


def _begin_at_zero() -> None:
    """What never happened is 0 and not missing, so that the first time shows as a change."""
    for stage in STAGES:
        for one in (ATTEMPTS, UNIT_SECONDS, LEASES_LOST, FENCED):
            one.labels(stage)
        for outcome in OUTCOMES:
            ENDED.labels(stage, outcome)
    for model in MODELS:
        BATCH.labels(model)


_begin_at_zero()
