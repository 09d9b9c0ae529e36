"""The watermark stage, and the detector of its mark."""
