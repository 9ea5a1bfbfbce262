"""Every enumeration of the data model, with the meaning of its values."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What an account may do."""

    ADMIN = "admin"  # sees and changes everything, creates accounts
    EDITOR = "editor"  # creates collections; changes own collections and those they are an editor of
    VIEWER = "viewer"  # searches and reviews what is shared with them, changes no collection


class TokenScope(StrEnum):
    """The maximum rights of a token, within those of its account; each scope includes the ones before."""

    READ = "read"  # views and exports
    SEARCH = "search"  # searches and reviews: everything that a viewer may do
    CHANGE = "change"  # uploads, indexes, deletes
    MANAGE = "manage"  # members, people, queues, tokens; deletes collections


class MemberRole(StrEnum):
    """What a member may do in a collection of another owner."""

    EDITOR = "editor"  # uploads, indexes, deletes items
    VIEWER = "viewer"  # views, searches, reviews


class Visibility(StrEnum):
    """Who sees a collection, besides its owner, its members and administrators."""

    PRIVATE = "private"  # nobody else
    EVERYONE = "everyone"  # every account views, searches and reviews


class Positions(StrEnum):
    """Who sees where the items of a collection were made; who does not gets no original file either."""

    EVERYONE = "everyone"  # all who see the collection
    EDITORS = "editors"  # only those who may change it
    NOBODY = "nobody"  # positions are not kept: neither read from files nor entered


class RunSource(StrEnum):
    """Where an evaluation run comes from."""

    UPLOADED = "uploaded"  # a report of `retllm eval`
    REVIEWED = "reviewed"  # a rerun of the reviewed queries of a collection


class ItemKind(StrEnum):
    """The content of an item; also the modality of a query."""

    IMAGE = "image"  # a picture
    TEXT = "text"  # a text
    BOTH = "image+text"  # a picture with its caption


class ItemState(StrEnum):
    """The state of an item."""

    READY = "ready"  # stored; can be indexed and found
    TRASHED = "trashed"  # in the trash: nobody finds it, and it can be restored until it is deleted for good
    DELETED = "deleted"  # its content is deleted; the row stays, so that earlier results can show its name


class JobKind(StrEnum):
    """The kind of a job."""

    UPLOAD = "upload"  # turns uploaded files into items, and embeds them
    INDEX = "index"  # embeds the items of a collection
    SEARCH = "search"  # ranks the items of a collection for one query
    DUPLICATES = "duplicates"  # finds the pictures of a collection that are nearly the same
    MAP = "map"  # lays out the vectors of a collection in two dimensions
    OCR = "ocr"  # reads the text in the pictures of a collection


class FileStatus(StrEnum):
    """What became of an uploaded file, of an entry of an archive, or of a row of a sheet."""

    WAITING = "waiting"  # received; no worker has processed it yet
    ADDED = "added"  # it is a new item
    DUPLICATE = "duplicate"  # the collection already has it; nothing changed
    UPDATED = "updated"  # an item has a new caption
    READ = "read"  # a sheet or an archive; its rows or entries have outcomes of their own
    IGNORED = "ignored"  # clutter, or a caption that is empty or beside which another one counts
    REJECTED = "rejected"  # not added; the error says why
    UNPROCESSED = "unprocessed"  # received, and its upload was cancelled before a worker processed it
    NOT_SENT = "not_sent"  # announced, and did not come, or not whole; or the row or sidecar of such a picture


class JobState(StrEnum):
    """The state of a job."""

    QUEUED = "queued"  # accepted; no worker has claimed a unit yet
    RUNNING = "running"  # at least one unit was claimed
    SUCCEEDED = "succeeded"  # every unit is done
    PARTIAL = "partial"  # over; some units are dead, the results of the others count; retry reopens the dead units
    FAILED = "failed"  # over without a result; retry reopens the dead units
    CANCELLED = "cancelled"  # stopped by a person; what was done stays


class Stage(StrEnum):
    """The step of a job that a unit belongs to."""

    MEDIA = "media"  # turn some uploaded files into items, or compare pictures
    EMBED = "embed"  # embed some items
    COARSE = "coarse"  # embed the query and find the k nearest items
    FINE = "fine"  # score some candidates


class UnitState(StrEnum):
    """The state of a unit."""

    READY = "ready"  # may be claimed once run_after has passed
    LEASED = "leased"  # a worker holds it until lease_until
    DONE = "done"  # its results are stored
    DEAD = "dead"  # all attempts failed; error says why
    SPLIT = "split"  # failed with several items and was replaced by one unit for each item
    CANCELLED = "cancelled"  # its job was cancelled before it was done


class AttemptOutcome(StrEnum):
    """The outcome of an attempt at a unit."""

    COMMITTED = "committed"  # its results are stored
    FAILED = "failed"  # it raised an error
    LOST = "lost"  # its lease expired: the worker died, hung or lost the database connection
    RETURNED = "returned"  # the worker was stopped, or has to wait, and returned the unit; does not count as an attempt
    CANCELLED = "cancelled"  # its job was cancelled during the attempt


OPEN_UNITS = (UnitState.READY, UnitState.LEASED)
GOING_ON = (JobState.RUNNING, JobState.QUEUED)
"""States of jobs that are not over; a page shows a job that runs rather than one that waits."""
OVER_JOBS = (JobState.SUCCEEDED, JobState.PARTIAL, JobState.FAILED, JobState.CANCELLED)


class DecidedBy(StrEnum):
    """What decided the final rank of a candidate against the next one (method, section 5)."""

    SCORE = "score"  # its score differs from those of its neighbours
    ENTROPY = "entropy"  # scores tie; the lower entropy ranks first
    COARSE = "coarse"  # score and entropy tie, or there is no score
