"""Every state of the data model, its meaning beside it."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What an account may do."""

    ADMIN = "admin"  # sees and changes everything, makes accounts
    EDITOR = "editor"  # makes collections; changes their own and those they are an editor of
    VIEWER = "viewer"  # searches and reviews what is shared with them, changes no collection


class TokenScope(StrEnum):
    """The most that a token may do of what its account may; each allows what the ones before it allow."""

    READ = "read"  # looks and exports
    SEARCH = "search"  # asks and reviews: all that a viewer may
    CHANGE = "change"  # uploads, indexes, deletes
    MANAGE = "manage"  # members, people, queues, tokens; deletes collections


class MemberRole(StrEnum):
    """What somebody may do in a collection that is not their own."""

    EDITOR = "editor"  # uploads, indexes, deletes items
    VIEWER = "viewer"  # looks, searches, reviews


class Visibility(StrEnum):
    """Who sees a collection besides its owner, its members and administrators."""

    PRIVATE = "private"  # nobody else
    EVERYONE = "everyone"  # every account looks, searches and reviews


class RunSource(StrEnum):
    """Where an evaluation run comes from."""

    UPLOADED = "uploaded"  # a report of `retllm eval`
    REVIEWED = "reviewed"  # the reviewed questions of a collection, asked again here


class ItemKind(StrEnum):
    """What an item holds; also the modality of a query."""

    IMAGE = "image"  # a picture
    TEXT = "text"  # a text
    BOTH = "image+text"  # a picture with its caption


class ItemState(StrEnum):
    """Where an item is in its life."""

    READY = "ready"  # stored whole; can be indexed and found
    DELETED = "deleted"  # content is gone; the row stays so that old results can still name it


class JobKind(StrEnum):
    """What a job does."""

    INDEX = "index"  # embeds the items of a collection
    SEARCH = "search"  # ranks the items of a collection for one query


class JobState(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"  # accepted; no worker has taken a unit yet
    RUNNING = "running"  # at least one unit was taken
    SUCCEEDED = "succeeded"  # every unit is done
    PARTIAL = "partial"  # over; some units are dead, what the others did counts; retry reopens the dead
    FAILED = "failed"  # over with nothing to show; retry reopens the dead units
    CANCELLED = "cancelled"  # stopped by a person; what was done stays


class Stage(StrEnum):
    """Which step of a job a unit belongs to."""

    EMBED = "embed"  # embed some items
    COARSE = "coarse"  # embed the query, take the k nearest candidates
    FINE = "fine"  # score some candidates


class UnitState(StrEnum):
    """Where a unit is in its life."""

    READY = "ready"  # may be claimed once run_after has passed
    LEASED = "leased"  # a worker holds it until lease_until
    DONE = "done"  # its results are stored
    DEAD = "dead"  # all attempts failed; error says why
    SPLIT = "split"  # died with many items and was replaced by units of one item each
    CANCELLED = "cancelled"  # its job was cancelled before it was done


class AttemptOutcome(StrEnum):
    """How an attempt at a unit ended."""

    COMMITTED = "committed"  # its results are stored
    FAILED = "failed"  # it raised; error says what
    LOST = "lost"  # its lease ran out: the worker died, hung, or lost the database
    RETURNED = "returned"  # the worker was told to stop and gave the unit back; does not count as an attempt
    CANCELLED = "cancelled"  # its job was cancelled meanwhile


OPEN_UNITS = (UnitState.READY, UnitState.LEASED)
OVER_JOBS = (JobState.SUCCEEDED, JobState.PARTIAL, JobState.FAILED, JobState.CANCELLED)


class DecidedBy(StrEnum):
    """What put a candidate at its final rank, above its next neighbour (method, section 5)."""

    SCORE = "score"  # its score differs from its neighbours'
    ENTROPY = "entropy"  # scores tie; the lower entropy went first
    COARSE = "coarse"  # score and entropy tie, or there is no score: coarse rank
