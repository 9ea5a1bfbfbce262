"""Import of folders of this machine: what is new, changed or gone in them, and uploads of it."""
