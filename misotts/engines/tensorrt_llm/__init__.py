"""The TensorRT-LLM backbone engine and the tables that its attention plugin reads."""
