"""Decode file names that come as bytes: UTF-8, or else the most plausible of the encodings that systems used before it.

All names of an archive or a folder that are not UTF-8 are decoded alike, with the encoding in which their letters look
most like words. The result depends on the bytes alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from statistics import fmean

_WESTERN = "äöüÄÖÜßéÉÀèêëàâçÇñÑóíáúîïôûåÅæÆøØœãõ"
_CENTRAL = "ąćęłńóśźżáčďéěíňřšťúůýžőűäöüßŁŚŻČŘŠŽ"
_RUSSIAN = "абвгдежзийклмнопрстуфхчшыьяАБВГДЕЖЗИЙКЛМНОПРСТУФХЧШЩЭЮЯ"
_TURKISH = "çğıöşüÇĞİÖŞÜâî"
_GREEK = "αοιετνσρκπμλυςηωάέίόύήώγδβθφχΑΟΙΕΤΝΣΡΚΠΜΛΥΗΩΦΧΓΔ"
_HEBREW = "אבגדהוזחטיכלמנסעפצקרשתםןףץך"
_ARABIC = "اليمنورتبدهةعس"
_THAI = "านรอกเงวมยลตสทคดพปบหชจแไ่้ีัิุู"
_JAPANESE = (
    "のにはをたがでてとしれさいうるなもかこらりんきまあスンルトリアイラクシレドジフタグメーロカマッコテニ"
    "写真日本人年月大中小上下山川海空花春夏秋冬画像図表資料新旧会社東京都市家族旅行東西南北猫犬子供時間食事学校名前集合運動祭誕生結婚式"
)
_CHINESE = (
    "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面而方后多"
    "定行学法所民得经十三之进着等部度家电力里如水化高自二理起小物现实加量都两体制机当使点从业本去把性好应开它合还因由其"
    "长城市区路街村江河湖照片图像文件新建夹相册旅游春夏秋冬花山海猫狗孩生日北京上海東西南北風景測試檔案圖照資料"
)
_KOREAN = (
    "이다는가의을에지기고사하한로리나아도은자스어대인서시해정일그전주부라수장상만구보제여동성관오조과신소마선연원국공용모진안"
    "경유간무방세당비문화교치결내외민회산생들김박최강윤임류송황홍름봄겨울여행족양강바꽃학새폴더파글림음악미녀"
)


@dataclass(frozen=True)
class _Encoding:
    """An encoding and what its letters look like.

    Attributes:
        script: how their Unicode names begin.
        common: frequent ones.
        leads: first bytes of the pairs that a standard lists as the usual characters, for Chinese, Japanese and Korean.
    """

    codec: str
    script: str
    common: str
    leads: range = range(0)

    def text(self, raw: bytes) -> str:
        """Decode bytes.

        Raises:
            UnicodeDecodeError: they are not in this encoding.
        """
        return self._letters(raw.decode(self.codec))

    def _letters(self, text: str) -> str:
        # a letter of cp864 is one of its forms at the beginning, in the middle or at the end of a word, or two in one
        return unicodedata.normalize("NFKC", text) if self.codec == "cp864" else text

    def value(self, c: str) -> float:
        """Return how plausible a single character is, as it is decoded."""
        c = self._letters(c)[0]
        if unicodedata.category(c)[0] == "C":
            return _BROKEN
        if c in _PUNCTUATION:
            return _MARK
        if not _is_letter(c) or not re.match(self.script, unicodedata.name(c, "")):
            return _OTHER
        if not self.leads:
            return _COMMON if c in self.common else _LESS_COMMON if self.script in _OF_MANY_LETTERS else _RARE
        if c in self.common:
            return _COMMON_PAIR
        raw = c.encode(self.codec)
        return _USUAL_PAIR if len(raw) == 2 and raw[0] in self.leads and raw[1] > _TRAIL[self.codec] else _RARE


_DOS = tuple(_Encoding(codec, "LATIN", _WESTERN) for codec in ("cp437", "cp850"))
_WINDOWS = (_Encoding("cp1252", "LATIN", _WESTERN),)
_OTHERS = (
    _Encoding("cp852", "LATIN", _CENTRAL),
    _Encoding("cp1250", "LATIN", _CENTRAL),
    _Encoding("cp866", "CYRILLIC", _RUSSIAN),
    _Encoding("cp1251", "CYRILLIC", _RUSSIAN),
    _Encoding("koi8-r", "CYRILLIC", _RUSSIAN),
    _Encoding("cp857", "LATIN", _TURKISH),
    _Encoding("cp1254", "LATIN", _TURKISH),
    _Encoding("cp737", "GREEK", _GREEK),
    _Encoding("cp1253", "GREEK", _GREEK),
    _Encoding("cp862", "HEBREW", _HEBREW),
    _Encoding("cp1255", "HEBREW", _HEBREW),
    _Encoding("cp720", "ARABIC", _ARABIC),
    _Encoding("cp864", "ARABIC", _ARABIC),
    _Encoding("cp1256", "ARABIC", _ARABIC),
    _Encoding("cp874", "THAI", _THAI),
    # level 1 of JIS X 0208, GB 2312 and Big5; the syllables of KS X 1001
    _Encoding("cp932", "CJK|HIRAGANA|KATAKANA", _JAPANESE, range(0x82, 0x98)),
    _Encoding("euc_jp", "CJK|HIRAGANA|KATAKANA", _JAPANESE, range(0xA4, 0xD0)),
    _Encoding("gbk", "CJK", _CHINESE, range(0xB0, 0xD8)),
    _Encoding("big5", "CJK", _CHINESE, range(0xA4, 0xC7)),
    _Encoding("cp949", "HANGUL", _KOREAN, range(0xB0, 0xC9)),
)
# what Excel writes instead of Windows-1252, and other code pages after these
_EXCEL = ("cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp874", "cp932", "gbk", "big5", "cp949")
_SHEETS = (
    _Encoding("mac_roman", "LATIN", _WESTERN),
    *(encoding for codec in (*_EXCEL, "koi8-r", "cp866") for encoding in _OTHERS if encoding.codec == codec),
)
_PUNCTUATION = frozenset("€°’‘“”–—…　、。「」『』【】（）［］～！？＿－＆：・々〜")
_COMMON, _RARE, _MARK, _OTHER, _BROKEN = 3.0, 0.5, 1.0, -3.0, -6.0
# alphabets of which many letters are neither frequent nor rare
_OF_MANY_LETTERS, _LESS_COMMON = ("ARABIC", "THAI"), 2.0
# a pair of bytes that fits says more than a byte that fits
_COMMON_PAIR, _USUAL_PAIR = 4.0, 2.5
# second bytes below belong to extensions of the standard
_TRAIL = {"cp932": 0, "euc_jp": 0xA0, "gbk": 0xA0, "big5": 0, "cp949": 0xA0}
_UNLIKELY = -3.0
# planes of Unicode that have no characters
_NO_CHARACTERS = re.compile("[\U00040000-\U000dffff]")
_RARE_CHARACTERS = re.compile("[\U00020000-\U0003ffff]")
_NO_PAIR = re.compile("[\u0800-\U0010ffff]")
_NOT_ASCII = re.compile("[^\0-\x7f]")
# how much the usual encoding of a source is preferred
_USUAL = 0.5
# what words in the right code page reach, and what those of UTF-8 do not reach in another one
_PLAUSIBLE = 2.0
_SOMEWHAT = 1.5
# how much better another code page than Windows-1252 has to be, and for how many different letters
_MUCH, _DISTINCT = 2.0, 3
_TURKISH_PAGE, _TURKISH_LETTERS = "cp1254", 2
# characters that are looked at, of names in which they are few; more of them change nothing
_SAMPLE, _SAMPLE_BYTES = 2_000, 1 << 17


def _go_on() -> None:
    pass


def decoded(names: Sequence[bytes], *, dos: bool = False, check: Callable[[], None] = _go_on) -> list[str]:
    """Decode names; they are safe to encode as UTF-8 afterwards. The time is proportional to their length.

    Args:
        names: all names that come from the same place.
        dos: the code pages of DOS are likelier than those of Windows, as in ZIP archives without the UTF-8 flag.
        check: called for each name; what it raises ends the decoding.
    """
    found: list[str | None] = []
    for name in names:
        check()
        found.append(_utf8(name))
    if None in found:
        # two or more Russian letters may have the form of a rare Chinese character, beside names of the same system
        found = [None if text is None or _RARE_CHARACTERS.search(text) else text for text in found]
    foreign = [name for name, text in zip(names, found, strict=True) if text is None]
    if not foreign:
        return [text or "" for text in found]
    encoding, texts = _best(foreign, check, dos=dos)
    others = iter(texts)
    return [
        next(others) if text is None else _alike(name, text, encoding) for name, text in zip(names, found, strict=True)
    ]


def decoded_paths(paths: Sequence[bytes], *, dos: bool = False, check: Callable[[], None] = _go_on) -> list[str]:
    """Return paths with ``/`` as text, each part as :func:`decoded` does it: folders may be older than their system."""
    parts = list(dict.fromkeys(part for path in paths for part in path.split(b"/")))
    readable = dict(zip(parts, decoded(parts, dos=dos, check=check), strict=True))
    return ["/".join(readable[part] for part in path.split(b"/")) for path in paths]


def told_apart(names: Sequence[str], raws: Sequence[bytes]) -> Sequence[str]:
    """Return decoded names, or if some are the same of which the bytes differ, these as in names of a file system."""
    if len(set(names)) >= len(set(raws)):
        return names
    return [raw.decode("utf-8", "surrogateescape") for raw in raws]


def _alike(name: bytes, text: str, encoding: _Encoding) -> str:
    """Return a name that is valid UTF-8 too, as the names beside it are written that are not.

    Pairs of Chinese, Japanese and Korean may have the form of two-byte sequences.
    """
    if encoding.leads and not text.isascii() and not _NO_PAIR.search(text):
        with suppress(UnicodeDecodeError):
            return encoding.text(name)
    return text


def _utf8(name: bytes) -> str | None:
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        return None
    # four letters of an old code page may have the form of a character, but not of one that exists
    return None if _NO_CHARACTERS.search(text) else text


def code_pages(lines: Sequence[bytes], *, western: bool) -> list[str]:
    """Return the code pages of spreadsheets in which the lines of a table look like words, the most plausible first.

    Args:
        lines: some with bytes beyond ASCII, which are not UTF-8.
        western: they may be Windows-1252, which is left out, so that only what is much more plausible counts.
    """
    scores = _scores(lines, (*_WINDOWS, *_SHEETS), _go_on)
    least = _PLAUSIBLE
    if western and (is_turkish := _are_turkish(lines)) is not None:
        if is_turkish:
            return [_TURKISH_PAGE]
        scores = {encoding: score for encoding, score in scores.items() if encoding.codec != _TURKISH_PAGE}
    if western:
        if len({byte for line in lines for byte in line if byte > 0x7F}) < _DISTINCT:
            return []
        least = max(least, scores.get(_WINDOWS[0], 0) + _MUCH)
    return [encoding.codec for encoding, score in scores.items() if score >= least and encoding in _SHEETS]


def are_words(lines: Sequence[bytes], codec: str) -> bool:
    """Return whether lines that have bytes beyond ASCII look somewhat like words in a code page of spreadsheets."""
    (encoding,) = (each for each in (*_WINDOWS, *_SHEETS) if each.codec == codec)
    return _scores(lines, (encoding,), _go_on).get(encoding, _BROKEN) - _USUAL >= _SOMEWHAT


def _are_turkish(lines: Sequence[bytes]) -> bool | None:
    """Return whether lines that may be Windows-1252 are in the Turkish page, which has six other letters than that.

    They are if all their letters beyond ASCII are Turkish; None if others occur too. In Icelandic, whose letters the
    six are, one of them is at the beginnings of words only, and another more frequent than the rest.
    """
    text = b"\n".join(lines).decode(_TURKISH_PAGE, "replace")
    told = len(re.findall(r"[ıİ]|(?<=\w)ş", text))
    if told <= text.count("ğ"):
        return False
    letters = {c for c in text if c > "\x7f" and c.isalpha()}
    return True if len(letters) >= _TURKISH_LETTERS and letters <= set(_TURKISH) else None


def _best(names: Sequence[bytes], check: Callable[[], None], *, dos: bool) -> tuple[_Encoding, list[str]]:
    """Return the encoding of the highest score that all names are in, and the names decoded with it."""
    order = (*_DOS, *_WINDOWS, *_OTHERS) if dos else (*_WINDOWS, *_DOS, *_OTHERS)
    for encoding in _scores(names, order, check):
        found = []
        with suppress(UnicodeDecodeError):
            for name in names:
                check()
                found.append(encoding.text(name))
            return encoding, found
    raise AssertionError  # the code pages of DOS decode everything


def _scores(names: Sequence[bytes], order: Sequence[_Encoding], check: Callable[[], None]) -> dict[_Encoding, float]:
    """Return the scores of the encodings that names may be in, the highest first; the first of ``order`` is usual."""
    sample = _sample(names)
    scores: dict[_Encoding, float] = {}
    for encoding in order:
        check()
        with suppress(UnicodeDecodeError):
            text = "\n".join(name.decode(encoding.codec) for name in sample)
            scores[encoding] = _score(text, encoding) + (_USUAL if encoding is order[0] else 0)
    return dict(sorted(scores.items(), key=lambda scored: -scored[1]))


def _sample(names: Sequence[bytes]) -> list[bytes]:
    """Return names from everywhere of so many bytes that more of them would change nothing."""
    left, found = _SAMPLE_BYTES, []
    for name in names[:: max(1, len(names) // _SAMPLE)]:
        found.append(name)
        left -= len(name)
        if left < 0:
            break
    return found


def _score(text: str, encoding: _Encoding) -> float:
    """Return how plausible the non-ASCII characters are on average."""
    places = (found.start() for found in islice(_NOT_ASCII.finditer(text), _SAMPLE))
    return fmean(encoding.value(text[at]) + _in_place(text, at, encoding) for at in places)


def _in_place(text: str, at: int, encoding: _Encoding) -> float:
    """Return how much less plausible a character is for its neighbours."""
    c, before, after = text[at], text[at - 1 : at], text[at + 1 : at + 2]
    if unicodedata.category(c) == "Mn":  # a vowel or accent
        return 0 if before > "\x7f" and _is_letter(before) else 2 * _UNLIKELY
    if not c.isalpha():
        return 0
    unlikely: float = (c.isupper() and before.islower()) + (c.islower() and after.isupper())
    if encoding.script == "LATIN":
        unlikely += all(n > "\x7f" and n.isalpha() for n in (before, after)) / 3
    else:
        # a capital abbreviation may touch a character of Chinese or Japanese
        unlikely += sum(n.isascii() and (n.islower() or (n.isupper() and c.isupper())) for n in (before, after))
    if not encoding.leads:
        unlikely += not _is_letter(before) and not _is_letter(after)
    return _UNLIKELY * unlikely


def _is_letter(c: str) -> bool:
    return c.isalpha() or unicodedata.category(c or " ") == "Mn"
