"""The history of jobs: views, filters, attempts, cancel, retry, delete."""
