"""The format of an uploaded report of `retllm eval`, which ``retllm.evaluation.report`` writes."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from retllm.errors import InvalidInput, TooLarge

MAX_BYTES = 10_000_000
"""Maximum size of a report; a report with thousands of parts has less than a tenth of this."""
_MAX_VARIANTS, _MAX_PARTS = 500, 2000
_WHOLE = 2**53

_MAX_NAME_LENGTH = 200


def _key(name: str) -> str:
    if not 1 <= len(name) <= _MAX_NAME_LENGTH or "\0" in name:
        raise ValueError(f"a name has 1 to {_MAX_NAME_LENGTH} characters and no NUL")
    return name


Name = Annotated[str, StringConstraints(min_length=1, max_length=_MAX_NAME_LENGTH, pattern=r"^[^\x00]*$")]
# with a pattern and a length as rules of the keys, the OpenAPI document would lose the schema of the values
Key = Annotated[str, AfterValidator(_key)]
Words = Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\x00]*$")]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Change = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Number = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=_WHOLE)]
Span = tuple[Change, Change]
Plain = Number | bool | Words | None


class _Known(BaseModel):
    """Ignores unknown fields, since a later release may write more."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Models(_Known):
    """The two models, and the settings of the scorer."""

    embedder: Name
    embedder_revision: Words | None = None
    scorer: Name
    scorer_revision: Words | None = None
    prompt_version: Words | None = None
    device: Words = ""
    dtype: Words = ""


class Recalls(_Known):
    """Recall@1, @5 and @10."""

    r1: Share | None = None
    r5: Share | None = None
    r10: Share | None = None


class Span1(_Known):
    """The 95 % interval of a Recall@1."""

    r1: Span | None = None


class Intervals(_Known):
    """The intervals of both stages, and of the gain of the fine stage."""

    coarse: Span1 = Span1()
    fine: Span1 = Span1()
    gain: Span1 = Span1()


class Difference(_Known):
    """The difference of a variant's Recall@1 to that of the first variant."""

    r1: Change
    interval: Span


class Paper(_Known):
    """The published figure."""

    r1: Share | None = None


class PartFigures(_Known):
    """Recall@1 of a part, or the mean of a group of parts."""

    queries: Count
    coarse: Share
    fine: Share
    paper: Share | None = None


class Refusals(_Known):
    """The accuracy of "no good match"."""

    queries: Count
    threshold: Number | None = None
    right: Share
    matched: Share
    refused: Share
    auroc: Share | None = None


class ReportVariant(_Known):
    """One configuration of the fine stage, and its measures."""

    name: Name
    section: Name
    k: Annotated[int, Field(ge=1, le=_WHOLE)]
    mode: Name
    injection: dict[Key, Plain] = Field(default={}, max_length=50)
    entropy: bool = True
    adaptive: dict[Key, Plain] | None = Field(default=None, max_length=50)
    fusion: Number = 0.0
    queries: Count
    coarse: Recalls
    fine: Recalls
    pairs_per_query: Amount | None = None
    seconds: Amount | None = None
    errors: Count = 0
    intervals: Intervals = Intervals()
    change: Difference | None = None
    paper: Paper | None = None
    parts: dict[Key, PartFigures] = Field(default={}, max_length=_MAX_PARTS)
    groups: dict[Key, PartFigures] = Field(default={}, max_length=_MAX_PARTS)
    abstention: Refusals | None = None
    skipped: Words | None = None
    stopped: Words | None = None

    @model_validator(mode="after")
    def _has_figures(self) -> ReportVariant:
        if self.skipped is None and (self.coarse.r1 is None or self.fine.r1 is None):
            raise ValueError("a variant that was not skipped needs Recall@1 of both stages")
        return self


class Report(_Known):
    """A whole report."""

    benchmark: Name
    seed: Annotated[int, Field(ge=-_WHOLE, le=_WHOLE)]
    models: Models
    variants: list[ReportVariant] = Field(min_length=1, max_length=_MAX_VARIANTS)

    @property
    def sections(self) -> dict[str, list[ReportVariant]]:
        """Return the variants by section, both in the order of the report."""
        found: dict[str, list[ReportVariant]] = {}
        for variant in self.variants:
            found.setdefault(variant.section, []).append(variant)
        return found


def read_report(raw: bytes) -> Report:
    """Parse an uploaded report.

    Raises:
        TooLarge: it has more than 10 MB.
        InvalidInput: it is not JSON, or not a report; the error names the first invalid fields.
    """
    if len(raw) > MAX_BYTES:
        raise TooLarge("The report is larger than 10 MB.")
    try:
        # a value that cannot be computed (0 of 0) is written as NaN
        data = json.loads(raw, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("The file is not JSON. Choose the result.json of `retllm eval`.", field="report") from error
    return checked_report(data)


def checked_report(data: Any) -> Report:
    """Validate a report that is parsed already.

    Raises:
        InvalidInput: it is not a report.
    """
    try:
        return Report.model_validate(data)
    except ValidationError as error:
        invalid = [
            {"field": ".".join(map(str, one["loc"])) or "report", "message": one["msg"]}
            for one in error.errors(include_url=False, include_context=False, include_input=False)[:5]
        ]
        reason = f"{invalid[0]['field']}: {invalid[0]['message']}"
        raise InvalidInput(
            f"This is not a report of `retllm eval` ({reason}). Choose the result.json of its run.",
            fields=[{"field": "report", "message": reason}, *invalid],
        ) from error
