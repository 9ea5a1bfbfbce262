"""Tools for a checkout, not part of the wheel: training of the demo models, random models for benchmarks."""
