"""What lies on disk: weights, configuration, the files beside them, the tokenizer."""
