"""`misotts serve`: starts tritonserver, watches over its stages, and drains it."""
