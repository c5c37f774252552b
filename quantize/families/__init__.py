"""How checkpoints of a family are asked and read."""
