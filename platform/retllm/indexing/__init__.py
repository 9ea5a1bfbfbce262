"""Index jobs: every item of a collection gets a vector of each embedder."""
