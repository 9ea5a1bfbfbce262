"""Upload jobs: keep the files of an upload, turn them into items, and keep what became of each file."""
