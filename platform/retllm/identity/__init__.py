"""Who acts and what they may do: accounts, roles, tokens, login sessions, members, the audit log."""
