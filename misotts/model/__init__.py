"""The files of a model folder: weights and their published layouts, the tokenizer, and `prepare`, which makes one."""
