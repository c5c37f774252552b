"""Make the default model, from an embedding checkpoint and the documentation on a machine.

    extract     makes pairs of a query and the passage that answers it from documentation
    mine        finds hard negatives for each pair, and writes lists of passages
    initialize  turns the embedding checkpoint into a late-interaction checkpoint
    train       trains that checkpoint on the lists
    calibrate   fits its last layer, which turns its features into a probability

Each is a command of ``python -m quantize.training``; ``edgerank quantize`` makes the bundle.
"""
