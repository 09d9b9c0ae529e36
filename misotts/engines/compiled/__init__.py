"""The engine that a C++ compiler makes for the processor of the machine: the default on the CPU."""
