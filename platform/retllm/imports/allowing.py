"""Opens what may be imported: a folder or a prefix of a bucket within RETLLM_IMPORT_ROOTS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retllm.errors import Forbidden, InvalidInput
from retllm.import_roots import Prefix, root_of
from retllm.imports.buckets import BucketFolder, allowed_prefix
from retllm.imports.folders import Folder
from retllm.imports.folders import allowed as allowed_folder
from retllm.media.references import folders

_NONE_ALLOWED = (
    "Nothing may be imported: let the administrator name the folders and prefixes of buckets that may be, such as "
    "/srv/pictures or s3://bucket/pictures/, in RETLLM_IMPORT_ROOTS."
)


def allowed(address: str, roots: Sequence[str]) -> Folder | BucketFolder:
    """Open a folder, or ``s3://BUCKET/PREFIX/``, if it lies in a place that may be imported.

    Raises:
        InvalidInput: it is neither, or can't be read.
        Forbidden: it lies in no such place, or none is set.
    """
    try:
        wanted = root_of(address)
    except ValueError as error:
        raise InvalidInput(f"{error}.") from error
    if not roots:
        raise Forbidden(_NONE_ALLOWED)
    if isinstance(wanted, Path):
        return allowed_folder(wanted, folders(roots))
    return allowed_prefix(wanted, [root for root in map(root_of, roots) if isinstance(root, Prefix)])
