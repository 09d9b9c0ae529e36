"""The host's cost of a stream: the real server around stages that cost nothing."""

STEP_MS = "MISOTTS_BENCHMARK_STEP_MS"
"""Environment variable: time of a step in ms, for which the loop's thread sleeps as it waits for a GPU."""
