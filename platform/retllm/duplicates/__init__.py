"""Near-duplicates: find the pictures of a collection that are nearly the same, and keep them in groups."""
