"""Pages show re-encoded pictures; originals are sent only as attachments."""

from __future__ import annotations

import io
import json
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from PIL import Image
from PIL.TiffImagePlugin import IFDRational
from tests.unit.web.conftest import Caller
from tests.unit.web.pictures import picture

from retllm.db.searches import Search
from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.media.names import clean_name
from retllm_web.http import pictures
from retllm_web.http.services import Services

SECRET = b"taken at home"
_ORIENTATION, _DESCRIPTION, _GPS = 0x0112, 0x010E, 0x8825


def picture_with_metadata(form: str, size: tuple[int, int] = (40, 20)) -> bytes:
    """A rotated picture with GPS metadata; black on the left, white on the right."""
    shown = Image.new("RGB", size, "white")
    shown.paste("black", (0, 0, size[0] // 2, size[1]))
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    exif[_DESCRIPTION] = SECRET.decode()
    if form != "TIFF":  # Pillow writes no GPS block into TIFF files
        exif[_GPS] = {2: (IFDRational(52), IFDRational(31), IFDRational(12))}
    target = io.BytesIO()
    shown.save(target, form, exif=exif)
    return target.getvalue()


def upload(caller: Caller, collection: str, name: str, content: bytes) -> str:
    data = {"file": (io.BytesIO(content), name)}
    answer = caller.post(f"/collections/{collection}/items", data=data, content_type="multipart/form-data")
    return str(answer.json["outcomes"][0]["item_id"])


def search_by_picture(caller: Caller, collection: str, content: bytes) -> str:
    data = {"picture": (io.BytesIO(content), "query"), "query": json.dumps({"k": 1})}
    answer = caller.post(f"/collections/{collection}/searches", data=data, content_type="multipart/form-data")
    assert answer.status_code == 202, answer.text
    return str(answer.json["id"])


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_rendition_is_an_upright_picture_without_metadata(ada: Caller, birds: str, form: str) -> None:
    content = picture_with_metadata(form)
    assert SECRET in content
    key = upload(ada, birds, "home.jpg", content)
    answer = ada.get(f"/items/{key}/rendition")
    # the working copy of a TIFF
    encoded = "JPEG" if form == "TIFF" else "WEBP"
    assert answer.headers["Content-Type"] == f"image/{encoded.lower()}"
    assert answer.headers["Content-Disposition"] == "inline"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert SECRET not in answer.data
    with Image.open(io.BytesIO(answer.data)) as shown:
        assert shown.format == encoded
        assert shown.size == (20, 40)
        assert not shown.getexif()
        assert not {"exif", "xmp", "icc_profile"} & set(shown.info)
        assert shown.convert("L").getpixel((10, 2)) < 60 < 200 < shown.convert("L").getpixel((10, 37))


def test_a_rendition_has_a_maximum_size_and_is_cached_privately(ada: Caller, birds: str) -> None:
    # the working copy of a picture this long is larger
    key = upload(ada, birds, "wide.png", picture(size=(4000, 1000)))
    answer = ada.get(f"/items/{key}/rendition")
    with Image.open(io.BytesIO(answer.data)) as shown:
        assert shown.size == (pictures.RENDITION_SIDE, 400)
    assert "private" in answer.headers["Cache-Control"]
    original, small = (ada.get(f"/items/{key}/{which}").headers["ETag"] for which in ("picture", "thumbnail"))
    assert len({answer.headers["ETag"], original, small}) == 3
    again = ada.get(f"/items/{key}/rendition", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_the_working_copy_is_shown_as_it_is_and_the_original_if_it_is_lost(
    ada: Caller, birds: str, served: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = upload(ada, birds, "large.jpg", picture_with_metadata("JPEG", (2400, 1600)))
    with served.sessions() as session:
        copy = session.get_one(Item, uuid.UUID(key)).copy_key
    with monkeypatch.context() as patched:
        patched.setattr(pictures, "render_picture", lambda *_: pytest.fail("a picture was decoded"))
        answer = ada.get(f"/items/{key}/rendition")
    with served.storage.open(str(copy)) as file:
        assert answer.data == file.read()
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert SECRET not in answer.data
    again = ada.get(f"/items/{key}/rendition", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    served.storage.delete(str(copy))
    answer = ada.get(f"/items/{key}/rendition")
    assert answer.headers["Content-Type"] == "image/webp"
    with Image.open(io.BytesIO(answer.data)) as shown:
        assert shown.size == (1067, 1600)


def test_a_query_picture_has_a_rendition_and_a_thumbnail_without_metadata(
    ada: Caller, bob: Caller, indexed: str
) -> None:
    content = picture_with_metadata("JPEG", (4000, 2000))
    key = search_by_picture(ada, indexed, content)
    for which, size in (("rendition", (800, 1600)), ("thumbnail", (160, 320))):
        answer = ada.get(f"/searches/{key}/{which}")
        assert answer.headers["Content-Type"] == "image/webp"
        assert SECRET not in answer.data
        with Image.open(io.BytesIO(answer.data)) as shown:
            assert shown.size == size
        etag = {"If-None-Match": answer.headers["ETag"]}
        assert ada.get(f"/searches/{key}/{which}", headers=etag).status_code == 304
        assert bob.get(f"/searches/{key}/{which}").status_code == 404
    original = ada.get(f"/searches/{key}/picture")
    assert original.data == content
    assert original.headers["Content-Disposition"] == f'attachment; filename="query-{key}.jpg"'
    text = ada.post(f"/collections/{indexed}/searches", json={"text": "a robin"}).json["id"]
    for which in ("rendition", "thumbnail", "picture"):
        assert ada.get(f"/searches/{text}/{which}").status_code == 404


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_originals_are_sent_as_sandboxed_attachments(ada: Caller, birds: str, indexed: str, form: str) -> None:
    content = picture("green", form)
    suffix = {"JPEG": "jpg", "TIFF": "tif"}.get(form, form.lower())
    for address in (
        f"/items/{upload(ada, birds, 'a.picture', content)}",
        f"/searches/{search_by_picture(ada, indexed, content)}",
    ):
        answer = ada.get(f"{address}/picture")
        assert answer.data == content
        assert answer.headers["Content-Type"] == f"image/{form.lower()}"
        assert answer.headers["Content-Disposition"].startswith('attachment; filename="')
        assert answer.headers["Content-Disposition"].endswith(f'.{suffix}"')
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("holiday/boat.jpeg", 'filename="boat.png"'),
        ("boat.html", 'filename="boat.html.png"'),
        ('a"b;c.png', "filename=\"a_b_c.png\"; filename*=UTF-8''a_b%3Bc.png"),
        ("Straße 猫.png", "filename=\"Strae.png\"; filename*=UTF-8''Stra%C3%9Fe%20%E7%8C%AB.png"),
        ("猫.png", "filename=\"picture.png\"; filename*=UTF-8''%E7%8C%AB.png"),
        ("gpj.\u202eexe.png", 'filename="gpj.exe.png"'),
        ("line\r\nSet-Cookie: a=b.png", "filename=\"line_Set-Cookie__a_b.png\"; filename*=UTF-8''"),
        ("x" * 290 + ".png", f'filename="{"x" * 100}.png"'),
        ("...", 'filename="picture.png"'),
        ("CON|NUL?.png", "filename=\"CON_NUL.png\"; filename*=UTF-8''CON_NUL_.png"),
    ],
)
def test_file_names_of_attachments_are_sanitized(
    ada: Caller, birds: str, served: Services, name: str, saved: str
) -> None:
    key = upload(ada, birds, "a.png", picture())
    with transaction(served.sessions) as session:
        session.execute(sa.update(Item).where(Item.id == uuid.UUID(key)).values(name=clean_name(name)))
    value = ada.get(f"/items/{key}/picture").headers["Content-Disposition"]
    assert value.startswith(f"attachment; {saved}")
    assert value.isascii()
    assert "\n" not in value


def test_a_media_type_that_is_not_a_picture_is_sent_as_octet_stream(ada: Caller, birds: str, served: Services) -> None:
    key = upload(ada, birds, "a.png", picture())
    with transaction(served.sessions) as session:
        session.execute(sa.update(Item).where(Item.id == uuid.UUID(key)).values(media_type="image/svg+xml"))
    answer = ada.get(f"/items/{key}/picture")
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="a.bin"'


def test_damaged_pictures_return_422_and_missing_pictures_return_404(
    ada: Caller, birds: str, indexed: str, served: Services
) -> None:
    item, search = upload(ada, birds, "a.png", picture()), search_by_picture(ada, indexed, picture())
    with transaction(served.sessions) as session:
        keys = [session.get_one(Item, uuid.UUID(item)).picture_key]
        keys.append(session.get_one(Search, uuid.UUID(search)).query_picture_key)
    for key in keys:
        served.storage.put(str(key), io.BytesIO(picture()[:40]))
    for address in (f"/items/{item}/rendition", f"/searches/{search}/rendition"):
        answer = ada.get(address)
        assert answer.status_code == 422
        assert answer.json["error"]["code"] == "media_rejected"
        assert "cannot be displayed" in answer.json["error"]["message"]
        assert "ETag" not in answer.headers
    other = upload(ada, birds, "b.png", picture("blue"))
    with served.sessions() as session:
        served.storage.delete(str(session.get_one(Item, uuid.UUID(other)).picture_key))
    assert ada.get(f"/items/{other}/rendition").status_code == 404


def test_the_web_process_decodes_no_pictures(ada: Caller, indexed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: Any, **__: Any) -> None:
        pytest.fail("a picture was opened in the web process")

    content = picture("red", "TIFF")
    monkeypatch.setattr(Image, "open", opened)
    item, search = upload(ada, indexed, "a.tif", content), search_by_picture(ada, indexed, content)
    for address in (f"/items/{item}", f"/searches/{search}"):
        for which in ("thumbnail", "rendition", "picture"):
            assert ada.get(f"{address}/{which}").status_code == 200
