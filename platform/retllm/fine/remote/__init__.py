"""Scorers whose model a server runs (design: remote scorers). Nothing here imports torch or transformers."""
