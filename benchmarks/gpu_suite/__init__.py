"""What a GPU makes of the whole pipeline, in one command: `make gpu-suite` (see docs/gpu-suite.md)."""
