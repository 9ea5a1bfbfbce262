"""Benchmarks of speed for ``retllm bench``; each compares its variants within one run."""
