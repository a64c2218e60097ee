"""Processor seconds of a TPP iteration over those of a plain one: dense ResNet-56, batches of 128, one thread.

    python tests/benchmarks/penalty_cost.py [PAIRS]

Both are the training loop's own iteration on the same module and images; every pair is a plain and a penalised one,
in alternating order. The ratio must stay below 1.15. First every block's first convolution is cut, as in the paper's
tables, then every group of channels there is.
"""

from __future__ import annotations

import statistics
import sys
import time
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from compressor.budget.layer_rules import LayerRule
from compressor.budget.selection import select_channels
from compressor.budget.target import PruningTarget
from compressor.core import PrunePlan
from compressor.criteria.magnitude import l1
from compressor.methods.tpp import TPP
from compressor.models.cifar import cifar_resnet
from compressor.surgery.analysis import analyze
from compressor.surgery.removal import pruned_entries
from compressor.training.constraints import PenaltyConstraint
from compressor.training.distributed.runtime import single_process
from compressor.training.optimizers import make_optimizer
from compressor.training.penalty import Constraint
from compressor.training.precision import precision_policy
from compressor.training.train_settings import OptimizerSettings
from compressor.training.train_step import make_iteration

BATCH, WHOLE, NOW = 128, 110_000, 109_000  # an iteration at which all is at work: every pull, and the zeroing
INNER = (LayerRule("layer*.conv1"), LayerRule("*", freeze=True))


def ratio(rules: tuple[LayerRule, ...], pairs: int) -> None:
    torch.manual_seed(0)
    module = cifar_resnet("resnet56")
    structure = analyze(module.eval(), torch.randn(1, 3, 32, 32), name="resnet56")
    selection = PruningTarget(ratio=0.9, rules=rules)
    whole = structure.cost.of(PrunePlan({}))
    plan, groups = select_channels(
        structure.groups, l1.score_channels(module, structure.groups), selection, structure.cost, whole
    )
    lost = [pruned_entries((group,), plan, module) for group in groups if group.name in plan.kept]
    module.train().to(memory_format=torch.channels_last)
    images = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    targets = torch.randint(0, 10, (BATCH,))
    optimizer = make_optimizer(module, OptimizerSettings("sgd", lr=1e-3, momentum=0.9, weight_decay=5e-4))
    unscaled = precision_policy("fp32", module, torch.device("cpu")).scaler()

    def objective(images: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(module(images), targets)

    def timed(constraints: list[Constraint]) -> float:
        start = time.process_time()
        make_iteration(objective, optimizer, constraints, None, single_process(), unscaled)(images, targets, NOW, 1e-3)
        return time.process_time() - start

    penalised = [partial(PenaltyConstraint, penalty=TPP().penalty(), leaving=lost)(module, WHOLE)]
    timed([]), timed(penalised)
    plain_s, tpp_s = [], []
    for pair in range(pairs):
        for what in ((plain_s, []), (tpp_s, penalised))[:: 1 if pair % 2 else -1]:
            what[0].append(timed(what[1]))
    found = statistics.median(b / a for a, b in zip(plain_s, tpp_s, strict=True))
    print(
        f"{len(lost)} groups cut: plain {statistics.median(plain_s):.3f} s, TPP {statistics.median(tpp_s):.3f} s, "
        f"median ratio of {pairs} pairs {found:.3f}"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    for rules in (INNER, ()):
        ratio(rules, int(sys.argv[1]) if len(sys.argv) > 1 else 15)
