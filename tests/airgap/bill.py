"""The bill of materials, checked by the validator of its format."""

from __future__ import annotations

import warnings


def fault_of(text: str) -> object:
    """Return what CycloneDX's strict validator finds wrong; None if nothing is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the validator's own libraries
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator

        return JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
