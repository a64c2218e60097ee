"""2:4 at the size of a real network: seconds for all masks, seconds and gain of the channel permutation.

    python tests/benchmarks/sparsity.py [MODEL] [ROUNDS]

MODEL: what `compress` takes, torchvision:resnet50 by default (random weights unless a checkpoint is named). One thread.
Shares are of the sum of |w| over the layers TensorRT on an Ampere GPU could take: kept by 2:4 masks in the order of
channels there is, in the order found, and by the largest half of each layer's weights wherever they are.
"""

from __future__ import annotations

import sys
import time

import torch

from compressor.core import NMPattern
from compressor.models.source import load_model
from compressor.run_log import RunLog
from compressor.sparsity.masking import candidates, maskable_weights
from compressor.sparsity.nm_masks import magnitude_mask
from compressor.sparsity.runtimes import NMSparsity
from compressor.steps.context import Context
from compressor.steps.mask_nm import MaskNM
from compressor.steps.permute_channels import PermuteChannels
from compressor.steps.run import initial_state
from compressor.training.training_checkpoint import Checkpoints


def main(name: str, rounds: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = load_model(name)
    sparsity = NMSparsity(NMPattern(2, 4), "tensorrt-ampere")
    found = candidates(model.module, sparsity)
    dense = maskable_weights(model.module, found)
    start, used = time.perf_counter(), time.process_time()
    for weight in dense.values():
        magnitude_mask(weight, sparsity.pattern)
    count = sum(weight.numel() for weight in dense.values())
    print(f"{name}: {len(dense)} of {len(found)} layers, {count:,} weights")
    print(f"masks: {time.perf_counter() - start:.2f} s, {time.process_time() - used:.2f} s of the processor")
    context = Context(None, 0, RunLog(), Checkpoints(None, ""))
    state = initial_state(model, context)
    start = time.perf_counter()
    permuted = PermuteChannels(sparsity, rounds).run(state, context)
    assert permuted.certificate is not None
    assert permuted.sparse is not None
    print(f"permutation, {rounds} rounds: {time.perf_counter() - start:.1f} s; {context.log.notes[-1]}")
    print(f"proof: relative difference {permuted.certificate.max_rel_error:.1e} in float64")
    outcome = MaskNM(sparsity).run(state, context).sparse
    assert outcome is not None
    total, ours = outcome.total, permuted.sparse.total
    print(f"{'layer':32} {'shape':>20}  as it is  permuted  any half")
    for layer, shares in permuted.sparse.layers:
        if shares is not None:
            shape = " x ".join(map(str, layer.shape))
            print(
                f"{layer.tensor:32} {shape:>20}  {shares.before:8.2%}  {shares.after:8.2%}  {shares.upper_bound:8.2%}"
            )
    print(f"{'all':53}  {total.after:8.2%}  {ours.after:8.2%}  {total.upper_bound:8.2%}")
    print(f"of the bound: {total.after / total.upper_bound:.2%} as it is, {ours.after / ours.upper_bound:.2%} permuted")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "torchvision:resnet50", int(sys.argv[2]) if len(sys.argv) > 2 else 4)
