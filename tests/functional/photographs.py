"""Photographs for pages that show what people have: those in the package of scikit-image, with a sheet about them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import skimage.data
from PIL import Image

from retllm.media.sheets import item_sheets

SHEET = "photographs.csv"
# tags are separated by commas
_PHOTOGRAPHS = """
file; folder; caption; tags; rating; taken; camera; photographer
astronaut.png; 2003/People; an astronaut in an orange suit; portrait; 5; 2003-05-11; X100; Ann
camera.png; 2003/People; a man with a camera on a tripod; portrait,black and white; 4; 2003-05-12; X100; Ann
chelsea.png; 2003/Animals; a ginger cat looks into the camera; cat; 5; 2003-06-02; X100; Bo
coffee.png; 2003/Table; a cup of coffee on a wooden table; still life; 4; 2003-06-02T09:15:00; X100; Bo
coins.png; 2003/Table; Greek coins from Pompeii; still life,black and white; ; 2003-07-20; Plate camera; Bo
clock_motion.png; 2003/Table; a clock, blurred by motion; black and white; 1; 2003-08; Plate camera; Ann
motorcycle_left.png; 2004/Garage; a motorcycle in a garage; machines; ; 2004-02-28; X100; Cleo
motorcycle_right.png; 2004/Garage; the same motorcycle, a step to the right; machines; ; 2004-02-28; X100; Cleo
rocket.jpg; 2004/Launch; a rocket on its launch pad; machines,sky; 4; 2004-03-01T18:40:00; X100; Cleo
hubble_deep_field.jpg; 2004/Sky; the Hubble deep field; sky; 5; 2004-12-24; ;
moon.png; 2004/Sky; the surface of the moon; sky,black and white; ; 2004; Plate camera;
brick.png; 2005/Textures; a brick wall; texture; ; 2005-01-09; X100; Ann
grass.png; 2005/Textures; grass; texture; ; 2005-01-09; X100; Ann
gravel.png; 2005/Textures; gravel; texture; 2; 2005-01-10; X100; Ann
retina.jpg; 2005/Laboratory; the retina of an eye; science; ; ; ; Dr. Dee
ihc.png; 2005/Laboratory; stained tissue under a microscope; science; ; ; ; Dr. Dee
page.png; ; a page of a book; text; ; ; ;
""".strip()


@dataclass(frozen=True)
class Written:
    """Names of files in a folder: photographs and parts of them, and smaller copies of the best."""

    folder: Path
    names: list[str]
    copies: list[str]


def write_photographs(folder: Path) -> Written:
    """Write them as JPEG, each as it is, with a tall and a wide part of the larger ones, and the sheet about them."""
    source = Path(skimage.data.__file__).parent
    names, copies, rows = [], [], []
    for number, one in enumerate(csv.DictReader(_PHOTOGRAPHS.splitlines(), delimiter=";", skipinitialspace=True)):
        with Image.open(source / one["file"]) as opened:
            picture = opened.convert("RGB")
        for name, part in _parts(picture, one):
            _save(part, folder / name)
            names.append(name)
            rows.append(_row(one, name, f"Box {1 + number // 6}"))
        if one["rating"] == "5":
            copies.append(f"from the web/{Path(one['file']).stem} small.jpg")
            _save(picture.resize((picture.width // 2, picture.height // 2)), folder / copies[-1])
    with (folder / SHEET).open("w", encoding="utf-8", newline="") as target:
        sheet = csv.DictWriter(target, item_sheets.columns(with_places=False), restval="")
        sheet.writeheader()
        sheet.writerows(rows)
    return Written(folder, names, copies)


def _parts(picture: Image.Image, one: Mapping[str, str]) -> Iterator[tuple[str, Image.Image]]:
    stem = "/".join(filter(None, (one["folder"], Path(one["file"]).stem)))
    yield f"{stem}.jpg", picture
    width, height = picture.size
    if width < 500 or one["tags"] == "texture":
        return
    yield f"{stem}, tall part.jpg", picture.crop((width // 4, 0, width // 4 + height // 2, height))
    yield f"{stem}, wide part.jpg", picture.crop((0, height // 4, width, height // 4 + width // 3))


def _row(one: Mapping[str, str], name: str, box: str) -> dict[str, str]:
    part = name.removesuffix(".jpg").partition(", ")[2]
    further = {"Photographer": one["photographer"], "Box": box}
    return {
        "file": name,
        "caption": f"{one['caption']}, {part}" if part else one["caption"],
        "tags": one["tags"].replace(",", "\n"),
        **{column: one[column] for column in ("rating", "taken", "camera")},
        "lens": "35mm" if one["camera"] == "X100" else "",
        "columns": json.dumps({column: text for column, text in further.items() if text}),
    }


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=90)
