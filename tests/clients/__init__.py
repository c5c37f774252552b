"""Clients and frameworks as their packages are, against a server; needs ``make test-clients``."""
