"""The OpenAPI document of the methods."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from edgerank import __version__
from edgerank.serving.http.endpoint import TIMEOUT_HEADER, Shape

ERRORS = {
    "400": "The body is no JSON, or a field is unusable.",
    "401": "The bearer token is missing or unknown.",
    "404": "No model has that name.",
    "413": "The body has too many bytes.",
    "422": "A field is unusable (/rerank with texts).",
    "429": "The queue is full; Retry-After says when to try again.",
    "503": "The models are being loaded.",
    "504": "The deadline has passed, or cannot be met.",
}


def openapi(shapes: Sequence[Shape[Any]]) -> bytes:
    """Describe methods, as JSON."""
    types = [
        kind for shape in shapes for kind in (shape.request, shape.response) if kind is not None
    ]
    schemas, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    of = {id(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    paths = {shape.path: {shape.http_method.lower(): _operation(shape, of)} for shape in shapes}
    document = {
        "openapi": "3.1.0",
        "info": {"title": "edgerank", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }
    return msgspec.json.encode(document)


def _operation(shape: Shape[Any], schema_of: Mapping[int, object]) -> dict[str, object]:
    module = inspect.getmodule(shape.answer)
    assert module is not None and module.__doc__ is not None
    operation: dict[str, object] = {
        "summary": module.__doc__.strip().splitlines()[0],
        "parameters": [
            {
                "name": TIMEOUT_HEADER,
                "in": "header",
                "description": "Seconds until the answer is of no use.",
                "schema": {"type": "number", "exclusiveMinimum": 0},
            }
        ],
        "responses": {
            "200": _content("The answer.", schema_of[id(shape.response)]),
            **{status: {"description": words} for status, words in ERRORS.items()},
        },
    }
    if shape.request is not None:
        operation["requestBody"] = {
            "required": True,
            **_content("The request.", schema_of[id(shape.request)]),
        }
    return operation


def _content(description: str, schema: object) -> dict[str, object]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
