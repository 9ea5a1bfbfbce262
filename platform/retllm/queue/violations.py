"""The shape of the rules of ``invariants``, and of what they find."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Violation:
    """Something that must never be.

    Attributes:
        rule: the name of the rule.
        subject: the key of the job, unit, search or file.
        meaning: what should be true, in words.
        detail: what was found.
    """

    rule: str
    subject: str
    meaning: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.meaning}, but {self.subject}: {self.detail}"

    def as_json(self) -> dict[str, str]:
        """The violation as plain values."""
        return asdict(self)


# an item of a unit, and what tells the kinds of work on it apart: the embedder, or the pass of the fine stage
_VIEWS = """
    WITH unit_items AS (
        SELECT u.id, u.job_id, u.stage, u.state, named.item,
               coalesce(u.payload->>'embedder', u.payload->>'pass', '') AS way
        FROM units u CROSS JOIN LATERAL jsonb_array_elements_text(u.payload->'items') AS named(item)
    ), scoring AS (
        SELECT * FROM unit_items WHERE stage = 'fine' AND way <> 'entropy' AND state <> 'split'
    )
"""


@dataclass(frozen=True)
class Rule:
    """A rule by its name, what it means in words, and the question for what breaks it.

    A question gives pairs (subject, detail) and takes ``:quiet`` (nothing is at work), ``:overdue`` (seconds) and
    ``:most`` (rows).
    """

    name: str
    meaning: str
    query: str

    @property
    def statement(self) -> str:
        """The question as the database takes it."""
        return _VIEWS + self.query if "unit_items" in self.query or "scoring" in self.query else self.query
