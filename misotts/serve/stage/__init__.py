"""What the four models of the repository share, inside Triton's Python stub: adapters of tensors to the library."""
