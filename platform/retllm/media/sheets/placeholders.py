"""Texts that cameras, scanners and programs write into every picture: no captions."""

from __future__ import annotations

import re

from retllm.media.names import suffix_of

# each is a whole text, without regard to case; who writes it stands before it
_TEXTS = (
    # Olympus, Sony, Minolta, Kodak, Samsung and Casio, into ImageDescription of all pictures
    r"olympus digital camera|sony dsc|(konica )?minolta (digital camera|dsc)|kodak digital still camera",
    r"samsung( digital camera| camera pictures)?|<digimax.*|digimax [a-z]?\d.*|casio computer( co\b.*)?",
    # cameras without a name of their own, and their chips
    r"(digital )?(still )?camera|digital image|exif[_ ]jpeg([_ ]picture)?|jpeg|dcf \d\.\d|(binary|user) comments?",
    # DxO ONE, Ricoh's Theta, DJI's and other action cameras: what made the picture, or where it lay
    r"shot with dxo one|created (by|with) (ricoh|dji)\b.*|dcim[\\/].*",
    # phones of Huawei and Honor: the mode of the camera
    r"(cof|sdr|dav|rbt|edf|mde|ptr|mon|nor|oznor|hdr|hdrpl|ptfhdr|btf|bty|fbt|rhdr|qrf|rpt|frem|burst)(wo|hdr|mdn)?([_,;]\w{0,6})?",
    # phones of Vivo, OPPO and Xiaomi, and HiSilicon's chips: parameters of the camera
    r".*\b(fileterintensity|filtermask|captureorientation|hdrforward|algolist)\s*[:=]\s*-?\d.*|oplus_\d+|hisilicon .*",
    r"metadata-start.*",
    # scanners of HP, Epson, Canon and Brother, and their programs
    r"hp[_ ]?scan\w*|epson mfp image|canoscan\w*|brother mfc\S*|(scan|scanned) ?(document|image|page|photo|picture)?",
    # GIMP's standard comment, Imlib, LEAD's library, and other programs that draw or edit
    r"(created|made|edited) (by|in|with) (the )?(gimp|imlib|inkscape|imagemagick|paint\.net|matplotlib)\b.*",
    r"(created|made|edited) (by|in|with) adobe (photo|image|illu|fire|light|express)\w*\b.*",
    r"lead technologies inc\.? v[\d.]+|(intel\S* jpeg library|creator: gd-jpeg)\b.*",
    r"processed with (vsco|snapseed|rni films)\b.*",
    # macOS and iOS, into UserComment
    r"screen ?shot",
    # Windows XP's wizard for scanners, and what programs write for want of words
    r"my beautiful picture|default|untitled|none|null|n/?a|unknown|picture|image|photo",
    # the character code of a UserComment, once more in its text
    r"ascii|unicode|charset=.*",
    # numbers of cameras, and texts without a letter, such as dates, but for a year
    r"img_\d+\S*|dsc[nf_]?\d*|(?!\d{4}$)[\W_\d]*",
)
_TEXT = re.compile("|".join(_TEXTS), re.IGNORECASE | re.DOTALL)
# microscopes and scientific programs (OME, ImageJ, SCIFIO, Aperio, NIH Image, tifffile): begins of their parameters
_PARAMETERS = re.compile(
    r"<\?|<\w+:|<ome\b|\{\s*[\"}]|\[\s*[\[{\"\d]|ImageJ=|SCIFIO=|Aperio (Image|Leica)|NIH_Image", re.IGNORECASE
)
# programs that generate pictures: "Steps: 20, Sampler: Euler"
_GENERATED = re.compile(r".*\bsteps: \d+, \w+: .*", re.IGNORECASE | re.DOTALL)
# phones and other programs: "filter: 0; hdr: 1; zoom: 1.0", one of which may have words
_BETWEEN_FIELDS = re.compile(r"[;\n]")
_FIELD = re.compile(r"\s*\w[\w. -]{0,39}[:=].*")
_NUMBER = re.compile(r"\s*\w[\w. -]{0,39}[:=]\s*(-?\d[\d.,-]*|true|false|null)\s*", re.IGNORECASE)
# a person may write two of them, but with a colon
_LEAST_FIELDS = {"=": 2, ":": 3}


def is_placeholder(text: str, name: str = "") -> bool:
    """Return whether a text in a picture's file was written there without being asked.

    Args:
        name: that of the file. Its own name is no caption, but several words before the suffix are.
    """
    text = text.strip()
    return _TEXT.fullmatch(text) is not None or _PARAMETERS.match(text) is not None or _is_name(text, name)


def is_settings(text: str) -> bool:
    """Return whether a text is a list of settings: what programs note in a UserComment.

    That of a person may have fields with numbers too, but not so many of them.
    """
    fields = [field for field in _BETWEEN_FIELDS.split(text) if field.strip()]
    numbers = sum(_NUMBER.fullmatch(field) is not None for field in fields)
    least = _LEAST_FIELDS["=" if all("=" in field for field in fields) else ":"]
    listed = len(fields) >= least and 2 * numbers > len(fields) and all(map(_FIELD.fullmatch, fields))
    return listed or _GENERATED.fullmatch(text) is not None


def _is_name(text: str, name: str) -> bool:
    text, own = text.casefold(), name.rpartition("/")[2].casefold()
    stem = own.removesuffix(suffix_of(own))
    return bool(own) and (text == own or (text == stem and " " not in stem))
