"""Token ids and scores against the packages that define the models."""
