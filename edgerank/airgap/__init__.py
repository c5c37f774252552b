"""One signed file for a site without a network: how it is made, and how it is checked."""
