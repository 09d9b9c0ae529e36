"""The host's cost of a stream: the real server around stages that cost nothing."""
