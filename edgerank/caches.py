"""Runs a graph with a cache of keys and values of earlier runs.

On the CPU they are NumPy arrays. On a device they stay there: a run reads the leading rows of a
buffer and writes its new rows behind them, and only results come back.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgerank.packing import Batch
from edgerank.providers import device_problem

Array = NDArray[np.float32]
Feed = Mapping[str, NDArray[Any]]

ELEMENT_TYPES = {"tensor(float)": 1, "tensor(float16)": 10, "tensor(bfloat16)": 16}  # ONNX's
BFLOAT16 = "tensor(bfloat16)"


@dataclass(frozen=True)
class Layer:
    """A layer's keys or values in the graph."""

    past: str  # name of the input with those of earlier runs, [P, width]
    present: str  # name of the output with new ones, [C, width]
    width: int
    type: str  # of the elements, as ONNX Runtime calls it


class Cache:
    """Keys and values of earlier rows, an array a layer, which grow one after the other."""

    def __init__(self, num_layers: int, width: int) -> None:
        self._layers = [np.empty((0, width), np.float32) for _ in range(num_layers)]

    def leading(self, length: int) -> list[Array]:
        """View the first ``length`` rows of each layer, float32 [length, width] each."""
        return [layer[:length] for layer in self._layers]

    def store(self, start: int, rows: Sequence[Array]) -> None:
        """Write each layer's new rows from row ``start`` on; later rows are dropped."""
        end = start + len(rows[0])
        for index, (layer, new) in enumerate(zip(self._layers, rows, strict=True)):
            if end > len(layer):
                grown = np.empty((max(end, 2 * len(layer)), layer.shape[1]), np.float32)
                grown[:start] = layer[:start]
                self._layers[index] = grown
            self._layers[index][start:end] = new


class HostRuns:
    """Runs with float32 keys and values in NumPy arrays."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._pasts = [layer.past for layer in layers]
        self._presents = [layer.present for layer in layers]
        self._cache = Cache(len(layers), layers[0].width if layers else 0)

    def run(
        self,
        session: ort.InferenceSession,
        options: ort.RunOptions,
        batch: Batch,
        feed: Feed,
        outputs: Sequence[str],
    ) -> list[Array]:
        """Run a micro-batch; return ``outputs``."""
        presents = self._presents if len(batch.cache_rows) else []
        results: list[Array] = session.run(
            [*outputs, *presents], self._with_past(feed, batch.past_length), options
        )
        if presents:
            self._cache.store(batch.past_length, results[len(outputs) :])
        return results[: len(outputs)]

    def _with_past(self, feed: Feed, length: int) -> Feed:
        """Add the cache to a feed; its views must not outlive the run."""
        return {**feed, **dict(zip(self._pasts, self._cache.leading(length), strict=True))}


class DeviceRuns:
    """Runs with keys and values, of any type, in the memory of a device."""

    def __init__(self, layers: Sequence[Layer], device: str, device_id: int) -> None:
        """:param device: "cuda" or "cpu", as ONNX Runtime calls it"""
        self._layers = layers
        self._device = device
        self._device_id = device_id
        self._length = 0  # rows that the buffers have room for
        self._buffers: list[ort.OrtValue] = []

    def run(
        self,
        session: ort.InferenceSession,
        options: ort.RunOptions,
        batch: Batch,
        feed: Feed,
        outputs: Sequence[str],
    ) -> list[Array]:
        """Run a micro-batch; return ``outputs`` as float32, whatever the graph's type.

        :raises ProviderError: the GPU fails, or lacks memory or a library
        """
        binding = session.io_binding()
        for name, array in feed.items():
            binding.bind_cpu_input(name, array)  # copied to the operators' device
        for name in outputs:
            binding.bind_output(name)  # to the host
        self._bind_layers(binding, batch)
        try:
            session.run_with_iobinding(binding, options)
        except Exception as error:  # onnxruntime's own errors share no base class
            problem = device_problem(error, self._device_id) if self._device == "cuda" else None
            if problem is None:
                raise
            raise problem from error
        return [_as_float32(value) for value in binding.get_outputs()[: len(outputs)]]

    def _bind_layers(self, binding: ort.IOBinding, batch: Batch) -> None:
        """Bind the graph's inputs to the cached rows, and its outputs behind them."""
        self._reserve(max(1, batch.cache_length), batch.past_length)
        num_new = len(batch.cache_rows)
        for layer, buffer in zip(self._layers, self._buffers, strict=True):
            element = ELEMENT_TYPES[layer.type]
            row_bytes = buffer.tensor_size_in_bytes() // self._length
            place = self._device, self._device_id, element
            first = buffer.data_ptr()
            binding.bind_input(layer.past, *place, [batch.past_length, layer.width], first)
            if num_new:
                behind = first + batch.past_length * row_bytes
                binding.bind_output(layer.present, *place, [num_new, layer.width], behind)

    def _reserve(self, length: int, num_used: int) -> None:
        """Make larger buffers, if needed; this happens only when no row is used yet."""
        if length <= self._length and self._buffers:
            return
        assert num_used == 0, "all micro-batches of a group tell the same cache_length"
        self._buffers = []  # free the old buffers first
        self._buffers = [
            ort.OrtValue.ortvalue_from_shape_and_type(
                [length, layer.width], ELEMENT_TYPES[layer.type], self._device, self._device_id
            )
            for layer in self._layers
        ]
        self._length = length


def _as_float32(value: ort.OrtValue) -> Array:
    """Copy a result; it is on the host."""
    if value.data_type() != BFLOAT16:
        array: Array = value.numpy().astype(np.float32, copy=False)
        return array
    shape = value.shape()  # NumPy has no bfloat16: the upper half of a float32
    if 0 in shape:
        return np.zeros(shape, np.float32)
    pointer = ctypes.cast(value.data_ptr(), ctypes.POINTER(ctypes.c_uint16))
    bits = np.ctypeslib.as_array(pointer, tuple(shape))
    widened: Array = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return widened
