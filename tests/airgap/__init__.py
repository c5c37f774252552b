"""Sites without a network: signatures, packs, and the whole path from one file."""
