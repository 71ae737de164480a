"""Who may do what: modes, keys, tokens, rights, and the one table of what each route needs."""
