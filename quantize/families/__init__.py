"""Families: their table, their recognition from a checkpoint's files, and prompt templates."""
