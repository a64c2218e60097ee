"""Recognition from tensor names and shapes: known, ambiguous and unknown checkpoints."""

import gzip
import re
from pathlib import Path

import pytest
import torch
from failures import raises_error
from torch import Tensor, nn

from compressor.core import ModelSpec, one_image
from compressor.errors import ModelError
from compressor.models.build import build_named
from compressor.models.identification import fingerprints as index
from compressor.models.identification.identify import IdentifiedModel, identify_architecture, load_named
from compressor.models.identification.shape_match import class_counts, free_dims

SHARED = Path(__file__).resolve().parents[3] / "shared" / "checkpoints"


def weights_of(
    source: str, size: tuple[int, int, int] = (3, 224, 224), classes: int | None = None
) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return dict(build_named(ModelSpec(source, one_image(size), classes)).state_dict())


def recognise(tensors: dict[str, Tensor], **settings: object) -> IdentifiedModel:
    return identify_architecture(tensors, "some.pt", **({"num_classes": None, "size": None} | settings))


@pytest.mark.parametrize(
    ("source", "classes", "channels"),
    [
        ("torchvision:resnet18", 7, 1),
        ("timm:resnet26d", 7, 1),
        ("cifar:resnet20b", 7, 1),
        ("cifar:resnet26", 100, 3),
        ("torchvision:mnasnet0_5", 5, 4),
        ("torchvision:regnet_y_400mf", 2, 3),
        ("torchvision:lraspp_mobilenet_v3_large", 5, 3),
        ("timm:vit_tiny_patch16_224", 3, 1),
    ],
)
def test_recognised(source: str, classes: int, channels: int) -> None:
    tensors = weights_of(source, (channels, 224, 224), classes)
    found = recognise(tensors)
    assert found.spec.source == source
    assert found.spec.num_classes == classes
    assert found.spec.input[0] == channels
    assert not found.module.training
    state = found.module.state_dict()
    assert all(torch.equal(state[name], value) for name, value in tensors.items())


def test_equal_twins_take_the_first() -> None:
    """Both libraries' resnet18 compute the same, so it is that; resnetblur18 has its tensors and blurs in between."""
    found = recognise(weights_of("timm:resnet18"))
    assert found.spec.source == "torchvision:resnet18"
    assert "timm:resnet18 would do as well" in " ".join(found.notes)
    assert "timm:resnetblur18 fit too but are variants" in " ".join(found.notes)
    blurred = recognise(weights_of("timm:resnet18"), hint="resnetblur18")
    assert blurred.spec.source == "timm:resnetblur18"


def test_twins_that_differ_are_ambiguous() -> None:
    """Same tensors, but the tf_ variant pads as TensorFlow does."""
    tensors = weights_of("timm:mobilenetv3_small_100", (1, 224, 224), 7)
    with raises_error(
        ModelError,
        "checkpoint/ambiguous-architecture",
        "--set model.arch=timm:mobilenetv3_small_100",
        "timm:tf_mobilenetv3_small_100",
    ):
        recognise(tensors)
    named = load_named(tensors, "x", arch="timm:tf_mobilenetv3_small_100", num_classes=None, size=None)
    assert (named.spec.num_classes, named.spec.input) == (7, (1, 224, 224))


def test_the_files_own_word_settles_it() -> None:
    alone = weights_of("timm:mobilenetv3_small_050")
    assert recognise(alone, hint="resnet50").spec.source == "timm:mobilenetv3_small_050"
    tensors = weights_of("timm:mobilenetv3_small_100")
    assert recognise(tensors, hint="tf_mobilenetv3_small_100").spec.source == "timm:tf_mobilenetv3_small_100"


def without(tensors: dict[str, Tensor], *parts: str) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if not any(part in name for part in parts)}


def test_old_checkpoints_without_batch_counters() -> None:
    found = recognise(without(weights_of("torchvision:resnet18"), "num_batches_tracked"))
    assert "num_batches_tracked" in " ".join(found.notes)


def test_auxiliary_heads_are_left_out() -> None:
    from torchvision.models import googlenet

    with torch.random.fork_rng():
        tensors = dict(googlenet(weights=None, aux_logits=True, init_weights=False).state_dict())
    found = recognise(tensors)
    assert found.spec.source == "torchvision:googlenet"
    assert "auxiliary" in " ".join(found.notes)


def test_names_of_other_publishers() -> None:
    tensors = {
        name.replace("linear.", "fc.").replace("shortcut.", "downsample."): value
        for name, value in weights_of("cifar:resnet20b").items()
    }
    assert recognise(tensors).spec.source == "cifar:resnet20b"
    old = {
        name.replace("norm1", "norm.1").replace("conv2", "conv.2"): value
        for name, value in weights_of("torchvision:densenet121").items()
    }
    assert recognise(old).spec.source == "torchvision:densenet121"


def test_another_input_size() -> None:
    """A transformer's position embedding depends on the input, which only the user knows."""
    tensors = weights_of("timm:vit_tiny_patch16_224", (3, 64, 64), 3)
    assert recognise(tensors, size=(3, 64, 64)).spec.source == "timm:vit_tiny_patch16_224"
    with raises_error(
        ModelError,
        "checkpoint/unknown-architecture",
        "timm:vit_tiny_patch16_224 (1 of another shape",
        re.compile("pos_embed is 1x17x"),
    ):
        recognise(tensors)


@pytest.mark.parametrize(
    ("tensors", "nearest"),
    [
        (
            without(weights_of("torchvision:resnet18"), "fc."),
            "resnet18 (2 missing (fc.weight, fc.bias)",
        ),
        (weights_of("cifar:resnet20") | {"mine": torch.ones(1)}, "cifar:resnet20 (1 extra (mine))"),
        (
            weights_of("cifar:resnet20") | {"layer1.0.conv1.weight": torch.ones(8, 16, 3, 3)},
            "cifar:resnet20 (1 of another shape (layer1.0.conv1.weight is 8x16x3x3, not 16x16x3x3)",
        ),
        (dict(nn.Linear(3, 2).state_dict()), "2 tensors"),
    ],
    ids=["headless", "extra", "narrower", "linear"],
)
def test_unknown_names_the_nearest(tensors: dict[str, Tensor], nearest: str) -> None:
    with raises_error(ModelError, "checkpoint/unknown-architecture", nearest, "model.arch"):
        recognise(tensors)


def test_architectures_that_share_no_tensor_are_not_near() -> None:
    tensors = {f"net.{index}.{end}": torch.ones(3, index + 1) for index in range(6) for end in ("weight", "bias")}
    with pytest.raises(ModelError) as caught:
        recognise(tensors)
    assert "12 tensors" in caught.value.problem
    assert ":" not in caught.value.problem


@pytest.mark.parametrize(
    ("arch", "classes", "code", "word"),
    [
        ("cifar:resnet32", None, "checkpoint/tensors-differ", "60 missing"),
        ("cifar:resnet20", 7, "checkpoint/tensors-differ", "linear.weight is 10x64, not 7x64"),
        ("torchvision:resnet18", None, "checkpoint/tensors-differ", "missing"),
        ("cifar:resnet21", None, "model/unknown-architecture", "did you mean"),
    ],
)
def test_named_but_does_not_fit(arch: str, classes: int | None, code: str, word: str) -> None:
    with raises_error(ModelError, code, word) as caught:
        load_named(weights_of("cifar:resnet20"), "some.pt", arch=arch, num_classes=classes, size=None)
    assert caught.value.exit_code == 3


def test_a_named_architecture_leaves_out_what_only_training_uses() -> None:
    weights = weights_of("cifar:resnet20")
    loaded = load_named(
        weights | {"mine": torch.ones(1)}, "some.pt", arch="cifar:resnet20", num_classes=None, size=None
    )
    assert torch.equal(loaded.module.state_dict()["conv1.weight"], weights["conv1.weight"])
    assert any("left out 1 tensor " in note for note in loaded.notes)
    deeper = weights | {"layer3.3.conv1.weight": torch.ones(64, 64, 3, 3)}
    with raises_error(ModelError, "checkpoint/tensors-differ", "1 extra (layer3.3.conv1.weight)"):
        load_named(deeper, "some.pt", arch="cifar:resnet20", num_classes=None, size=None)


def test_class_count_against_the_users() -> None:
    with raises_error(ModelError, "checkpoint/class-count-differs", "10 classes", "7"):
        recognise(weights_of("cifar:resnet20"), num_classes=7)


def test_counts_that_contradict() -> None:
    """Two heads of 1000 classes in the architecture, of 5 and 6 in the checkpoint."""
    free = free_dims({"a": (1000, 2), "b": (2000,), "stem": (8, 12)}, {"a": (1013, 2), "b": (2026,), "stem": (8, 20)})
    assert class_counts({"a": (5, 2), "b": (10,), "stem": (8, 4)}, free) == {"classes": 5, "channels": 1}
    assert class_counts({"a": (5, 2), "b": (12,), "stem": (8, 4)}, free) is None
    assert class_counts({"a": (5, 2), "b": (10,), "stem": (8, 5)}, free) is None


@pytest.mark.parametrize(
    "source",
    ["cifar:resnet110b", "torchvision:swin_t", "torchvision:regnet_x_400mf", "timm:resnet50", "timm:ghostnet_050"],
)
def test_index_is_that_of_these_libraries(source: str) -> None:
    shipped = [entry for entry in index.read_fingerprints() if entry.source == source]
    assert shipped == index.fingerprint(source)


def test_one_family_is_fingerprinted_anew_beside_the_others(tmp_path: Path) -> None:
    """The content is the shipped one, and the versions of other families' libraries stay."""
    index.rebuild_fingerprints(["cifar"], tmp_path / "index.json.gz")
    contents = [gzip.decompress(path.read_bytes()) for path in (tmp_path / "index.json.gz", index.FILE)]
    assert contents[0] == contents[1]


def test_index_is_small_and_complete() -> None:
    assert index.FILE.stat().st_size < 150_000
    assert {entry.source for entry in index.read_fingerprints()} == set(index.all_sources())


def test_overlap_estimates_jaccard() -> None:
    words = [f"layer{number}.weight" for number in range(300)]
    shapes = dict.fromkeys(words, (1,))
    half = dict.fromkeys(words[100:], (1,)) | {f"x{number}": (1,) for number in range(100)}
    assert index.overlap(index.sketches(shapes)[0], index.sketches(shapes)[0]) == 1
    assert abs(index.overlap(index.sketches(shapes)[0], index.sketches(half)[0]) - 200 / 400) < 0.35


@pytest.mark.skipif(not SHARED.is_dir(), reason="the folder shared/checkpoints is not here")
@pytest.mark.parametrize("file", sorted(path.name for path in SHARED.glob("resnet*")) if SHARED.is_dir() else ["-"])
def test_real_checkpoints(file: str) -> None:
    from compressor.models.source import load_model

    loaded = load_model(str(SHARED / file))
    assert loaded.spec == ModelSpec(f"cifar:{file.partition('-')[0]}", one_image((3, 32, 32)), 10)
    assert loaded.mean == (0.485, 0.456, 0.406)
    assert loaded.std == (0.229, 0.224, 0.225)
    assert loaded.sha256
    assert loaded.name == str(SHARED / file)
