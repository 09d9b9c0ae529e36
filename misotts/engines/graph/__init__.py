"""The graph engine: backbone and depth decoder as one CUDA graph a frame. See docs/graph-engine.md."""
