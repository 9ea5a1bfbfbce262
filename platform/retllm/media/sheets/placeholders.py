"""Texts that cameras, scanners and programs write into every picture: no captions."""

from __future__ import annotations

import re

from retllm.media.names import suffix_of

# each is a whole text, without regard to case; who writes it stands before it
_TEXTS = (
    # Olympus, Sony, Minolta, Kodak, Samsung and Casio, into ImageDescription of all pictures
    r"olympus digital camera|sony dsc|(konica )?minolta (digital camera|dsc)|kodak digital still camera",
    r"samsung( digital camera| camera pictures)?|<?digimax.*|casio computer.*",
    # cameras without a name of their own, and their chips
    r"(digital )?(still )?camera|digital image|exif[_ ]jpeg([_ ]picture)?|jpeg|dcf \d\.\d|(binary|user) comments?",
    # DxO ONE, Ricoh's Theta, DJI's and other action cameras: what made the picture, or where it lay
    r"shot with dxo one|created (by|with) (ricoh|dji)\b.*|dcim[\\/].*",
    # phones of Huawei and Honor: the mode of the camera
    r"(cof|sdr|dav|rbt|edf|mde|ptr|mon|nor|oznor|hdr|hdrpl|ptfhdr|btf|bty|fbt|rhdr|qrf|rpt|frem|burst)(wo|hdr|mdn)?([_,;]\w{0,6})?",
    # phones of Vivo, OPPO and Xiaomi, and HiSilicon's chips: parameters of the camera
    r".*\b(fileterintensity|filtermask|captureorientation|hdrforward|algolist)\b.*|oplus_\d+|hisilicon .*",
    r"metadata-start.*",
    # scanners of HP, Epson, Canon and Brother, and their programs
    r"hp[_ ]?scan\w*|epson mfp image|canoscan\w*|brother mfc\S*|(scan|scanned) ?(document|image|page|photo|picture)?",
    # GIMP's standard comment, Imlib, LEAD's library, and other programs that draw or edit
    r"(created|made|edited) (by|in|with) (the )?(gimp|imlib|inkscape|imagemagick|paint\.net|adobe|matplotlib)\b.*",
    r"lead technologies inc\.? v[\d.]+|processed (with|by) .*|(intel\S* jpeg library|creator: gd-jpeg)\b.*",
    # macOS and iOS, into UserComment
    r"screen ?shot",
    # Windows XP's wizard for scanners, and what programs write for want of words
    r"my beautiful picture|default|untitled|none|null|n/?a|unknown|picture|image|photo",
    # the character code of a UserComment, once more in its text
    r"ascii|unicode|charset=.*",
    # numbers of cameras, and texts without a letter, such as dates
    r"img_\d+.*|dsc[nf_]?\d*|[\W_\d]*",
)
_TEXT = re.compile("|".join(_TEXTS), re.IGNORECASE | re.DOTALL)
# microscopes and scientific programs (OME, ImageJ, SCIFIO, Aperio, NIH Image, tifffile): begins of their parameters
_PARAMETERS = re.compile(r"<|\{|\[|ImageJ=|SCIFIO=|Aperio |NIH_Image")
# programs that generate pictures: "Steps: 20, Sampler: Euler"; of others, lists such as "ZoomRatio=1.0\nHdr=true"
_SETTINGS = re.compile(
    r".*\bsteps: \d+, \w+: .*|"
    r"(?=.*[:=]\s*(-?\d[\d.,-]*|true|false|null)\s*([;\n]|$))(\w[\w. -]{0,39}[:=][^;\n]*([;\n]\s*|$)){2,}",
    re.IGNORECASE | re.DOTALL,
)


def is_placeholder(text: str, name: str = "") -> bool:
    """Return whether a text in a picture's file was written there without being asked.

    Args:
        name: that of the file. Its own name is no caption, but several words before the suffix are.
    """
    text = text.strip()
    return _TEXT.fullmatch(text) is not None or _PARAMETERS.match(text) is not None or _is_name(text, name)


def is_settings(text: str) -> bool:
    """Return whether a text is a list of settings: what programs note in a UserComment."""
    return _SETTINGS.fullmatch(text) is not None


def _is_name(text: str, name: str) -> bool:
    text, own = text.casefold(), name.rpartition("/")[2].casefold()
    stem = own.removesuffix(suffix_of(own))
    return bool(own) and (text == own or (text == stem and " " not in stem))
