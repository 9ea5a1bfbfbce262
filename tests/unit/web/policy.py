"""The rights on every route: the policy that test_authorization.py checks the app against."""

from __future__ import annotations

from enum import StrEnum

from retllm.db.enums import TokenScope


class Person(StrEnum):
    """A kind of caller; the collection is private unless stated otherwise."""

    ANONYMOUS = "anonymous"  # not logged in
    VISITOR = "visitor with a link"  # not logged in; sends the link wherever a request may carry a secret
    SEARCHER = "viewer, member, owner of the search"
    READER = "viewer, member"  # with the role viewer in the collection
    NON_MEMBER = "viewer, no member of an open collection"
    OUTSIDE_VIEWER = "viewer, no access"
    EDITOR = "editor, member"  # with the role editor in the collection; added the evaluation
    OUTSIDE_EDITOR = "editor, no access"
    OWNER = "owner"  # an editor, who owns the collection, the token and the saved view
    ADMIN = "administrator"  # no member


class Answer(StrEnum):
    """How a route must answer."""

    DONE = "done"  # any other response
    LOG_IN = "log in"  # 401; pages redirect to the login page
    HIDDEN = "hidden"  # 404
    REFUSED = "refused"  # 403


class Needs(StrEnum):
    """What a route requires of the caller."""

    NOTHING = "nothing"  # no login
    LINK = "a link, which is in the address"  # whoever sends it
    SCRAPER = "a token that belongs to no account"  # the metrics token; no caller here has it
    ACCOUNT = "an account"
    EDITOR = "an editor's account"
    ADMIN = "an administrator's account"
    OWN = "that the object is their own"  # no exception for administrators
    SEE = "to see the collection"
    CHANGE = "to change the collection"
    MANAGE = "to manage the collection"
    IMPORT = "to see the collection, and an administrator's account"
    JOB = "that the job is theirs, or to change the collection"
    RUN = "that they added the evaluation, or to manage the collection"
    MEMBERSHIP = "that the membership is theirs, or to manage the collection"
    INSIDE = "to be a member, or to manage the collection"


_EDITORS = {Person.EDITOR, Person.OUTSIDE_EDITOR, Person.OWNER, Person.ADMIN}
_OUTSIDERS = {Person.OUTSIDE_VIEWER, Person.OUTSIDE_EDITOR}
_MANAGE = {Person.OWNER, Person.ADMIN}
_CHANGE = _MANAGE | {Person.EDITOR}
_MEMBERS = {Person.SEARCHER, Person.READER, Person.EDITOR}
# for accounts that see the collection
_MAY = {
    Needs.SEE: set(Person),
    Needs.CHANGE: _CHANGE,
    Needs.MANAGE: _MANAGE,
    Needs.IMPORT: {Person.ADMIN},
    Needs.JOB: _CHANGE | {Person.SEARCHER},
    Needs.RUN: _MANAGE | {Person.EDITOR},
    Needs.MEMBERSHIP: _MANAGE | {Person.READER},
    Needs.INSIDE: _MANAGE | _MEMBERS,
}
WITHIN_COLLECTION = set(_MAY)
"""Requirements about an object in a collection, whose existence is hidden from accounts without access."""


def expected_answer(needs: Needs, person: Person) -> Answer:
    """Return how a route with these requirements answers this person."""
    if needs in (Needs.NOTHING, Needs.LINK):
        return Answer.DONE
    if person in (Person.ANONYMOUS, Person.VISITOR) or needs is Needs.SCRAPER:
        return Answer.LOG_IN
    if needs is Needs.ACCOUNT:
        return Answer.DONE
    if needs is Needs.EDITOR:
        return Answer.DONE if person in _EDITORS else Answer.REFUSED
    if needs is Needs.ADMIN:
        return Answer.DONE if person is Person.ADMIN else Answer.REFUSED
    if needs is Needs.OWN:
        return Answer.DONE if person is Person.OWNER else Answer.HIDDEN
    if person in _OUTSIDERS:
        return Answer.HIDDEN
    return Answer.DONE if person in _MAY[needs] else Answer.REFUSED


POLICY: dict[str, Needs] = {
    "static": Needs.NOTHING,
    "bootstrap.static": Needs.NOTHING,
    "charts.static": Needs.NOTHING,
    "openapi_document": Needs.NOTHING,
    "health.healthz": Needs.NOTHING,
    "health.readyz": Needs.NOTHING,
    "metrics.metrics": Needs.SCRAPER,
    "pages.login": Needs.NOTHING,
    "pages.logout": Needs.NOTHING,
    # what a link opens
    "shared.start": Needs.LINK,
    "shared.item": Needs.LINK,
    "shared.thumbnail": Needs.LINK,
    "shared.rendition": Needs.LINK,
    "shared.picture": Needs.LINK,
    "shared.source": Needs.LINK,
    "shared.query": Needs.LINK,
    # the caller's own account
    "pages.account": Needs.ACCOUNT,
    "pages.change_password": Needs.ACCOUNT,
    "pages.create_token": Needs.ACCOUNT,
    "pages.revoke_token": Needs.OWN,
    "pages.end_login": Needs.OWN,
    "pages.end_other_logins": Needs.ACCOUNT,
    "pages.save_view": Needs.ACCOUNT,
    "pages.delete_view": Needs.OWN,
    "pages.tell_names_apart": Needs.ACCOUNT,
    "api.get_me": Needs.ACCOUNT,
    "api.list_tokens": Needs.ACCOUNT,
    "api.create_token": Needs.ACCOUNT,
    "api.delete_token": Needs.OWN,
    # lists, which contain only what the account can see
    "pages.overview": Needs.ACCOUNT,
    "pages.overview_live": Needs.ACCOUNT,
    "pages.collections": Needs.ACCOUNT,
    "pages.search_page": Needs.ACCOUNT,
    "pages.trash": Needs.ACCOUNT,
    "pages.jobs": Needs.ACCOUNT,
    "pages.export_jobs": Needs.ACCOUNT,
    "pages.compare": Needs.ACCOUNT,
    "pages.quality": Needs.ACCOUNT,
    "pages.evaluation_runs": Needs.ACCOUNT,
    "pages.system": Needs.ACCOUNT,
    "pages.system_live": Needs.ACCOUNT,
    "api.list_collections": Needs.ACCOUNT,
    "api.list_trashed_collections": Needs.ACCOUNT,
    "api.list_jobs": Needs.ACCOUNT,
    "api.export_jobs": Needs.ACCOUNT,
    "api.list_evaluations": Needs.ACCOUNT,
    "api.list_workers": Needs.ACCOUNT,
    "api.list_queues": Needs.ACCOUNT,
    "api.list_dead_units": Needs.ACCOUNT,
    # bulk actions, which skip what the account may not change
    "pages.confirm_jobs": Needs.ACCOUNT,
    "pages.do_to_jobs": Needs.ACCOUNT,
    "pages.requeue_units": Needs.ACCOUNT,
    "api.requeue_units": Needs.ACCOUNT,
    # what editors may create
    "pages.create_collection": Needs.EDITOR,
    "api.create_collection": Needs.EDITOR,
    "pages.upload_run": Needs.EDITOR,
    "api.add_evaluation": Needs.EDITOR,
    # administration
    "pages.import_files": Needs.IMPORT,
    "api.import_files": Needs.IMPORT,
    "pages.people": Needs.ADMIN,
    "pages.create_person": Needs.ADMIN,
    "pages.person": Needs.ADMIN,
    "pages.change_role": Needs.ADMIN,
    "pages.lock_person": Needs.ADMIN,
    "pages.unlock_person": Needs.ADMIN,
    "pages.give_password": Needs.ADMIN,
    "pages.audit": Needs.ADMIN,
    "pages.audit_export": Needs.ADMIN,
    "pages.system_logs": Needs.ADMIN,
    "pages.system_logs_live": Needs.ADMIN,
    "pages.pause_queue": Needs.ADMIN,
    "pages.resume_queue": Needs.ADMIN,
    "api.list_users": Needs.ADMIN,
    "api.create_user": Needs.ADMIN,
    "api.get_user": Needs.ADMIN,
    "api.change_user": Needs.ADMIN,
    "api.give_password": Needs.ADMIN,
    "api.list_audit": Needs.ADMIN,
    "api.list_log_lines": Needs.ADMIN,
    "api.pause_queue": Needs.ADMIN,
    "api.resume_queue": Needs.ADMIN,
    # a collection
    "pages.collection": Needs.SEE,
    "pages.collection_live": Needs.SEE,
    "pages.collection_facets": Needs.SEE,
    "pages.change_collection": Needs.CHANGE,
    "pages.index_collection": Needs.CHANGE,
    "pages.upload": Needs.CHANGE,
    "pages.open_upload": Needs.CHANGE,
    "pages.send_files": Needs.CHANGE,
    "pages.close_upload": Needs.CHANGE,
    "pages.end_upload": Needs.CHANGE,
    "pages.last_upload": Needs.SEE,
    "pages.retry_files": Needs.CHANGE,
    "pages.export_files": Needs.SEE,
    "pages.add_text": Needs.CHANGE,
    "pages.change_chosen": Needs.CHANGE,
    "pages.download_chosen": Needs.SEE,
    "pages.ocr": Needs.SEE,
    "pages.read_text": Needs.CHANGE,
    "pages.duplicates": Needs.SEE,
    "pages.look_for_duplicates": Needs.CHANGE,
    "pages.keep_of_group": Needs.CHANGE,
    "pages.dismiss_duplicates": Needs.CHANGE,
    "pages.restore_duplicates": Needs.CHANGE,
    "pages.collection_map": Needs.SEE,
    "pages.make_map": Needs.CHANGE,
    "pages.show_places": Needs.SEE,
    "pages.delete_collection": Needs.MANAGE,
    "pages.restore_collection": Needs.MANAGE,
    "pages.remove_collection": Needs.MANAGE,
    "pages.models": Needs.MANAGE,
    "pages.index_with": Needs.CHANGE,
    "pages.use_model": Needs.MANAGE,
    "pages.remove_vectors": Needs.MANAGE,
    "pages.members": Needs.INSIDE,
    "pages.add_member": Needs.MANAGE,
    "pages.remove_member": Needs.MEMBERSHIP,
    "pages.change_visibility": Needs.MANAGE,
    "pages.change_positions": Needs.MANAGE,
    "pages.make_link": Needs.MANAGE,
    "pages.make_result_link": Needs.MANAGE,
    "pages.revoke_link": Needs.MANAGE,
    "api.list_links": Needs.MANAGE,
    "api.make_link": Needs.MANAGE,
    "api.list_result_links": Needs.MANAGE,
    "api.make_result_link": Needs.MANAGE,
    "api.revoke_link": Needs.MANAGE,
    "api.get_collection": Needs.SEE,
    "api.change_collection": Needs.CHANGE,
    "api.delete_collection": Needs.MANAGE,
    "api.restore_collection": Needs.MANAGE,
    "api.remove_collection": Needs.MANAGE,
    "api.list_embedders": Needs.MANAGE,
    "api.index_with_embedder": Needs.CHANGE,
    "api.remove_vectors": Needs.MANAGE,
    "api.submit_index": Needs.CHANGE,
    "api.list_members": Needs.MANAGE,
    "api.add_member": Needs.MANAGE,
    "api.remove_member": Needs.MEMBERSHIP,
    "api.set_visibility": Needs.MANAGE,
    # its items
    "pages.item": Needs.SEE,
    "pages.change_item": Needs.CHANGE,
    "pages.delete_item": Needs.CHANGE,
    "pages.change_trash": Needs.CHANGE,
    "api.list_trashed_items": Needs.CHANGE,
    "api.restore_items": Needs.CHANGE,
    "api.remove_items": Needs.CHANGE,
    "api.empty_trash": Needs.CHANGE,
    "api.list_items": Needs.SEE,
    "api.get_archive": Needs.SEE,
    "api.download_items": Needs.SEE,
    "api.upload_items": Needs.CHANGE,
    "api.open_upload": Needs.CHANGE,
    "api.get_upload": Needs.SEE,
    "api.list_upload_files": Needs.SEE,
    "api.export_upload_files": Needs.SEE,
    "api.close_upload": Needs.CHANGE,
    "api.announce_files": Needs.CHANGE,
    "api.send_files": Needs.CHANGE,
    "api.retry_upload": Needs.CHANGE,
    "api.note_unsent_files": Needs.CHANGE,
    "api.expect_files": Needs.CHANGE,
    "api.create_large_file": Needs.CHANGE,
    "api.get_large_file": Needs.CHANGE,
    "api.append_part": Needs.CHANGE,
    "api.abandon_large_file": Needs.CHANGE,
    "api.get_item": Needs.SEE,
    "api.get_picture": Needs.SEE,
    "api.get_item_source": Needs.SEE,
    "api.get_rendition": Needs.SEE,
    "api.get_thumbnail": Needs.SEE,
    "api.change_item": Needs.CHANGE,
    "api.remove_item": Needs.CHANGE,
    "api.change_items": Needs.CHANGE,
    "api.delete_items": Needs.CHANGE,
    "api.move_items": Needs.CHANGE,
    # into a collection that they may change; here it is the same one, which is refused later
    "api.copy_items": Needs.CHANGE,
    "api.get_ocr": Needs.SEE,
    "api.read_text": Needs.CHANGE,
    "api.list_duplicates": Needs.SEE,
    "api.look_for_duplicates": Needs.CHANGE,
    "api.dismiss_duplicates": Needs.CHANGE,
    "api.restore_duplicates": Needs.CHANGE,
    "api.get_map": Needs.SEE,
    "api.make_map": Needs.CHANGE,
    "api.list_map_points": Needs.SEE,
    "api.list_places": Needs.SEE,
    # searching and reviewing
    "pages.search": Needs.SEE,
    "pages.search_anywhere": Needs.SEE,
    "pages.mark": Needs.SEE,
    "pages.missing": Needs.SEE,
    "pages.candidate_map": Needs.SEE,
    "api.submit_search": Needs.SEE,
    "api.submit_search_of_several": Needs.SEE,
    "api.get_search": Needs.SEE,
    "api.get_search_archive": Needs.SEE,
    "api.get_query_picture": Needs.SEE,
    "api.get_query_rendition": Needs.SEE,
    "api.get_query_thumbnail": Needs.SEE,
    "api.get_trace": Needs.SEE,
    "api.list_judgments": Needs.SEE,
    "api.set_judgment": Needs.SEE,
    "api.delete_judgment": Needs.SEE,
    # its jobs
    "pages.job": Needs.SEE,
    "pages.job_live": Needs.SEE,
    "pages.job_attempts": Needs.SEE,
    "pages.cancel_job": Needs.JOB,
    "pages.retry_job": Needs.JOB,
    "pages.delete_job": Needs.JOB,
    "api.get_job": Needs.SEE,
    "api.list_attempts": Needs.SEE,
    "api.cancel_job": Needs.JOB,
    "api.retry_job": Needs.JOB,
    "api.delete_job": Needs.JOB,
    # its reviews
    "pages.collection_quality": Needs.SEE,
    "pages.ask_again": Needs.CHANGE,
    "pages.evaluation_run": Needs.SEE,
    "pages.evaluation_run_live": Needs.SEE,
    "pages.delete_run": Needs.RUN,
    "api.ask_reviewed_questions": Needs.CHANGE,
    "api.get_evaluation": Needs.SEE,
    "api.delete_evaluation": Needs.RUN,
}


# requests with a body that change nothing
_READING = {"api.download_items"}
_LEAST_SCOPES = {
    Needs.CHANGE: TokenScope.CHANGE,
    Needs.EDITOR: TokenScope.CHANGE,
    Needs.MANAGE: TokenScope.MANAGE,
    Needs.MEMBERSHIP: TokenScope.MANAGE,
    Needs.ADMIN: TokenScope.MANAGE,
    Needs.IMPORT: TokenScope.MANAGE,
}
# routes for the caller's own account that still require a token with the largest scope
_ACCOUNTS = {"api.create_token", "api.delete_token"}


def least_scope(endpoint: str, method: str, person: Person) -> TokenScope:
    """Return the smallest scope of a token that lets this person use the route."""
    needs = POLICY[endpoint]
    if endpoint in _ACCOUNTS:
        return TokenScope.MANAGE
    if needs is Needs.RUN:
        return TokenScope.CHANGE if person is Person.EDITOR else TokenScope.MANAGE
    if needs is Needs.JOB:
        return TokenScope.SEARCH if person is Person.SEARCHER else TokenScope.CHANGE
    looks = TokenScope.READ if method in ("GET", "HEAD") or endpoint in _READING else TokenScope.SEARCH
    return _LEAST_SCOPES.get(needs, looks)
