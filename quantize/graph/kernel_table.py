"""Make ``cuda_kernels.txt``: the operators that ONNX Runtime computes on CUDA, and their types.

    python -m quantize.graph.kernel_table docs/OperatorKernels.md 1.25.0

The first argument is the list that ONNX Runtime makes of its registered kernels, of a release.
Kernels are added from release to release, so that an older list says less than is there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

TABLE = Path(__file__).with_name("cuda_kernels.txt")
PROVIDER = "## Operators implemented by CUDAExecutionProvider"
DOMAINS = ("ai.onnx", "com.microsoft")
DOMAIN = re.compile(r"\|\*\*Operator Domain:\*\* \*(?P<domain>[^*]+)\*")
FIRST_OPSET = 13  # of ai.onnx; graphs made here have no older operators
TYPES = (
    "float", "float16", "bfloat16", "double", "int64", "int32", "int8", "uint8", "bool",
)  # fmt: skip
HEADER = """\
# Kernels of ONNX Runtime {version} for CUDA, made by quantize/graph/kernel_table.py of its
# docs/OperatorKernels.md. Domain, operator, versions, types; of com.microsoft the parameters, too.
"""


def table_lines(document: str) -> Iterator[str]:
    """Yield a line for each kernel of ONNX Runtime's list."""
    section = document.partition(PROVIDER)[2].partition("\n## ")[0]
    domain = name = parameters = ""
    for line in section.splitlines():
        if found := DOMAIN.match(line):
            domain = found["domain"]
            continue
        cells = line.strip("|").split("|")
        if line.startswith("|||"):  # the operator of the line before, in other versions
            versions, types = cells
        elif len(cells) == 4 and domain in DOMAINS:
            name, parameters, versions, types = cells
        else:
            continue
        if domain not in DOMAINS or (domain == "ai.onnx" and _last(versions) < FIRST_OPSET):
            continue
        fields = [domain, name, versions.strip("[]").replace(", ", "-")]
        fields.append(" ".join(_constraints(types)))
        if domain == "com.microsoft":
            fields.append(" ".join(_parameters(parameters)))
        yield "\t".join(fields)


def _last(versions: str) -> float:
    """Return the last of the versions "14+", "13" or "[7, 12]"."""
    return float("inf") if versions.endswith("+") else int(versions.strip("[]").split(", ")[-1])


def _constraints(types: str) -> Iterator[str]:
    """Yield "T=float,float16" for each parameter of types."""
    for name, allowed in re.findall(r"\*\*(\w+)\*\* = ([^*]*)", types):
        known = [each for each in TYPES if f"tensor({each})" in allowed]
        yield f"{name}={','.join(known)}"


def _parameters(parameters: str) -> Iterator[str]:
    """Yield "in:X:T" and "out:Y:T", or a type instead of T, for each parameter."""
    for way, name, kind in re.findall(r"\*(in|out)\* ([\w.]+):\*\*([^*]+)\*\*", parameters):
        yield f"{way}:{name}:{kind}"


def main(document: str, version: str) -> None:
    lines = table_lines(Path(document).read_text(encoding="utf-8"))
    text = HEADER.format(version=version) + "".join(f"{line}\n" for line in lines)
    TABLE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
