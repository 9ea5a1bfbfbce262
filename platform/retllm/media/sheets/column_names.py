"""The names that columns of pictures and of captions have."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from retllm.media.normalization import composed

# Names of columns without spaces, hyphens and underscores, best first: if several are there, values decide, then order.
FILES = (
    # exiftool's, with the folder
    "sourcefile",
    "filename",
    "file",
    "filepath",
    "imagefile",
    "imagefilename",
    "imagefilepath",
    "imagepath",
    "imagename",
    "image",
    "imgpath",
    "imgname",
    "imgfile",
    "img",
    "picturepath",
    "picturename",
    "picture",
    "photopath",
    "photoname",
    "photo",
    "pic",
    "path",
    "relativepath",
    "relpath",
    "localpath",
    "fullpath",
    "name",
    "key",
    "imageid",
    "imgid",
    "cocoid",
    "imageurl",
    "imgurl",
    "pictureurl",
    "cocourl",
    "flickrurl",
    "url",
    "src",
    "imageurls",
    "urls",
    "filenames",
    "imagepaths",
    # as spreadsheets in other languages have them
    *("dateiname", "datei", "dateipfad", "bilddatei", "bildname", "bild", "pfad"),
    *("nomdufichier", "nomdefichier", "fichier"),
    *("nombredearchivo", "nombredelarchivo", "archivo", "imagen"),
    *("nomefile", "nomedelfile", "immagine"),
    *("nomedoarquivo", "nomedearquivo", "arquivo", "nomedoficheiro", "ficheiro", "imagem"),
    *("bestandsnaam", "bestand", "afbeelding"),
    *("nazwapliku", "plik", "obraz", "zdjęcie"),
    *("dosyaadi", "dosya", "resimadi", "resim", "fotoğraf", "görsel"),
    *("имяфайла", "файл"),
    *("ファイル名", "ファイル", "画像"),
    *("文件名", "文件", "图片", "图像", "檔名", "檔案名稱", "檔案", "圖片"),
    *("nom", "nombre", "nome", "имя"),
)
CAPTIONS = (
    "caption",
    "captions",
    "sentence",
    "sentences",
    "raw",
    "text",
    "description",
    "prompt",
    "comment",
    "imagecaption",
    "captiontext",
    "captionstr",
    "imagedescription",
    # exiftool's
    "captionabstract",
    "alttext",
    "alt",
    "txt",
    # of captions that models wrote, beside others or alone
    "originalcaption",
    "recaption",
    "longcaption",
    "detailedcaption",
    "densecaption",
    "syntheticcaption",
    "generatedcaption",
    "blipcaption",
    "shortcaption",
    "desc",
    *("bildunterschrift", "bildbeschreibung", "beschreibung", "beschriftung", "bildtext"),
    *("légende", "descripción", "leyenda", "didascalia", "descrizione", "legenda", "descrição"),
    *("bijschrift", "onderschrift", "beschrijving", "podpis", "opis", "подпись", "описание", "текст"),
    *("açiklama", "altyazi", "metin"),
    *("キャプション", "説明", "説明文", "描述", "说明", "說明"),
    *("legend", "subtitle", "headline"),
    *("title", "titel", "titre", "título", "titolo", "tytuł", "başlik", "название", "タイトル", "标题", "標題"),
)
# understood, and not needed: captions stay in the order of the rows
NUMBERS = frozenset(
    (
        "commentnumber",
        "captionnumber",
        "captionid",
        "sentid",
        "sentids",
        "commentid",
    )
)
_NUMBERED = re.compile(r"^(.*[a-z])\d+$")
# the group that exiftool -G writes before a tag: XMP:Description
_GROUP = re.compile(r"^[\w-]+:")
# the language of a caption: caption_en, Caption (pt-BR); without those that are words, such as id and no
_LANGUAGE = re.compile(
    r"[\W_]+(?:ar|bg|ca|cs|da|de|el|en|es|et|fa|fi|fr|he|hi|hr|hu|it|ja|ko|lt|lv|nb|nl|pl|pt|ro|ru|sk|sl|sv|th|tr|uk|"
    r"vi|zh|english|german|french|spanish)(?:[-_][a-z]{2,4})?\W*$",
    re.IGNORECASE,
)
# names of columns are the same in every row; a longer one than these is in no table, and not worth to be kept
_CACHED = 1024
_LONGEST = 100


def plain(name: str) -> str:
    """Return the name of a column without the differences that mean nothing."""
    return _plain(name) if len(name) <= _LONGEST else name


@lru_cache(_CACHED)
def _plain(name: str) -> str:
    # Turkish has an i without a dot, whose capital is that of i elsewhere
    return re.sub(r"[\W_]+", "", composed(name).lower()).replace("ı", "i")


def role(name: str) -> str | None:
    """Return the entry of the table that a column belongs to; None if it is in none."""
    return _role(name) if len(name) <= _LONGEST else None


@lru_cache(_CACHED)
def _role(name: str) -> str | None:
    short = plain(name)
    for form in (short, plain(_GROUP.sub("", name))):
        if form in FILES or form in CAPTIONS:
            return form
    if (form := plain(_LANGUAGE.sub("", name))) in CAPTIONS:
        return form
    numbered = _NUMBERED.match(short)
    return numbered[1] if numbered and numbered[1] in CAPTIONS else None


def known(names: Iterable[str]) -> tuple[bool, bool]:
    """Return whether one of these columns names pictures, and whether another one has captions."""
    roles = [role(name) for name in names]
    return any(found in FILES for found in roles), any(found in CAPTIONS for found in roles)
