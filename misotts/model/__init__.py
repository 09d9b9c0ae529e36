"""A model folder's files: checkpoints, the published layouts of their weights, the tokenizer's source."""
