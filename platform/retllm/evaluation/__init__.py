"""Evaluation of the two stages: benchmarks, metrics, ablations.

Runs without server or database. The coarse stage is a matrix in memory. Vectors and scores are stored in the folder of
the run, so that an interrupted run can continue and ablations share their scores.
"""
