"""Benchmarks of speed, each a comparison within one run; behind ``retllm bench``."""
