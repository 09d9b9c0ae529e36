"""The command line: one file per command group; `main` mounts them."""
