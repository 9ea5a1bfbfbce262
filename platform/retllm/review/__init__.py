"""Reviews of results: marks, measures of searches, evaluation runs."""
