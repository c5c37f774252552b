"""The server, with and without a process of its own, and the clients."""
