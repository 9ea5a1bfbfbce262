"""What comes in: pictures, texts, captions and archives, checked, stored and thumbnailed (design: media)."""
