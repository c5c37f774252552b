"""Execution providers: their names and options, and checks that nothing falls back to the CPU.

ONNX Runtime falls back to the CPU silently in two cases: if a provider's libraries cannot be
loaded, and for each operator without a kernel of the provider.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import onnxruntime as ort

from edgerank.cuda import INSTALL, load_problem, preload_libraries
from edgerank.errors import ProviderError
from edgerank.manifest import CPU_PROVIDER, CUDA_PROVIDER

TENSORRT_PROVIDER = "TensorrtExecutionProvider"
GPU_PROVIDERS = (CUDA_PROVIDER, TENSORRT_PROVIDER)
SHORT_NAMES = {"cpu": CPU_PROVIDER, "cuda": CUDA_PROVIDER, "tensorrt": TENSORRT_PROVIDER}
# providers that run variants of other providers, the preferred one first, and those
FALLBACKS = {TENSORRT_PROVIDER: (CUDA_PROVIDER,)}
RECORD_PLACEMENT = "session.record_ep_graph_assignment_info"
# Operators that ONNX Runtime itself puts on the CPU: arithmetic of shapes, whose results kernels
# read there. CUDA has kernels of all of them.
SHAPE_OPERATORS = frozenset(
    (
        *("Shape", "Size", "Constant", "ConstantOfShape", "Range", "Cast"),
        *("Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Reshape", "Expand", "Identity"),
        *("Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Equal", "Where"),
        *("And", "GreaterOrEqual", "LessOrEqual", "Sqrt"),  # of graphs that optimum exported
    )
)
MAX_NAMED = 5  # operators in a message
OUT_OF_MEMORY = ("Failed to allocate memory", "CUDA failure 2:", "out of memory")
NO_LIBRARY = ("cuDNN is unavailable", "Please install TensorRT libraries")
DEVICE_FAILURES = ("CUDA failure", "CUDNN failure", "CUBLAS failure", *OUT_OF_MEMORY, *NO_LIBRARY)


def provider_name(name: str) -> str:
    """Return ONNX Runtime's name of a provider; "cpu", "cuda", "tensorrt" are short names."""
    return SHORT_NAMES.get(name.lower(), name)


def runs(provider: str, made_for: str) -> bool:
    """Whether a provider runs graphs that were made for another, or for itself."""
    return provider == made_for or made_for in FALLBACKS.get(provider, ())


def session_providers(provider: str, device: int) -> list[str | tuple[str, dict[str, str]]]:
    """Return ONNX Runtime's list for a provider, with options and the providers after it."""
    if provider not in GPU_PROVIDERS:
        return list(dict.fromkeys([provider, CPU_PROVIDER]))
    gpu = [(name, _options(name, device)) for name in (provider, *FALLBACKS.get(provider, ()))]
    return [*gpu, CPU_PROVIDER]


def preload(provider: str) -> None:
    """Load CUDA's libraries from packages of pip, if a provider needs them."""
    if provider in GPU_PROVIDERS:
        preload_libraries()


def check_loaded(session: ort.InferenceSession, provider: str) -> None:
    """Refuse a session without a provider.

    :raises ProviderError: the provider could not be loaded
    """
    if provider not in session.get_providers():
        raise ProviderError(
            f"{provider} cannot be loaded: {load_problem()}; `edgerank doctor` shows what is there,"
            ' and providers=["cpu"] does without a GPU'
        )


def check_placement(session: ort.InferenceSession, provider: str) -> None:
    """Refuse a session whose graph a provider cannot run as a whole.

    :raises ProviderError: operators of the graph would run on the CPU
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise ProviderError(
            f"onnxruntime {ort.__version__} does not say which operators {provider} runs;"
            f" upgrade it: {INSTALL}"
        )
    left = Counter(_left_to_the_cpu(session))
    if left:
        named = ", ".join(f"{name} ({count})" for name, count in left.most_common(MAX_NAMED))
        more = ", and others" if len(left) > MAX_NAMED else ""
        raise ProviderError(
            f"{provider} of onnxruntime {ort.__version__} has no kernel for operators of the"
            f" graph, which would run on the CPU: {named}{more}; upgrade onnxruntime-gpu, or"
            " quantize the checkpoint again with this version of edgerank"
        )


def _left_to_the_cpu(session: ort.InferenceSession) -> Iterator[str]:
    """Yield the operators on the CPU that are not allowed there."""
    for part in session.get_provider_graph_assignment_info():
        if part.ep_name != CPU_PROVIDER:
            continue
        for node in part.get_nodes():
            if node.domain not in ("", "ai.onnx"):
                yield f"{node.domain}.{node.op_type}"
            elif node.op_type not in SHAPE_OPERATORS:
                yield node.op_type


def _options(provider: str, device: int) -> dict[str, str]:
    options: dict[str, Any] = {"device_id": device}
    if provider == CUDA_PROVIDER:  # micro-batches differ in size: a doubling arena wastes memory
        options["arena_extend_strategy"] = "kSameAsRequested"
    return {name: str(value) for name, value in options.items()}


def device_problem(error: Exception, device: int) -> ProviderError | None:
    """Return the message for a GPU's error; None if the error is of another kind."""
    reason = " ".join(str(error).split())  # of several lines
    if not any(mark in reason for mark in DEVICE_FAILURES):
        return None
    advice = "`edgerank doctor` shows the GPUs, their free memory and what is missing"
    if any(mark in reason for mark in OUT_OF_MEMORY):
        advice = "set a lower max_batch_tokens, or stop what else uses the GPU"
    elif any(mark in reason for mark in NO_LIBRARY):
        advice = f"{INSTALL} brings cuDNN, and `pip install tensorrt` brings TensorRT"
    return ProviderError(f"GPU {device}: {reason}; {advice}")
