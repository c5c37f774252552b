"""The matrices of a transformer's layer, and the operations that scores need of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Layer:
    """The widths of a layer."""

    hidden: int
    wide: int  # between the two sides of the feed-forward part
    key_value: int  # of keys, and of values
    is_gated: bool = False  # two matrices into the wide side
    query: int | None = None  # of queries; that of the layer by default

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Depth and width of the products, by name."""
        query = self.query or self.hidden
        shapes = {"q": (self.hidden, query), "kv": (self.hidden, 2 * self.key_value)}
        shapes |= {"o": (query, self.hidden), "up": (self.hidden, self.wide)}
        if self.is_gated:
            shapes["gate"] = (self.hidden, self.wide)
        return shapes | {"down": (self.wide, self.hidden)}

    def operations(self, layers: int, tokens: int, scored: int) -> float:
        """Count multiplications and additions of all layers, the last one of scored rows alone."""
        sizes = {name: depth * width for name, (depth, width) in self.matrices.items()}
        layer, keys = sum(sizes.values()), sizes["kv"]
        return 2.0 * (tokens * ((layers - 1) * layer + keys) + scored * (layer - keys))


def decoder_layer(config: Mapping[str, Any]) -> Layer:
    """Read a gated decoder's widths from its config."""
    hidden, num_heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // num_heads
    key_value = head * config["num_key_value_heads"]
    return Layer(hidden, config["intermediate_size"], key_value, True, head * num_heads)
