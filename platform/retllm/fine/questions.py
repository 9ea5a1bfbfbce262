"""Check by the files of a model how its profile asks it, without its weights."""

from __future__ import annotations

from retllm.fine.labels import check_labels
from retllm.fine.model import LOAD_ERRORS, explain
from retllm.fine.prepare import Preparer
from retllm.fine.prompts import load_prompts, with_profile
from retllm.fine.sources import ModelSource
from retllm.profiles import Profile


def check_questions(source: ModelSource, profile: Profile) -> None:
    """Check that the chat template of a model on this machine takes a profile, and that its answers are tokens.

    Imports transformers, which takes seconds.

    Raises:
        ModelUnavailable, ModelUnsuited: it does not, or its files can't be loaded; the message says what to do.
    """
    from transformers import AutoProcessor

    assert source.folder is not None, "the model is on this machine"
    try:
        processor = AutoProcessor.from_pretrained(str(source.folder), trust_remote_code=False, local_files_only=True)
    except LOAD_ERRORS as error:
        raise explain(source.model, True, error) from error
    prompts = with_profile(load_prompts(), profile)
    preparer = Preparer(source.model, processor, None, prompts.system, prompts.template_arguments)
    preparer.render(["?"])
    check_labels(preparer, prompts)
