"""What `convert` has written → engines: `python -m build --help`."""
