"""Which variant of a bundle runs on which machine, and why."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from edgerank import InputError, ProviderError, Reranker, variants
from edgerank.bundle import DEFAULT_BUNDLE, Bundle, read_bundle
from edgerank.cpu import instruction_sets
from edgerank.gpu import Gpu
from edgerank.kernels import choose_kernels
from edgerank.manifest import CPU_PROVIDER, CUDA_PROVIDER, Needs
from edgerank.providers import TENSORRT_PROVIDER
from edgerank.variants import Capabilities, choose_variant, machine_capabilities

GPU = Gpu("a card", 8 << 30, 6 << 30, (9, 0))
PLAIN = Capabilities((CPU_PROVIDER,), frozenset({"avx2"}), frozenset(), find_gpus=lambda: ())
RICH = Capabilities(
    (TENSORRT_PROVIDER, CUDA_PROVIDER, CPU_PROVIDER),
    frozenset({"avx2", "avx512_vnni"}),
    frozenset({"edgerank.kernels"}),
    find_gpus=lambda: (GPU,),
)


@pytest.fixture
def bundle() -> Bundle:
    """The bundle in the package, with variants that need something before its own."""
    opened = read_bundle(DEFAULT_BUNDLE)
    [plain] = opened.manifest.variants
    variants = (
        msgspec.structs.replace(plain, name="fp16", provider=CUDA_PROVIDER, needs=Needs(gpu=True)),
        msgspec.structs.replace(plain, name="vnni", needs=Needs(instruction_sets=("avx512_vnni",))),
        msgspec.structs.replace(plain, name="fused", needs=Needs(libraries=("edgerank.kernels",))),
        plain,
    )
    return replace(opened, manifest=msgspec.structs.replace(opened.manifest, variants=variants))


def test_the_first_variant_that_the_machine_can_run_is_chosen(bundle):
    assert choose_variant(bundle, RICH).name == "fp16"
    assert choose_variant(bundle, replace(RICH, find_gpus=lambda: ())).name == "vnni"
    slow = replace(RICH, providers=(CPU_PROVIDER,), instruction_sets=frozenset({"avx2"}))
    assert choose_variant(bundle, slow).name == "fused"
    assert choose_variant(bundle, PLAIN).name == "int8"


def test_the_reason_names_what_was_passed_over_and_what_it_needs(bundle):
    reason = choose_variant(bundle, PLAIN).reason
    assert "fp16 needs CUDAExecutionProvider" in reason
    assert "a GPU" in reason
    assert "vnni needs avx512_vnni" in reason
    assert "fused needs edgerank.kernels" in reason
    assert "int8" not in reason


def test_a_variant_is_chosen_by_name_whatever_the_order(bundle):
    chosen = choose_variant(bundle, RICH, "int8")
    assert (chosen.name, chosen.reason) == ("int8", "asked for by name")
    with pytest.raises(InputError, match=r"^variant: 'int3' .* fp16, vnni, fused, int8"):
        choose_variant(bundle, RICH, "int3")
    with pytest.raises(ProviderError, match="vnni needs avx512_vnni"):
        choose_variant(bundle, PLAIN, "vnni")


def test_providers_choose_among_the_variants_most_wanted_first(bundle):
    assert choose_variant(bundle, RICH, None, [CPU_PROVIDER]).name == "vnni"
    assert choose_variant(bundle, RICH, None, [CUDA_PROVIDER, CPU_PROVIDER]).name == "fp16"
    assert choose_variant(bundle, RICH, None, [CPU_PROVIDER, CUDA_PROVIDER]).name == "vnni"
    with pytest.raises(ProviderError, match=r"^CUDAExecutionProvider is not available"):
        choose_variant(bundle, PLAIN, None, [CUDA_PROVIDER])
    with pytest.raises(InputError, match=r"^providers: CUDAExecutionProvider: .* int8"):
        choose_variant(read_bundle(DEFAULT_BUNDLE), RICH, None, [CUDA_PROVIDER])


def test_providers_have_short_names(bundle):
    for short, name in (("cuda", "fp16"), ("CPU", "vnni")):
        assert choose_variant(bundle, RICH, None, [short]).name == name
    with pytest.raises(ProviderError, match=r"^CUDAExecutionProvider is not .*edgerank\[cuda\]"):
        choose_variant(bundle, PLAIN, None, ["cuda"])


def test_tensorrt_runs_what_is_made_for_cuda_where_it_is_asked_for(bundle):
    assert choose_variant(bundle, RICH).provider == CUDA_PROVIDER
    chosen = choose_variant(bundle, RICH, None, ["tensorrt", "cpu"])
    assert (chosen.name, chosen.provider) == ("fp16", TENSORRT_PROVIDER)
    assert str(chosen).startswith("fp16 on TensorrtExecutionProvider: ")


def test_a_gpu_that_no_driver_shows_is_what_is_missing(bundle):
    with pytest.raises(ProviderError, match="fp16 needs a GPU, and no NVIDIA driver shows one"):
        choose_variant(bundle, replace(RICH, find_gpus=lambda: ()), None, ["cuda"])


def test_a_machine_that_can_run_no_variant_is_told_what_each_needs(bundle):
    variants = bundle.manifest.variants[:3]
    few = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, variants=variants))
    with pytest.raises(ProviderError, match=r"fp16 needs .*vnni needs .*fused needs"):
        choose_variant(few, PLAIN)


@pytest.mark.parametrize(
    ("name", "providers", "num_asked"),
    [
        ("int8", None, 0),
        (None, ["cpu"], 0),
        (None, None, 1),  # the first variant needs a GPU
        ("fp16", None, 1),
        (None, ["cuda", "cpu"], 1),
    ],
)
def test_the_driver_is_asked_once_where_a_gpu_matters_and_not_at_all_elsewhere(
    bundle, name, providers, num_asked
):
    asked = []

    def find_gpus():
        asked.append("driver")
        return (GPU,)

    machine = replace(RICH, find_gpus=find_gpus)
    for _ in range(2):
        choose_variant(bundle, machine, name, providers)
    assert len(asked) == num_asked


def test_a_bundle_for_cpus_is_opened_without_a_look_at_the_driver(monkeypatch):
    def ask() -> tuple[Gpu, ...]:
        raise AssertionError("the driver was asked")

    monkeypatch.setattr(variants, "visible_gpus", ask)
    Reranker().close()
    Reranker(providers=["cpu"]).close()


def test_this_machine_has_the_cpu_s_flags_and_onnx_runtimes_providers():
    machine = machine_capabilities(choose_kernels("stock"))
    assert CPU_PROVIDER in machine.providers
    assert machine.instruction_sets == instruction_sets()


def test_a_reranker_says_which_variant_runs_and_why():
    with Reranker() as reranker:
        assert str(reranker.variant).startswith("int8 on CPUExecutionProvider: the first in the")
    with Reranker(variant="int8") as reranker:
        assert reranker.variant.reason == "asked for by name"
