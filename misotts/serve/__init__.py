"""`misotts serve`: starts tritonserver, watches its stages, and drains it."""
