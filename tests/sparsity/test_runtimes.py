"""Which layers and runtimes: eligibility with its reason, and what is said beforehand."""

from __future__ import annotations

import pytest
import torchvision
from torch import nn

from compressor.core import NMPattern
from compressor.sparsity.masking import candidates
from compressor.sparsity.runtime_speedup import max_speedup, runtime_verdict
from compressor.sparsity.runtimes import RUNTIMES, NMSparsity, ineligible_reason

TWO_FOUR = NMPattern(2, 4)
AMPERE = "tensorrt-ampere"


@pytest.mark.parametrize(
    ("shape", "runtime", "pattern", "reason"),
    [
        ((64, 3, 7, 7), AMPERE, TWO_FOUR, "3 input channels, fewer than a group of 4"),
        ((64, 1, 3, 3), AMPERE, TWO_FOUR, "depthwise: a single input channel a filter"),
        ((10, 512), AMPERE, TWO_FOUR, "10 outputs, not a multiple of 8"),
        ((1000, 2048), AMPERE, TWO_FOUR, None),  # 1000 = 125 * 8
        ((16, 16, 3, 3), AMPERE, TWO_FOUR, None),
        ((64, 20, 1, 1), AMPERE, TWO_FOUR, "20 input channels, not a multiple of 16"),
        ((64, 16, 1, 1), AMPERE, NMPattern(2, 8), None),
        ((64, 16), "torch-cutlass", TWO_FOUR, "16 input channels, not a multiple of 64"),
        ((24, 32), "torch-cusparselt", TWO_FOUR, "24 outputs, not a multiple of 16"),
        ((10, 20), "onnxruntime-cpu", TWO_FOUR, None),  # where nothing is gained, only the groups matter
    ],
)
def test_eligibility(shape: tuple[int, ...], runtime: str, pattern: NMPattern, reason: str | None) -> None:
    assert ineligible_reason(shape, RUNTIMES[runtime], pattern) == reason


@pytest.mark.parametrize(
    ("pattern", "used"),
    [((2, 4), True), ((1, 4), True), ((1, 2), True), ((2, 8), False), ((4, 8), False), ((3, 4), False)],
)
def test_a_runtime_for_2_of_4_takes_every_pattern_that_implies_it(pattern: tuple[int, int], used: bool) -> None:
    assert RUNTIMES[AMPERE].supports(NMPattern(*pattern)) == used
    assert not RUNTIMES["onnxruntime-cpu"].supports(NMPattern(*pattern))
    assert not RUNTIMES["tensorrt-turing"].supports(NMPattern(*pattern))


def test_the_layers_of_a_real_network() -> None:
    found = candidates(torchvision.models.resnet50(), NMSparsity(TWO_FOUR, AMPERE, dense=("fc", "layer4.2.*")))
    assert len(found) == 54
    assert {each.tensor: each.reason for each in found if each.reason} == {
        "conv1.weight": "3 input channels, fewer than a group of 4",
        **{f"layer4.2.conv{n}.weight": "left dense by the recipe (layer4.2.*)" for n in (1, 2, 3)},
        "fc.weight": "left dense by the recipe (fc)",
    }


def test_embeddings_attention_projections_and_second_names_are_no_candidates() -> None:
    tied = nn.Linear(16, 16)
    net = nn.ModuleDict({"a": tied, "b": tied, "c": nn.Embedding(16, 16), "d": nn.MultiheadAttention(16, 4)})
    found = [each.tensor for each in candidates(net, NMSparsity(TWO_FOUR, AMPERE))]
    assert found == ["a.weight", "d.out_proj.weight"]


def test_the_bound_is_amdahls() -> None:
    assert max_speedup(1.0, TWO_FOUR) == 2
    assert max_speedup(0.5, TWO_FOUR) == pytest.approx(4 / 3)
    assert max_speedup(0.0, TWO_FOUR) == 1
    assert max_speedup(1.0, NMPattern(1, 4)) == 4


def test_verdicts_say_what_to_expect_before_anything_is_trained() -> None:
    net = nn.Sequential(nn.Conv2d(16, 16, 1), nn.Conv2d(16, 10, 1))
    macs = {"0.weight": 75, "1.weight": 25}

    def said(runtime: str, pattern: NMPattern, target: str | None) -> str:
        sparsity = NMSparsity(pattern, runtime)
        return runtime_verdict(sparsity, target, candidates(net, sparsity), macs)

    on_cpu = said(AMPERE, TWO_FOUR, "onnxruntime-cpu")
    assert on_cpu.startswith("size only: no speed-up on this runtime (onnxruntime-cpu: ")
    assert "tensorrt-ampere: eligible: 1 of 2 layers with 75% of the MACs, expected at most 1.60x in fp16" in on_cpu
    assert said(AMPERE, TWO_FOUR, None).startswith("tensorrt-ampere: eligible: 1 of 2 layers")
    assert "no speed-up, it cannot use 4:8 weights" in said(AMPERE, NMPattern(4, 8), None)
    assert "tensorrt-turing: no speed-up, it cannot use 2:4 weights" in said("tensorrt-turing", TWO_FOUR, None)
