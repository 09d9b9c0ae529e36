"""The four stages as Triton's Python backend runs them: adapters of its requests and responses to the library."""
