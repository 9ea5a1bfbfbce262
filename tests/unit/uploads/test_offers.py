"""Which files of an upload count as arrived, for a sender that asks what is left to send."""

from __future__ import annotations

import hashlib

import pytest
from tests.unit.uploads.conftest import Uploads, picture

from retllm.db.session import transaction
from retllm.history.control import cancel_job
from retllm.uploads.offers import Offer, arrived


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize("ended", [True, False])
def test_what_a_cancelled_upload_left_unprocessed_is_still_to_be_sent(
    uploads: Uploads, hashed: bool, ended: bool
) -> None:
    """Otherwise the upload that goes on lacks it, and its rows name pictures that nobody has."""
    files = {name: picture(number) for number, name in enumerate(["done.png", "left.png", "late.png"])}
    job_id = uploads.open(index=False)
    uploads.send(job_id, {"done.png": files["done.png"]})
    uploads.run(job_id)
    uploads.send(job_id, {"left.png": files["left.png"]})
    with transaction(uploads.world.sessions) as session:
        cancel_job(session, uploads.world.user, job_id)
    if ended:
        uploads.close(job_id)
    offers = [
        Offer(name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest() if hashed else None)
        for name, content in files.items()
    ]
    with uploads.world.sessions() as session:
        assert arrived(session, job_id, offers) == [True, False, False]
