"""The server without its doors: requests of any transport, scheduled onto one engine."""
