"""Backbone and depth decoder as one CUDA graph a frame: docs/graph-engine.md."""
