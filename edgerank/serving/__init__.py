"""The server of any transport: requests, scheduled onto one engine."""
