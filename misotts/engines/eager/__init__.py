"""The PyTorch engine that runs operation by operation. On the CPU an utterance's frames are the same in any batch."""
