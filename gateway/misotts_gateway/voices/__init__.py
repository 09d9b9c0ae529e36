"""Voices: which a caller may use, under which names, and how callers add their own."""
