"""Accounts, roles, tokens, login sessions, members, access rights and the audit log."""
