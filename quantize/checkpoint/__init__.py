"""Reads the files of a checkpoint: weights, configuration, tokenizer and others."""
