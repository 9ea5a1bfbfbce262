"""Tables, sessions, vector indexes and migrations. PostgreSQL is the source of truth (design: data)."""
