"""The default model, made from a checkpoint and from text that a machine already has.

    extract     documentation → pairs of a query and the passage that answers it
    mine        pairs → lists: each query with passages that look right and are not
    initialize  an embedding checkpoint → a late-interaction checkpoint of fewer words
    train       lists → its weights
    calibrate   lists → how its features add up to a probability

Each is a command of ``python -m quantize.training``; ``edgerank quantize`` makes the bundle.
"""
