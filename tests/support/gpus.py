"""Libraries and providers that stand in for those of a GPU, where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgerank import reranker, session
from edgerank.gpu import Gpu
from edgerank.kernels import Kernels
from edgerank.manifest import CPU_PROVIDER, CUDA_PROVIDER
from edgerank.variants import Capabilities, machine_capabilities
from tests.support.kernels import compile_library

# NVML with two GPUs, of which the second one is also called GPU-second
NVML = r"""
#include <stdint.h>
#include <string.h>

struct memory { unsigned long long total, free, used; };
static int gpus[2] = {0, 1};

int nvmlInit_v2(void) { return @NAMES@; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char* text, unsigned length) { strcpy(text, "580.65"); return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int* version) { *version = 13000; return 0; }
int nvmlDeviceGetCount_v2(unsigned* count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** handle) {
  if (index > 1) return 2;
  *handle = &gpus[index];
  return 0;
}
int nvmlDeviceGetHandleByUUID(const char* uuid, void** handle) {
  if (strcmp(uuid, "GPU-second")) return 6;
  *handle = &gpus[1];
  return 0;
}
int nvmlDeviceGetName(void* handle, char* text, unsigned length) {
  strcpy(text, *(int*)handle ? "second" : "first");
  return 0;
}
int nvmlDeviceGetMemoryInfo(void* handle, struct memory* memory) {
  memory->total = 1ull << 40;
  memory->free = 5ull << 30;
  return 0;
}
int nvmlDeviceGetCudaComputeCapability(void* handle, int* major, int* minor) {
  if (*(int*)handle) return 3;  /* not supported */
  *major = 9;
  return 0;
}
"""


def compile_nvml(path: Path, status: int = 0) -> Path:
    """Compile an NVML that answers, or whose start gives another status than 0."""
    return compile_library(path, f"{status}", source=NVML)


def give_gpus(monkeypatch: pytest.MonkeyPatch, *gpus: Gpu) -> list[int]:
    """Let the CPU's provider stand in for CUDA's; return the numbers of the GPUs that are opened.

    Keys and values are in the memory of a device all the same, which here is the host's.
    """
    opened: list[int] = []

    def capabilities(kernels: Kernels) -> Capabilities:
        machine = machine_capabilities(kernels)
        providers = (CUDA_PROVIDER, *machine.providers)
        return Capabilities(providers, machine.instruction_sets, machine.libraries, lambda: gpus)

    def session_providers(provider: str, device: int) -> list[str]:
        if provider == CUDA_PROVIDER:
            opened.append(device)
        return [CPU_PROVIDER]

    class OnTheHost(session.DeviceRuns):
        def __init__(self, layers, device, device_id):
            super().__init__(layers, "cpu", 0)

    monkeypatch.setattr(reranker, "machine_capabilities", capabilities)
    monkeypatch.setattr(session, "session_providers", session_providers)
    monkeypatch.setattr(session, "check_loaded", lambda session, provider: None)
    monkeypatch.setattr(session, "check_placement", lambda session, provider: None)
    monkeypatch.setattr(session, "DeviceRuns", OnTheHost)
    return opened
