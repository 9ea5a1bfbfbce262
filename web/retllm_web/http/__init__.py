"""The HTTP layer: authentication, errors, bodies, conditional answers, downloads."""
