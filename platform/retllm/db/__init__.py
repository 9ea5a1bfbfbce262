"""Tables, sessions, vector indexes and migrations. Postgres is the truth (design: data)."""
