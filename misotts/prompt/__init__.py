"""The prompt stage: a request becomes a checked prompt."""
