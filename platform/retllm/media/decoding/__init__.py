"""What the decoder's process is made of: Pillow, NumPy and codecs only, nothing that holds a secret (design: media)."""
