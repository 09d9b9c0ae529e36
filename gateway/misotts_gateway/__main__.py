import os

# gRPC's core writes a line to stderr for each compressed message and each lost connection of a caller.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from misotts_gateway.command import main

main()
