"""Uploaded media: pictures, texts, captions and archives are checked, stored and thumbnailed (design: media)."""
