"""How well the two stages find what is right: benchmarks, metrics, ablations.

Runs without server or database: the coarse stage is a matrix in memory, and what was computed is kept in the
folder of the run, so that an interrupted run goes on where it stopped and ablations share their scores.
"""
