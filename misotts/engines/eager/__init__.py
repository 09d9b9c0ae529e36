"""The PyTorch engine that runs operation by operation; its CPU results are exact for any batch."""
