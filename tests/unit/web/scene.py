"""A collection with every kind of object, and accounts with every right: for tests of all routes."""

from __future__ import annotations

import io
import uuid
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session
from tests.factories import (
    make_candidate,
    make_collection,
    make_embedding,
    make_job,
    make_model,
    make_picture,
    make_score,
    make_search,
    make_unit,
    make_user,
    store,
)
from tests.unit.web.pictures import picture
from tests.unit.web.policy import Person

from retllm.db.duplicates import DuplicateGroup, DuplicateMember
from retllm.db.enums import FileStatus, ItemKind, JobKind, JobState, MemberRole, Role, RunSource, UnitState, Visibility
from retllm.db.jobs import Unit
from retllm.db.maps import MapPoint, MapResult
from retllm.db.people import CollectionMember, SavedView, ShareLink
from retllm.db.reviews import EvaluationRun, Judgment
from retllm.db.searches import Search
from retllm.db.session import transaction
from retllm.db.tables import Collection, Item, Source, User, new_id
from retllm.db.uploads import LargeFile, Upload, UploadFile
from retllm.fine.injection import Injection
from retllm.fine.trace import Trace, Weights
from retllm.identity import accounts, links, logins, tokens
from retllm.identity.actor import Actor
from retllm.identity.links import Target
from retllm.identity.secret_key import secret_key
from retllm.media import records
from retllm.settings import public_name
from retllm_web.http.services import Services

ROLES = {
    Person.SEARCHER: Role.VIEWER,
    Person.READER: Role.VIEWER,
    Person.NON_MEMBER: Role.VIEWER,
    Person.OUTSIDE_VIEWER: Role.VIEWER,
    Person.EDITOR: Role.EDITOR,
    Person.OUTSIDE_EDITOR: Role.EDITOR,
    Person.OWNER: Role.EDITOR,
    Person.ADMIN: Role.ADMIN,
}
"""The role of each person's account."""
MEMBERS = {
    Person.SEARCHER: MemberRole.VIEWER,
    Person.READER: MemberRole.VIEWER,
    Person.EDITOR: MemberRole.EDITOR,
}
"""Their role in the collection."""
HIDDEN_WORD, OPEN_WORD, DELETED_WORD = "quokka", "numbat", "thylacine"
"""They are in every name and text of a private, an open and a deleted scene, and occur nowhere else."""
_PICTURE = picture()
_TRACE = Trace(
    uncertainty=(0.25, 0.875, 0.5, 0.125),
    armed_layer=2,
    plain_score=0.5,
    injected_score=0.75,
    map_layer=2,
    weights=Weights.of([0.0, 0.0, 0.0, 1.0]),
    shown=("query",),
    grids=((2, 2),),
)


@dataclass
class Scene:
    """The accounts, and the keys of the objects by their names in addresses.

    ``link`` opens the collection and ``result_link`` the search, both with downloads.
    """

    people: dict[Person, User]
    keys: dict[str, UUID]
    word: str
    link: str
    result_link: str

    def with_unknown_keys(self) -> Scene:
        """Return the same accounts with keys of objects that do not exist, and with links that open nothing."""
        unknown = {name: uuid.uuid4() for name in self.keys}
        return Scene(self.people, unknown, self.word, links.PREFIX + "a" * 43, links.PREFIX + "b" * 43)


class SceneBuilder:
    """Creates scenes in the database and the storage of an app."""

    def __init__(self, served: Services, password: str) -> None:
        self.served = served
        self.embedder = public_name(served.settings.embedder_name)
        with transaction(served.sessions) as session:
            # hash once, since hashing is slow
            self._hash = accounts.create_user(session, "hashed-once", password).password_hash
            self._models = [make_model(self.embedder), make_model("an old one")]
            session.add_all(self._models)

    def build_deleted(self) -> Scene:
        """Create a scene that everyone could see, and delete its collection; nothing is removed yet."""
        scene = self.build(Visibility.EVERYONE, DELETED_WORD)
        with transaction(self.served.sessions) as session:
            records.delete_collection(session, scene.keys["collection_id"])
        return scene

    def build(self, visibility: Visibility = Visibility.PRIVATE, word: str = "") -> Scene:
        """Create a scene that shares only the models with earlier ones."""
        word = word or (HIDDEN_WORD if visibility is Visibility.PRIVATE else OPEN_WORD)
        with transaction(self.served.sessions) as session:
            people = {person: self._user(session, person.name.lower(), role) for person, role in ROLES.items()}
            target = self._user(session, "target", Role.EDITOR)
            owner = people[Person.OWNER]
            session.flush()
            token, _ = tokens.issue(session, tokens.token_key(self.served.settings), Actor.unlimited(owner), word)
            login = logins.begin(session, owner, address=None, agent=word)
            view = SavedView(id=new_id(), user_id=owner.id, name=word, address="")
            collection = make_collection(owner.id, word, visibility=visibility)
            session.add_all([view, collection])
            session.flush()
            session.add_all(
                CollectionMember(collection_id=collection.id, user_id=people[person].id, role=role)
                for person, role in MEMBERS.items()
            )
            item = self._item(session, collection, word)
            search, unit = self._search(session, people[Person.SEARCHER], item, word)
            upload, large = self._upload(session, people[Person.OWNER], collection, word)
            run = self._run(session, people[Person.EDITOR], search, collection)
            group = self._group(session, item, word)
            self._map(session, item)
            link, secret = self._link(
                session, owner, links.collection_target(session, Actor.unlimited(owner), collection.id), word
            )
            result = links.search_target(session, Actor.unlimited(owner), search.id)
            _, of_result = self._link(session, owner, result, word)
        keys = {
            "collection_id": collection.id,
            "item_id": item.id,
            "group_id": group.id,
            "job_id": search.id,
            "search_id": search.id,
            "unit_id": unit.id,
            "upload_id": upload.id,
            "large_file_id": large.id,
            "run_id": run.id,
            "token_id": token.id,
            "link_id": link.id,
            "login_id": login.id,
            "view_id": view.id,
            "user_id": target.id,
            "member_id": people[Person.READER].id,
            "model_id": self._models[1].id,
        }
        return Scene(people, keys, word, secret, of_result)

    def _link(self, session: Session, owner: User, target: Target, word: str) -> tuple[ShareLink, str]:
        key = links.link_key(secret_key(self.served.settings))
        actor, terms = Actor.unlimited(owner), {"days": 7, "longest": 30}
        return links.make(session, key, actor, target, word, **terms, downloads=True)

    def _user(self, session: Session, name: str, role: Role) -> User:
        user = make_user(f"{name}-{uuid.uuid4().hex}", role, password_hash=self._hash)
        session.add(user)
        return user

    def _item(self, session: Session, collection: Collection, word: str) -> Item:
        """A page with a caption, and its vectors by two models."""
        source = Source(
            id=new_id(),
            collection_id=collection.id,
            name=f"{word}.pdf",
            media_type="application/pdf",
            content_sha256=uuid.uuid4().hex,
            size_bytes=len(_PICTURE),
            file_key=self._kept(f"sources/{uuid.uuid4()}/original"),
        )
        store(session, source)
        part = {"source_id": source.id, "part": {"page": 1, "pages": 2}}
        item = make_picture(
            *(collection.id, f"a {word}"), name=f"{word}.png", size_bytes=len(_PICTURE), ocr_text=f"{word} exit", **part
        )
        for key in (item.picture_key, item.thumbnail_key):
            self._kept(str(key))
        weight = self.served.settings.item_image_weight
        store(session, item, *(make_embedding(item, model.id, image_weight=weight) for model in self._models))
        return item

    def _group(self, session: Session, item: Item, word: str) -> DuplicateGroup:
        """A group of the item and of a picture that is nearly the same."""
        twin = make_picture(item.collection_id, f"a second {word}", name=f"{word} 2.png", size_bytes=len(_PICTURE))
        for key in (twin.picture_key, twin.thumbnail_key):
            self._kept(str(key))
        group = DuplicateGroup(id=new_id(), collection_id=item.collection_id, size=2)
        store(session, twin, group)
        store(session, *(DuplicateMember(item_id=one.id, group_id=group.id, distance=0) for one in (item, twin)))
        return group

    def _map(self, session: Session, item: Item) -> None:
        """A map with the item."""
        inside = {"collection_id": item.collection_id}
        store(session, MapResult(job_id=new_id(), model_id=self._models[0].id, through=item.id, items=1, **inside))
        store(session, MapPoint(item_id=item.id, rank=0, x=50.0, y=50.0, **inside))

    def _kept(self, key: str) -> str:
        self.served.storage.put(key, io.BytesIO(_PICTURE))
        return key

    def _search(self, session: Session, user: User, item: Item, word: str) -> tuple[Search, Unit]:
        """A partially succeeded search: a candidate with its trace and a mark, and a dead unit."""
        text = f"where is the {word}"
        job = make_job(
            user.id, item.collection_id, state=JobState.PARTIAL, params={"text": text}, finished_at=item.created_at
        )
        search = make_search(
            job.id,
            text,
            kind=ItemKind.BOTH,
            query_picture_key=self._kept(f"queries/{job.id}/picture"),
            query_picture_sha256="0" * 64,
            question=str(job.id),
            k=1,
            item_kinds=[ItemKind.BOTH],
            query_image_weight=0.5,
            embedder=self.embedder,
            model_id=self._models[0].id,
            scorer_revision="1",
            scorer_version="v",
            prompt_version="1",
            injection=Injection(alpha=0.25, trigger="fixed", fixed_layer=3).as_json(),
            tie_decimals=3,
            trace=True,
            searched_items=1,
            coarse_at=item.created_at,
            final_at=item.created_at,
        )
        unit = make_unit(
            job.id,
            payload={"items": [str(item.id)]},
            state=UnitState.DEAD,
            error=f"no {word}",
            finished_at=item.created_at,
        )
        store(
            session,
            job,
            search,
            unit,
            make_candidate(job.id, item.id, 1, similarity=0.5, final_rank=1),
            make_score(job.id, item.id, 0.5, scorer_version="v", tokens=9, trace=_TRACE.as_json()),
            Judgment(collection_id=item.collection_id, question=search.question, item_id=item.id, relevant=True),
        )
        return search, unit

    def _upload(self, session: Session, user: User, collection: Collection, word: str) -> tuple[Upload, LargeFile]:
        """An open upload with a rejected file that is kept, and a large file that has not arrived."""
        job = make_job(user.id, collection.id, JobKind.UPLOAD, params={"index": False, "texts": False})
        upload = Upload(id=job.id)
        large = LargeFile(id=new_id(), job_id=job.id, collection_id=collection.id, name=f"{word}.zip", size_bytes=9)
        file = UploadFile(
            id=new_id(),
            job_id=job.id,
            name=f"{word}.txt",
            content="text",
            file_key=self._kept(f"uploads/{job.id}/file"),
            status=FileStatus.REJECTED,
            error_code="media_rejected",
            error=f"no {word}",
        )
        store(session, job, upload, file, large)
        return upload, large

    def _run(self, session: Session, user: User, search: Search, collection: Collection) -> EvaluationRun:
        """A run that repeats the search."""
        asked = {"question": search.question, "search": str(search.id), "before": str(search.id)}
        run = EvaluationRun(
            id=new_id(),
            collection_id=collection.id,
            user_id=user.id,
            name=collection.name,
            source=RunSource.REVIEWED,
            report={"asked": {}, "searches": [asked]},
        )
        session.add(run)
        session.flush()
        return run


def report() -> dict[str, Any]:
    """Return a minimal report of `retllm eval`."""
    figures: dict[str, Any] = {"coarse": {"r1": 0.5}, "fine": {"r1": 0.75}}
    variant = {"name": "all", "section": "t2i", "k": 1, "mode": "true_false", "queries": 4, **figures}
    return {"benchmark": "scenes", "seed": 1, "models": {"embedder": "e", "scorer": "s"}, "variants": [variant]}
