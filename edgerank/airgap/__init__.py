"""Packs: signed files for sites without a network. This package makes, checks and installs them."""
