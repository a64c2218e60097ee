"""One weight that writes channels in one place and reads them in another is cut like two."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Cut = Callable[..., tuple[dict[str, int], nn.Module]]  # see conftest.py


class Language(nn.Module):
    """The embedding is the output layer, too, and a pre-norm block lies between."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 12), nn.Parameter(torch.randn(1, 7, 12))
        self.norm, self.a, self.b = nn.LayerNorm(12), nn.Linear(12, 9), nn.Linear(9, 12)
        self.out = nn.Linear(12, 20, bias=False)
        if tied:
            self.out.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.places
        return self.out(self.norm(x + self.b(torch.relu(self.a(self.norm(x))))))


class Autoencoder(nn.Module):
    """The decoder is the encoder transposed, and tied to it in both of its dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.weight = nn.Linear(5, 12), nn.Parameter(torch.randn(9, 12))
        self.after = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        code = torch.relu(functional.linear(torch.relu(self.before(x)), self.weight))
        return self.after(functional.linear(code, self.weight.t()))


class Query(nn.Module):
    """A weight of one layer is multiplied with the activations that it wrote, further on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(8, 8, bias=False), nn.Linear(8, 3)
        self.before = nn.Linear(5, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.layer(self.before(x)))
        return self.head(x @ self.layer.weight)


def test_a_tied_embedding_is_cut_as_an_untied_one(cut: Cut) -> None:
    torch.manual_seed(0)
    free, slim = cut(Language(tied=True), torch.arange(7)[None])
    untied, _ = cut(Language(tied=False), torch.arange(7)[None])
    assert sorted(free.values()) == sorted(untied.values()) == [9, 12]
    assert slim.out.weight is slim.words.weight
    assert (slim.words.embedding_dim, slim.out.in_features, slim.norm.normalized_shape) == (7, 7, (7,))


def test_a_decoder_tied_to_its_encoder_is_cut_in_both_dimensions(cut: Cut) -> None:
    torch.manual_seed(0)
    free, slim = cut(Autoencoder(), torch.randn(1, 5))
    assert free == {"before": 12, "weight": 9}
    assert slim.weight.shape == (5, 7)


def test_a_weight_that_reads_what_it_wrote(cut: Cut) -> None:
    torch.manual_seed(0)
    free, slim = cut(Query(), torch.randn(1, 5))
    assert sorted(free.values()) == [8, 8]
    assert slim.layer.weight.shape == (5, 5)
