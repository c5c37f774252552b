"""What ONNX Runtime can compute on CUDA, by its own list, and whether a graph has anything else.

``cuda_kernels.txt`` has a line for each kernel; ``quantize.graph.kernel_table`` makes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from onnx import TensorProto

from quantize.graph.functions import CONTRIB

TABLE = Path(__file__).with_name("cuda_kernels.txt")

Parameters = Sequence[tuple[str, str]]  # names and types, or names of parameters of types


@dataclass(frozen=True)
class Kernel:
    """A kernel, and what it is for."""

    first: int  # version of its operator
    last: int | None  # None for an open end
    types: Mapping[str, frozenset[str]]  # allowed, such as "float16", by parameter

    def fits(self, since: int, bound: Mapping[str, int]) -> bool:
        """Whether it computes a node, by ONNX Runtime's rule.

        An open end does not reach the operator's next version, for that may mean something else.

        :param since: the version of the opset in which the node's operator got its meaning
        :param bound: types of ``TensorProto`` by parameter
        """
        is_ours = self.first == since
        if self.last is not None:
            is_ours = self.first <= since <= self.last
        return is_ours and all(
            TensorProto.DataType.Name(bound[name]).lower() in allowed
            for name, allowed in self.types.items()
            if name in bound
        )


def kernels_of(domain: str, op_type: str) -> Sequence[Kernel]:
    """Return the kernels of an operator."""
    return [kernel for kernel, _ in _table().get((domain or "ai.onnx", op_type), ())]


def contrib_parameters(op_type: str) -> tuple[Parameters, Parameters] | None:
    """Return inputs and outputs of an operator of com.microsoft; None for an unknown one."""
    found = _table().get((CONTRIB, op_type))
    return found[0][1] if found else None


@cache
def _table() -> Mapping[tuple[str, str], Sequence[tuple[Kernel, tuple[Parameters, Parameters]]]]:
    table: dict[tuple[str, str], list[tuple[Kernel, tuple[Parameters, Parameters]]]] = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        domain, op_type, versions, types, *rest = line.split("\t")
        parameters = rest[0].split() if rest else []
        sides = tuple(list(_side(parameters, way)) for way in ("in", "out"))
        table.setdefault((domain, op_type), []).append(
            (_kernel(versions, types), (sides[0], sides[1]))
        )
    return table


def _kernel(versions: str, types: str) -> Kernel:
    first, is_range, last = versions.rstrip("+").partition("-")
    end = None if versions.endswith("+") else int(last if is_range else first)
    pairs = (each.split("=") for each in types.split())
    return Kernel(int(first), end, {name: frozenset(all_.split(",")) for name, all_ in pairs})


def _side(parameters: Sequence[str], way: str) -> Iterator[tuple[str, str]]:
    for parameter in parameters:
        which, name, kind = parameter.split(":")
        if which == way:
            yield name, kind
