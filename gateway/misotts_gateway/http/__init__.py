"""HTTP: the listener, what all its protocols share, and the application that puts them together."""
