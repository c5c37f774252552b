"""The layers that Llama, Qwen and Gemma share.

RMSNorm before each half, and in Gemma 3 after it; rotary positions, grouped keys and values, a
gated feed-forward part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from quantize.architectures.decoder_spec import DecoderSpec
from quantize.checkpoint.files import Checkpoint
from quantize.graph.attention import attention
from quantize.graph.builder import Graph
from quantize.graph.grid import GraphInputs
from quantize.graph.layers import FeedForward, feed_forward, linear, projection
from quantize.graph.parameters import Heads, Matrix, Norm
from quantize.graph.precision import Precision, RefinedRows
from quantize.graph.spans import Span
from quantize.rounding.rounding import Floats
from quantize.rounding.transforms import Rotation, channel_scales, rotate_heads


@dataclass(frozen=True)
class DecoderInputs:
    """The shared inputs, and the kinds of attention."""

    shared: GraphInputs
    cache_rows: str  # int64 [C], the rows whose keys and values are needed later; "" for none
    everything: Span
    window: Span | None  # of local layers


@dataclass(frozen=True)
class Projection:
    """A linear layer's parameters."""

    weight: Floats  # [out, in]
    bias: Floats | None  # [out]


@dataclass(frozen=True)
class DecoderLayer:
    """The weights of one layer."""

    spec: DecoderSpec
    index: int
    attention_norm: Norm
    query: Projection  # [heads·D, H]
    key: Projection  # [KV·D, H]
    value: Projection  # [KV·D, H]
    head_norms: tuple[Norm, Norm] | None  # of queries and keys
    output: Floats  # [H, heads·D]
    feed_forward_norm: Norm
    gate: Floats  # [I, H]
    up: Floats  # [I, H]
    down: Floats  # [H, I]
    post_norms: tuple[Norm, Norm] | None = None  # of what the halves add to the stream

    def rotated(self, stream: Rotation | None, head: Rotation) -> DecoderLayer:
        """Rotate the stream, if there is a rotation of it, and each head's values."""
        layer = self if stream is None else self._rotated_stream(stream)
        value, output = rotate_heads(head, layer.value.weight, layer.output, self.spec.head_size)
        bias = self.value.bias
        if bias is not None:
            bias = head.apply(bias.reshape(-1, self.spec.head_size)).reshape(-1)
        return replace(layer, value=Projection(value, bias), output=output)

    def _rotated_stream(self, stream: Rotation) -> DecoderLayer:
        """Rotate the stream, into which the norms' gains would not fit."""
        assert self.post_norms is None

        def read(weight: Floats, gain: Floats) -> Floats:
            return stream.apply(weight * gain)

        def write(weight: Floats) -> Floats:
            return np.ascontiguousarray(stream.apply(weight.T).T)

        query, key, value = (
            replace(dense, weight=read(dense.weight, self.attention_norm.gain))
            for dense in (self.query, self.key, self.value)
        )
        return replace(
            self,
            attention_norm=self.attention_norm.divided(self.attention_norm.gain),
            query=query,
            key=key,
            value=value,
            output=write(self.output),
            feed_forward_norm=self.feed_forward_norm.divided(self.feed_forward_norm.gain),
            gate=read(self.gate, self.feed_forward_norm.gain),
            up=read(self.up, self.feed_forward_norm.gain),
            down=write(self.down),
        )

    def smoothed(
        self, rows: Mapping[str, Floats], precision: Precision
    ) -> tuple[DecoderLayer, Mapping[str, Floats]]:
        """Divide what each matrix reads; norms, v and up give out as much less.

        Nothing is divided where all rows are rounded in two terms: they have bits to spare, and
        weights have not.
        """
        if self.spec.refines == "all" and precision.refined(RefinedRows("all", "all")):
            return self, rows
        spec = self.spec
        kv_channels = np.arange(spec.kv_width).reshape(spec.num_kv_heads, 1, -1)
        sharing = spec.num_heads // spec.num_kv_heads
        owners = kv_channels.repeat(sharing, axis=1).reshape(-1)
        sites = [self._site(readers) for readers in ("qkv", "o", "gate_up", "down")]
        qkv = np.concatenate([self.query.weight, self.key.weight, self.value.weight])
        block = precision.mixed_block(spec.hidden_size) if self._mixes else 0
        normed = channel_scales(rows[sites[0]], qkv, block=block)
        values = channel_scales(rows[sites[1]], self.output, owners)
        readers = np.concatenate([self.gate, self.up])
        raised = channel_scales(rows[sites[2]], readers, block=block)
        block = precision.mixed_block(self.down.shape[1])
        inner = channel_scales(rows[sites[3]], self.down, block=block)
        smoothed = replace(
            self,
            attention_norm=self.attention_norm.divided(normed),
            query=replace(self.query, weight=self.query.weight * normed),
            key=replace(self.key, weight=self.key.weight * normed),
            value=Projection(
                self.value.weight * normed / values[:, None],
                None if self.value.bias is None else self.value.bias / values,
            ),
            output=self.output * values[owners],
            feed_forward_norm=self.feed_forward_norm.divided(raised),
            gate=self.gate * raised,
            up=self.up * raised / inner[:, None],
            down=self.down * inner,
        )
        scales = zip(sites, (normed, values[owners], raised, inner), strict=True)
        return smoothed, {site: rows[site] / scale for site, scale in scales}

    def write(self, g: Graph, precision: Precision, inputs: DecoderInputs, x: str) -> str:
        spec, shared, span = self.spec, inputs.shared, inputs.everything
        if inputs.window is not None and spec.is_local(self.index):
            span = inputs.window
        # the mean of a model that is not causal needs all rows
        is_last = spec.is_causal and self.index == spec.num_layers - 1
        refined = precision.refined(shared.refined_rows)
        g.scope = f"layers.{self.index}"
        queries = self._heads("query", "q", self.query)
        projected = projection(
            g,
            precision,
            self._site("qkv"),
            x,
            norm=self.attention_norm,
            queries=None if is_last else queries,
            keys_values=self._heads("key", "kv", self._keys_values()),
            angles=span.angles,
            keeps_normed=is_last,
            mixes=self._mixes,
            refined=refined,
        )
        past = self._cached(g, inputs, projected.keys_values) if spec.is_causal else ""
        query, grid = projected.queries, span.grid
        if is_last:
            grid, scored = span.scored_grid, shared.scored_rows
            rows, x = g.op("Gather", projected.normed, scored), g.op("Gather", x, scored)
            cosines, sines = (g.op("Gather", part, scored, axis=1) for part in span.angles)
            refined = shared.refined_scored_rows(precision)
            query = projection(
                g,
                precision,
                self._site("qkv"),
                rows,
                queries=queries,
                angles=(cosines, sines),
                mixes=self._mixes,
                refined=refined,
            ).queries
        attended = attention(
            g,
            grid,
            query,
            projected.keys_values,
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            past=past,
        )
        output, site = Matrix(self._name("self_attn.o"), self.output), self._site("o")
        norms = self.post_norms
        if norms is None:
            x = linear(g, precision, site, attended, output, residual=x, refined=refined)
        else:
            added = linear(g, precision, site, attended, output, refined=refined)
            added = norms[0].write(g, g.cast(added, g.float_type(x)))
            x = g.op("Add", x, added)
        part = FeedForward(
            site=self._site("gate_up"),
            inner_site=self._site("down"),
            norm=self.feed_forward_norm,
            activation=spec.activation,
            activated=Matrix(self._name("mlp.gate"), self.gate),
            multiplied=Matrix(self._name("mlp.up"), self.up),
            down=Matrix(self._name("mlp.down"), self.down),
            adds="row" if norms is None else "nothing",
            mixes=self._mixes,
        )
        y = feed_forward(g, precision, x, part, refined)
        if norms is None:
            return y
        return g.op("Add", x, norms[1].write(g, g.cast(y, g.float_type(x))))

    @property
    def _mixes(self) -> bool:
        """Whether norms' rows are mixed when the model runs, for the stream cannot be rotated."""
        return self.post_norms is not None

    def _cached(self, g: Graph, inputs: DecoderInputs, keys_values: str) -> str:
        """Put out keys and values for later micro-batches, and return those of earlier ones."""
        width = 2 * self.spec.kv_width
        present = g.op("Gather", keys_values, inputs.cache_rows)
        g.output(f"present.{self.index}", present, ["cached", width])
        return g.input(f"past.{self.index}", g.float_type(keys_values), ["past", width])

    def _keys_values(self) -> Projection:
        """Return keys and, beside them, values."""
        bias = None
        if self.key.bias is not None and self.value.bias is not None:
            bias = np.concatenate([self.key.bias, self.value.bias])
        return Projection(np.concatenate([self.key.weight, self.value.weight]), bias)

    def _heads(self, part: Literal["query", "key"], name: str, dense: Projection) -> Heads:
        spec, is_query = self.spec, part == "query"
        return Heads(
            Matrix(self._name(f"self_attn.{name}"), dense.weight, dense.bias),
            spec.num_heads if is_query else spec.num_kv_heads,
            spec.head_size,
            self.head_norms[not is_query] if self.head_norms else None,
        )

    def _name(self, part: str) -> str:
        return f"model.layers.{self.index}.{part}_proj"

    def _site(self, readers: str) -> str:
        return f"layers.{self.index}.{readers}"


def load_layer(checkpoint: Checkpoint, spec: DecoderSpec, root: str, index: int) -> DecoderLayer:
    """Load a layer's weights as they are stored.

    :param root: before the names of a decoder's tensors
    """
    hidden, wide, narrow = spec.hidden_size, spec.intermediate_size, spec.kv_width
    prefix = f"{root}layers.{index}"

    def matrix(name: str, rows: int, columns: int) -> Floats:
        return checkpoint.tensor(f"{prefix}.{name}_proj.weight", rows, columns)

    def dense(name: str, rows: int) -> Projection:
        bias_name = f"{prefix}.self_attn.{name}_proj.bias"
        bias = checkpoint.tensor(bias_name, rows) if spec.has_qkv_bias else None
        return Projection(matrix(f"self_attn.{name}", rows, hidden), bias)

    def norm(name: str, stored: str, size: int = hidden) -> Norm:
        gain: Floats = checkpoint.tensor(f"{prefix}.{stored}norm.weight", size)
        gain += np.float32(spec.gain_offset)
        return Norm(f"layers.{index}.{name}_norm", "rms", gain, None, spec.norm_epsilon)

    head_norms = None
    if spec.has_head_norms:
        size = spec.head_size
        queries, keys = norm("query", "self_attn.q_", size), norm("key", "self_attn.k_", size)
        scaled = replace(queries, gain=queries.gain * np.float32(spec.query_scale))
        head_norms = scaled, keys
    feed_forward_norm, post_norms = "post_attention_layer", None
    if spec.has_post_norms:  # Gemma 3 calls another norm by that name
        feed_forward_norm = "pre_feedforward_layer"
        post_norms = (
            norm("attention_post", "post_attention_layer"),
            norm("feed_forward_post", "post_feedforward_layer"),
        )
    return DecoderLayer(
        spec=spec,
        index=index,
        attention_norm=norm("attention", "input_layer"),
        query=dense("q", spec.query_width),
        key=dense("k", narrow),
        value=dense("v", narrow),
        head_norms=head_norms,
        output=matrix("self_attn.o", hidden, spec.query_width),
        feed_forward_norm=norm("feed_forward", feed_forward_norm),
        gate=matrix("mlp.gate", wide, hidden),
        up=matrix("mlp.up", wide, hidden),
        down=matrix("mlp.down", hidden, wide),
        post_norms=post_norms,
    )
