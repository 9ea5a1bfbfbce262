"""Index jobs: compute a vector for every item of a collection with each embedder."""
