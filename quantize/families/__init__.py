"""Families: the table of them, recognition from a checkpoint's files, and prompt templates."""
