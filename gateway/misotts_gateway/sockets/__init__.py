"""WebSockets: the life of one, the conversation that it is, and what its protocols have in common."""
