"""Export: what is in the file, parity that can fail, and modules the exporters refuse."""

from __future__ import annotations

import copy
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from exports import export_onnx
from failures import raises_error
from onnx import numpy_helper
from torch import Tensor, nn

from compressor.errors import ModelError, RecipeError, VerificationFailed
from compressor.export import onnx as export
from compressor.export.onnx import split_batches
from compressor.export.onnx_file import has_free_batch
from compressor.export.parity import check_parity
from compressor.export.refusals import ExportRefused
from compressor.tensors import tree_leaves


def net(scale: float = 1.0) -> nn.Sequential:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    with torch.no_grad():
        module[5].weight.mul_(scale)  # type: ignore[operator, union-attr]
        module[5].bias.mul_(scale)  # type: ignore[operator, union-attr]
        module[1].running_mean.uniform_(-1, 1)  # type: ignore[operator, union-attr]
    return module.eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_file_says_what_it_is(tmp_path: Path, images: Tensor, capfd: pytest.CaptureFixture[str]) -> None:
    module = net().train()  # left as it is, exported in eval mode
    before = copy.deepcopy(module.state_dict())
    path = tmp_path / "model.onnx"
    found = export_onnx(module, (images,), path, opset=None, dynamic_batch=True, metadata={"recipe": "abc"})
    assert capfd.readouterr() == ("", "")
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.requires_grad for parameter in module.parameters())

    assert found.ok
    assert found.max_abs_error < 1e-5
    assert found.notes == ()
    assert has_free_batch(path, (0,))
    model = onnx.load(path)
    assert {entry.key: entry.value for entry in model.metadata_props} == {"recipe": "abc", "exporter": "dynamo"}
    assert found.opset == next(each.version for each in model.opset_import if each.domain == "")
    assert [entry.name for entry in model.graph.input] == ["input"]
    assert [entry.name for entry in model.graph.output] == ["output"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert str(Path(__file__).parent).encode() not in path.read_bytes()  # no local paths in stack traces
    assert found.bytes == path.stat().st_size
    assert list(tmp_path.iterdir()) == [path]

    again = export_onnx(
        module, (images,), tmp_path / "b.onnx", opset=None, dynamic_batch=True, metadata={"recipe": "abc"}
    )
    assert again.sha256 == found.sha256


def test_fixed_batch_and_opset(tmp_path: Path, images: Tensor) -> None:
    found = export_onnx(net(), (images,), tmp_path / "m.onnx", opset=18, dynamic_batch=False, metadata={})
    assert (found.opset, found.ok) == (18, True)
    assert not has_free_batch(found.path, (0,))
    assert onnx.load(found.path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1


@pytest.mark.parametrize("scale", [1e-9, 1e6])
def test_a_tampered_weight_is_found_at_any_scale(tmp_path: Path, images: Tensor, scale: float) -> None:
    module = net(scale)
    path = tmp_path / "m.onnx"
    assert export_onnx(module, (images,), path, opset=None, dynamic_batch=True, metadata={}).ok
    for name in ("0.weight", "5.weight", "5.bias"):
        model = onnx.load(path)
        tensor = next(each for each in model.graph.initializer if each.name == name)
        values = numpy_helper.to_array(tensor).copy()
        values.flat[0] += 0.1 * abs(values).max()
        tensor.CopyFrom(numpy_helper.from_array(values, name))
        tampered = tmp_path / "tampered.onnx"
        onnx.save(model, tampered)
        assert not check_parity(tampered, module, split_batches((images,), True)).ok, name


def test_ill_conditioned_is_judged_by_its_own_rounding(tmp_path: Path, images: Tensor) -> None:
    class Cancel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 64, 7, padding=3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return (y.sum(dim=(2, 3)) * 1e3 + 3e4) - 3e4  # loses the last digits of every sum

    torch.manual_seed(0)
    module = Cancel().eval()
    found = export_onnx(module, (images,), tmp_path / "m.onnx", opset=None, dynamic_batch=True, metadata={})
    assert found.ok


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> dict[str, object]:
        y = self.net(x)
        return {"scores": y, "more": (y * 2, [y.argmax(1)])}


def test_outputs_of_dicts_and_tuples_are_flattened_under_their_keys(tmp_path: Path, images: Tensor) -> None:
    found = export_onnx(Several(), (images,), tmp_path / "m.onnx", opset=None, dynamic_batch=True, metadata={})
    assert found.ok
    assert [entry.name for entry in onnx.load(found.path).graph.output] == ["scores", "more_0", "more_1_0"]
    one = torch.ones(1)
    assert list(tree_leaves({"a": one, "b": [None, (one, {"c": one})]})) == [one, one, one]


def test_non_finite_is_refused_and_leaves_nothing(tmp_path: Path, images: Tensor) -> None:
    module = net()
    with torch.no_grad():
        module[5].bias[0] = float("nan")  # type: ignore[index, union-attr]
    with raises_error(VerificationFailed, "outputs/non-finite", "m.onnx", "PyTorch"):
        export_onnx(module, (images,), tmp_path / "m.onnx", opset=None, dynamic_batch=True, metadata={})
    assert list(tmp_path.iterdir()) == []


def test_free_batch_the_exporter_refuses_becomes_batch_1(
    tmp_path: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = export.trace_by_dynamo

    def refuse(module: nn.Module, example: tuple[Tensor, ...], free: object, *rest: object) -> object:
        if free:
            raise ExportRefused("no free batch")
        return real(module, example, free, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(export, "trace_by_dynamo", refuse)
    found = export_onnx(net(), (images,), tmp_path / "m.onnx", opset=None, dynamic_batch=True, metadata={})
    assert found.ok
    assert found.notes[0].endswith("a free batch: no free batch")
    assert "with batch 1" in found.notes[-1]
    assert onnx.load(found.path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1


class Untraceable(nn.Module):
    """Branches on its data: torch.export can't, TorchScript's tracing can."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3)) if float(x.sum()) < 1e9 else x.amax(dim=(2, 3))


def test_torchscript_takes_what_dynamo_refuses(
    tmp_path: Path, images: Tensor, capfd: pytest.CaptureFixture[str]
) -> None:
    found = export_onnx(Untraceable(), (images,), tmp_path / "m.onnx", opset=None, dynamic_batch=True, metadata={})
    assert capfd.readouterr() == ("", "")
    assert found.ok
    assert any("torchscript exporter with a free batch" in note for note in found.notes)
    session = onnxruntime.InferenceSession(found.path, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["exporter"] == "torchscript"


def test_what_no_exporter_takes_is_one_line(tmp_path: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> object:
        raise ExportRefused("can't")

    for exporter in ("trace_by_dynamo", "export_by_torchscript"):
        monkeypatch.setattr(export, exporter, refuse)
    with raises_error(ModelError, "export/every-exporter-failed", "m.onnx") as caught:
        export_onnx(net(), (images,), tmp_path / "m.onnx", opset=None, dynamic_batch=True, metadata={})
    assert "\n" not in str(caught.value)


class Windows(nn.Module):
    """Computes its batch as window_reverse of Swin and its followers does, of which a trace takes the number."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        _, c, h, w = x.shape
        windows = self.layer(x.view(-1, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c))
        batch = int(windows.shape[0] / (h * w / 4 / 4))
        assert isinstance(int(16.0), int)
        return windows.view(batch, h * w, c)


class Scaled(nn.Module):
    """A number of the trace changes values, not shapes, of the second of two outputs."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean((2, 3)), x.amax((2, 3)) * int(x.shape[0] / 2.0)


class Fixed(nn.Module):
    """No formula: float() returns nothing but a number."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) * float(x.shape[0])


@pytest.mark.parametrize(
    ("module", "free"), [(Windows(), True), (Scaled(), True), (Fixed(), False)], ids=["windows", "scaled", "fixed"]
)
def test_a_batch_of_which_the_trace_takes_the_number(
    module: nn.Module, free: bool, tmp_path: Path, images: Tensor
) -> None:
    module.eval()
    exporter = export.OnnxExporter((images,), opset=None, dynamic_batch=True)
    for name in ("dense.onnx", "slim.onnx"):
        found = exporter.export(module, tmp_path / name)
        assert found.ok
        assert has_free_batch(found.path, (0,)) == free
        assert "a free batch" in found.notes[0]
        assert ("formula" if free else "with batch 1") in found.notes[-1]
    assert "int" not in globals()


@pytest.mark.parametrize("refuses", [False, True])
def test_files_that_all_differ_are_no_refusals(
    refuses: bool, tmp_path: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def double(model: ir.Model, *_arguments: object) -> None:
        for value in model.graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT:
                value.const_value = ir.tensor(value.const_value.numpy() * 2, name=value.name)

    def refuse(*_arguments: object) -> object:
        raise ExportRefused("can't")

    monkeypatch.setattr(export, "name_tensors", double)
    if refuses:
        monkeypatch.setattr(export, "export_by_torchscript", refuse)
    with raises_error(VerificationFailed, "parity/outputs-differ", "m.onnx", "(1, 3, 8, 8)"):
        export_onnx(net(), (images,), tmp_path / "m.onnx", opset=None, dynamic_batch=True, metadata={})
    assert list(tmp_path.iterdir()) == []


def test_bad_opset_and_bad_folder(tmp_path: Path, images: Tensor) -> None:
    with raises_error(RecipeError, "export/unsupported-opset", "export.opset", "7", "18"):
        export_onnx(net(), (images,), tmp_path / "m.onnx", opset=7, dynamic_batch=True, metadata={})
    with raises_error(RecipeError, "output/not-writable", "m.onnx"):
        export_onnx(net(), (images,), tmp_path / "none" / "m.onnx", opset=18, dynamic_batch=True, metadata={})


def test_weights_over_the_limit_go_beside(tmp_path: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compressor.export.save_onnx.SINGLE_FILE", 100)
    monkeypatch.chdir(tmp_path)
    found = export_onnx(net(), (images,), tmp_path / "m.onnx", opset=None, dynamic_batch=True, metadata={})
    assert found.ok
    assert sorted(each.name for each in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert found.bytes == sum(each.stat().st_size for each in tmp_path.iterdir())
    onnxruntime.InferenceSession(found.path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("n", [1, 2, 3, 5, 40])
def test_batches_hold_every_image_and_several_sizes(n: int) -> None:
    images = torch.arange(n, dtype=torch.float32).reshape(n, 1, 1, 1)
    batches = split_batches((images,), True)
    assert {1, 2} <= {len(batch) for (batch,) in batches}
    assert set(torch.cat([batch for (batch,) in batches]).flatten().tolist()) == set(range(n))
    assert [len(batch) for (batch,) in split_batches((images,), False)] == [1] * n


@pytest.mark.parametrize("dynamic", [True, False])
def test_zeros_around_a_maximum_stay_zeros(tmp_path: Path, images: Tensor, dynamic: bool) -> None:
    """The maximum of negative numbers and padded zeros is 0; ONNX Runtime pools with minus infinity around."""
    module = nn.Sequential(nn.ConstantPad2d(1, 0.0), nn.MaxPool2d(3, 2)).eval()
    negative = -1 - images.abs()
    found = export_onnx(module, (negative,), tmp_path / "m.onnx", opset=None, dynamic_batch=dynamic, metadata={})
    assert found.ok
    assert found.max_abs_error < 1e-30
    (pad,) = (node for node in onnx.load(found.path).graph.node if node.op_type == "Pad")
    assert pad.input[2] == "almost_zero", "not every version of ONNX Runtime takes a zero for minus infinity"


class Clamped(nn.Module):
    """Several pairs of clamps read one value: the optimizer fuses each pair, and gives its bounds equal names."""

    def __init__(self, *pairs: tuple[tuple[float, float], tuple[float, float]]) -> None:
        super().__init__()
        self.pairs = pairs

    def forward(self, x: Tensor) -> Tensor:
        y = 2 * x
        return torch.stack([y.clamp(*first).clamp(*second) for first, second in self.pairs])


INFINITE = float("inf")


@pytest.mark.parametrize(
    "module",
    [
        Clamped(((-1.0, 1.0), (-0.5, 2.0)), ((-3.0, 3.0), (-2.0, 4.0))),
        Clamped(((-1.0, 1.0), (-0.5, 2.0)), ((-3.0, 3.0), (-2.0, 4.0)), ((-INFINITE, 0.1), (-0.2, INFINITE))),
    ],
    ids=["two", "three, with infinite bounds"],
)
def test_fused_clamps_keep_their_bounds(tmp_path: Path, images: Tensor, module: nn.Module) -> None:
    found = export_onnx(module.eval(), (images,), tmp_path / "m.onnx", opset=None, dynamic_batch=False, metadata={})
    assert found.ok
    assert found.notes == ()  # by the first exporter
    assert [node.op_type for node in onnx.load(found.path).graph.node].count("Clip") == len(module.pairs)  # type: ignore[arg-type]
