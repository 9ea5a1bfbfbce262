"""Filters over the items of a collection: one language for the API, the command line and the pages.

``taken >= 1998 and folder ~ "Italy/" and not camera = "X100"``. A filter is read by :func:`parse`, and its
:func:`condition` selects items in SQL.
"""

from retllm.filters.conditions import condition
from retllm.filters.expression import And, Compare, Expression, Field, Has, Not, Or, fields_of
from retllm.filters.fields import FIELDS, FieldInfo
from retllm.filters.narrowing import all_of, compares, narrowed, parts_of, without
from retllm.filters.parsing import MAX_CHARS, parse
from retllm.filters.patience import bounded

__all__ = [
    "FIELDS",
    "MAX_CHARS",
    "And",
    "Compare",
    "Expression",
    "Field",
    "FieldInfo",
    "Has",
    "Not",
    "Or",
    "all_of",
    "bounded",
    "compares",
    "condition",
    "fields_of",
    "narrowed",
    "parse",
    "parts_of",
    "without",
]
