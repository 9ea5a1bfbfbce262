"""Decode file names that come as bytes: UTF-8, or else the most plausible of the encodings that systems used before it.

All names of an archive or a folder that are not UTF-8 are decoded alike, with the encoding in which their letters look
most like words. The result depends on the bytes alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean

_WESTERN = "äöüÄÖÜßéÉÀèêëàâçñóíáúîïôûåÅæÆøØœãõ"
_CENTRAL = "ąćęłńóśźżáčďéěíňřšťúůýžőűäöüßŁŚŻČŘŠŽ"
_RUSSIAN = "абвгдежзийклмнопрстуфхчшыьяАБВГДЕЖЗИЙКЛМНОПРСТУФХЧШЩЭЮЯ"
_TURKISH = "çğıöşüÇĞİÖŞÜâî"
_GREEK = "αοιετνσρκπμλυςηωάέίόύήώγδβθφχΑΟΙΕΤΝΣΡΚΠΜΛΥΗΩΦΧΓΔ"
_HEBREW = "אבגדהוזחטיכלמנסעפצקרשתםןףץך"
_JAPANESE = (
    "のにはをたがでてとしれさいうるなもかこらりんきまあスンルトリアイラクシレドジフタグメーロカマッコテニ"
    "写真日本人年月大中小上下山川海空花春夏秋冬画像図表資料新旧会社東京都市家族旅行東西南北猫犬子供時間食事学校名前集合運動祭誕生結婚式"
)
_CHINESE = (
    "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面而方后多"
    "定行学法所民得经十三之进着等部度家电力里如水化高自二理起小物现实加量都两体制机当使点从业本去把性好应开它合还因由其"
    "照片图像文件新建夹相册旅游春夏秋冬花山海猫狗孩生日北京上海東西南北風景測試檔案圖照資料"
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

    def value(self, c: str) -> float:
        """Return how plausible a single character is."""
        if unicodedata.category(c)[0] == "C":
            return _BROKEN
        if c in _PUNCTUATION:
            return _MARK
        if not c.isalpha() or not re.match(self.script, unicodedata.name(c, "")):
            return _OTHER
        if not self.leads:
            return _COMMON if c in self.common else _RARE
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
    # level 1 of JIS X 0208, GB 2312 and Big5; the syllables of KS X 1001
    _Encoding("cp932", "CJK|HIRAGANA|KATAKANA", _JAPANESE, range(0x82, 0x98)),
    _Encoding("gbk", "CJK", _CHINESE, range(0xB0, 0xD8)),
    _Encoding("big5", "CJK", _CHINESE, range(0xA4, 0xC7)),
    _Encoding("cp949", "HANGUL", _KOREAN, range(0xB0, 0xC9)),
)
_PUNCTUATION = frozenset("’‘“”–—…　、。「」『』【】（）［］～！？＿－＆：・々〜")
_COMMON, _RARE, _MARK, _OTHER, _BROKEN = 3.0, 0.5, 1.0, -3.0, -6.0
# a pair of bytes that fits says more than a byte that fits
_COMMON_PAIR, _USUAL_PAIR = 4.0, 2.5
# second bytes below belong to extensions of the standard
_TRAIL = {"cp932": 0, "gbk": 0xA0, "big5": 0, "cp949": 0xA0}
_UNLIKELY = -3.0
# planes of Unicode that have no characters
_NO_CHARACTERS = re.compile("[\U00040000-\U000dffff]")
_NOT_ASCII = re.compile("[^\0-\x7f]")
# how much the usual encoding of a source is preferred
_USUAL = 0.5
# characters that are looked at; more of them change nothing
_SAMPLE = 2_000


def decoded(names: Sequence[bytes], *, dos: bool = False) -> list[str]:
    """Decode names; they are safe to encode as UTF-8 afterwards.

    Args:
        names: all names that come from the same place.
        dos: the code pages of DOS are likelier than those of Windows, as in ZIP archives without the UTF-8 flag.
    """
    foreign = [name for name in names if not _is_utf8(name)]
    codec = _best(foreign, dos=dos) if foreign else "utf-8"
    return [name.decode("utf-8" if _is_utf8(name) else codec) for name in names]


def _is_utf8(name: bytes) -> bool:
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        return False
    # four letters of an old code page may have the form of a character, but not of one that exists
    return not _NO_CHARACTERS.search(text)


def _best(names: Sequence[bytes], *, dos: bool) -> str:
    order = (*_DOS, *_WINDOWS, *_OTHERS) if dos else (*_WINDOWS, *_DOS, *_OTHERS)
    scores: dict[str, float] = {}
    for encoding in order:
        try:
            text = "\n".join(name.decode(encoding.codec) for name in names)
        except UnicodeDecodeError:
            continue
        scores[encoding.codec] = _score(text, encoding) + (_USUAL if encoding is order[0] else 0)
    # the code pages of DOS decode everything
    return max(scores, key=lambda codec: scores[codec])


def _score(text: str, encoding: _Encoding) -> float:
    """Return how plausible the non-ASCII characters are on average."""
    places = (found.start() for found in islice(_NOT_ASCII.finditer(text), _SAMPLE))
    return fmean(encoding.value(text[at]) + _in_place(text, at, encoding) for at in places)


def _in_place(text: str, at: int, encoding: _Encoding) -> float:
    """Return how much less plausible a character is for its neighbours."""
    c, before, after = text[at], text[at - 1 : at], text[at + 1 : at + 2]
    if not c.isalpha():
        return 0
    unlikely: float = (c.isupper() and before.islower()) + (c.islower() and after.isupper())
    if encoding.script == "LATIN":
        unlikely += all(n > "\x7f" and n.isalpha() for n in (before, after)) / 3
    else:
        # a capital abbreviation may touch a character of Chinese or Japanese
        unlikely += sum(n.isascii() and (n.islower() or (n.isupper() and c.isupper())) for n in (before, after))
    if not encoding.leads:
        unlikely += not before.isalpha() and not after.isalpha()
    return _UNLIKELY * unlikely
