from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compressor.batches import batch_length, join_batches, output_batch_dims, samples_between, samples_first

DIMS = (None, 1, 0)  # a number that all samples share, a sequence with time first, a row for each sample


def batch(samples: int) -> tuple[Tensor, ...]:
    return torch.tensor(2.0), torch.randn(7, samples, 3), torch.randn(samples)


def test_samples_are_counted_joined_and_cut_where_each_input_has_them() -> None:
    batches = [batch(5), batch(4), batch(1)]
    assert [batch_length(inputs, DIMS) for inputs in batches] == [5, 4, 1]
    columns = join_batches(batches, DIMS)
    assert [tuple(column.shape) for column in columns] == [(), (7, 10, 3), (10,)]
    shared, sequences, rows = samples_between(columns, 5, 9, DIMS)
    assert shared == 2
    assert torch.equal(sequences, batches[1][1])
    assert torch.equal(rows, batches[1][2])
    assert [len(column) for column in samples_between(columns, 8, 99, DIMS)[2:]] == [2]
    assert [tuple(column.shape) for column in samples_first(columns, DIMS)] == [(10, 7, 3), (10,)]


def test_by_default_the_first_dimension_has_the_samples() -> None:
    x = torch.randn(5, 2)
    assert batch_length(x) == batch_length((x, torch.randn(5))) == 5
    assert torch.equal(join_batches([x, x])[0], torch.cat([x, x]))
    assert batch_length((torch.tensor(1.0),), (None,)) == 1


class Answers(nn.Module):
    """Time first; every kind of output."""

    def forward(self, x: Tensor) -> dict[str, object]:
        steps, samples, _ = x.shape
        return {
            "steps": x,
            "samples": x.transpose(0, 1),
            "pairs": x.reshape(steps * samples, -1),
            "squeezed": x[0].squeeze(),
            "more": [x.mean(), x.mean(1), torch.zeros(4)],
            "noise": torch.rand_like(x[0]),
        }


@pytest.mark.parametrize(("steps", "samples"), [(7, 5), (4, 4), (2, 3), (3, 1)])
def test_outputs_have_their_samples_anywhere_or_not_at_all(steps: int, samples: int) -> None:
    random = torch.get_rng_state()
    found = output_batch_dims(Answers(), torch.zeros(steps, samples, 6), (1,))
    assert found == (1, 0, 0, 0, None, None, None, 0)
    assert torch.equal(torch.get_rng_state(), random)


def test_a_module_that_takes_no_other_batch_says_nothing() -> None:
    class Pairs(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(-1, 2, 3)

    assert output_batch_dims(Pairs(), torch.zeros(4, 3)) is None


def test_only_a_copy_runs() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.get_buffer("calls").add_(1)
            return x

    module = Counts()
    assert output_batch_dims(module, torch.zeros(4, 3)) == (0,)
    assert module.get_buffer("calls") == 0
