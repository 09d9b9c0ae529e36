"""What `generate` publishes to the gateway."""

from typing import Any

WAITS_S = [0.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
FREE = {
    **{"slots": 4, "free_slots": 2, "waiting": 0},
    **{"submitted": 40, "slot_s": 0.5, "max_wait_s": 2.0, "again_s": 1.0, "lead_s": 10.0},
    **{"listeners": {"places": 66, "waits_s": WAITS_S}, "batch": {"places": 60, "waits_s": [1.0, 1.5, 2.0, 2.5]}},
}


def figures(waits_s: object, submitted: int = 41, places: object = 66) -> dict[str, Any]:
    """Return figures with these of listeners."""
    return {**FREE, "submitted": submitted, "listeners": {"places": places, "waits_s": waits_s}}
