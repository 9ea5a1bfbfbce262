"""Search jobs: candidates from the coarse stage, scores from the fine stage, and their final order."""
