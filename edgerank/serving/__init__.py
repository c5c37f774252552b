"""The server without its transports: it schedules requests onto the engines."""
