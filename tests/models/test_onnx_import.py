"""ONNX files as models: the module computes what the file does, has the same groups, and goes back into the file."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from failures import raises_error
from onnx import helper
from onnx_models import export, model_of, prunable
from torch import Tensor, nn

from compressor import cli
from compressor.bench.device.device import Device
from compressor.bench.device_timer import latency_probe
from compressor.core import PrunePlan, ignore_event
from compressor.errors import ModelError, VerificationFailed
from compressor.models.onnx_import import read_graph
from compressor.models.onnx_import.host import evaluate_on_host
from compressor.models.onnx_import.node import Node
from compressor.models.onnx_import.write_back import write_module
from compressor.models.source import load_model
from compressor.recipe import read_recipe
from compressor.surgery.analysis import analyze
from compressor.surgery.certificate import certify_removal
from compressor.surgery.removal import remove_channels


class Net(nn.Module):
    """A convolution with BatchNorm, a channel split, a residual block, and a head behind a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.conv3 = nn.Conv2d(16, 12, 3, stride=2)
        self.fc1, self.fc2 = nn.Linear(12 * 9, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = x + self.conv2(x).sigmoid()
        return self.fc2(self.fc1(self.conv3(x).flatten(1)).relu())


class Attention(nn.Module):
    """One block of a transformer, with attention in primitive operators."""

    def __init__(self, width: int = 24, heads: int = 3) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.embed = nn.Linear(6, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        batch, count, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(batch, count, 3, self.heads, 8).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * 8**-0.5).softmax(-1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(batch, count, self.heads * 8))
        return self.head((x + self.mlp(self.norm2(x))).mean(1))


class Heads(nn.Module):
    """Attention whose q, k and v are layers of their own, and a bidirectional LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.q, self.k, self.v, self.out = (nn.Linear(a, 24) for a in (6, 24, 24, 24, 24))
        self.lstm, self.head = nn.LSTM(24, 10, bidirectional=True, batch_first=True), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = (layer(x).reshape(x.shape[0], 7, 3, 8).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape[0], 7, 24)
        return self.head(self.lstm(x + self.out(mixed))[0])


class Decoder(nn.Module):
    """GroupNorm, a transposed convolution, padding, a slice, PReLU and a resize."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 16, 3, 2, 1), nn.GroupNorm(4, 16), nn.Conv2d(16, 24, 3, 2, 1)
        self.up, self.c = nn.ConvTranspose2d(24, 16, 2, 2), nn.Conv2d(16, 12, 3, padding=1, padding_mode="reflect")
        self.act, self.d = nn.PReLU(12), nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.hardswish(self.norm(self.a(x)))
        y = y + self.up(nn.functional.gelu(self.b(y), approximate="tanh"))
        y = self.act(self.c(nn.functional.pad(y, (0, 1, 0, 1))[:, :, :-1, :-1]))
        return nn.functional.interpolate(self.d(y), size=x.shape[-2:], mode="bilinear")


@pytest.fixture(scope="module")
def net_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return export(Net(), (3, 8, 8), tmp_path_factory.mktemp("net") / "net.onnx")


@pytest.mark.parametrize(
    ("module", "shape", "opset"), [(Net(), (3, 8, 8), 11), (Attention(), (7, 6), 13), (Attention(), (7, 6), 17)]
)
def test_groups_of_the_file_are_those_of_the_module(
    module: nn.Module, shape: tuple[int, ...], opset: int, tmp_path: Path
) -> None:
    path = export(module, shape, tmp_path / "m.onnx", opset=opset)
    loaded = load_model(str(path))
    assert [one.shape for one in loaded.spec.inputs] == [shape]
    x = torch.randn(1, *shape)
    assert prunable(loaded.module, x) == prunable(module, x)


@pytest.mark.parametrize(("module", "shape"), [(Heads(), (7, 6)), (Decoder(), (3, 16, 16))], ids=["heads", "decoder"])
def test_half_of_every_group_is_removed_from_the_file(
    module: nn.Module, shape: tuple[int, ...], tmp_path: Path
) -> None:
    path = export(module, shape, tmp_path / "m.onnx")
    x = torch.randn(1, *shape)
    loaded = load_model(str(path)).module
    graph = analyze(loaded, x, name="it")
    free = [group for group in graph.groups if group.frozen is None]
    plan = PrunePlan({group.name: np.arange(group.size) % 2 == 0 for group in free})
    slim = remove_channels(loaded, graph, plan)
    assert certify_removal(loaded, slim, graph, plan, x).ok
    found_in_code = prunable(module, x)  # heads are more than that: their number is a constant of the code
    assert sorted(group.size for group in free) == (
        found_in_code if isinstance(module, Decoder) else [3, *found_in_code]
    )
    session = onnxruntime.InferenceSession(write_module(slim, path, [x], {}).SerializeToString())
    with torch.no_grad():
        expected = slim(x).numpy()
    assert np.allclose(session.run(None, {"pixels": x.numpy()})[0], expected, atol=1e-5)


def test_layers_are_real_and_have_the_names_of_the_original(net_file: Path) -> None:
    module = load_model(str(net_file)).module
    layers = {name: type(part) for name, part in module.named_modules() if any(True for _ in part.parameters(False))}
    assert layers == {
        "conv1": nn.Conv2d,
        "conv2": nn.Conv2d,
        "conv3": nn.Conv2d,
        "fc1": nn.Linear,
        "fc2": nn.Linear,
    }


def test_a_run_gives_back_the_file_with_smaller_weights(net_file: Path, tmp_path: Path) -> None:
    given = onnx.load(net_file)
    given.metadata_props.add(key="labels", value="a,b,c,d,e")
    onnx.save(given, tmp_path / "net.onnx")
    out, again = tmp_path / "out", tmp_path / "again"
    half = ["-r", "l1", "--set", "prune.target={macs: 50%}", "--target", "none", "-q"]
    assert cli.run([str(tmp_path / "net.onnx"), *half, "-o", str(out)]) == 0
    assert (out / "dense.onnx").read_bytes() == (tmp_path / "net.onnx").read_bytes()
    slim = onnx.load(out / "model.onnx")
    assert (slim.graph.input[0], slim.graph.output[0]) == (given.graph.input[0], given.graph.output[0])
    assert {one.key: one.value for one in slim.metadata_props}["labels"] == "a,b,c,d,e"
    assert slim.opset_import[0].version == given.opset_import[0].version
    report = json.loads((out / "report.json").read_text())
    assert report["certificate"]["ok"]
    assert report["onnx"]["ok"]
    assert report["ratios"]["macs"] >= 2
    (tmp_path / "net.onnx").unlink()  # the folder holds what is needed to build the module
    assert cli.run(["verify", str(out), "-q"]) == 0
    assert (
        cli.run([str(out), "-r", "l1", "--set", "prune.target={macs: 30%}", "--target", "none", "-o", str(again)]) == 0
    )
    assert cli.run(["verify", str(again), "-q"]) == 0


def test_a_latency_search_times_the_given_file(net_file: Path, tmp_path: Path) -> None:
    """Shares of latency are of what the user has, and not of our file of the same module."""
    model = load_model(str(net_file))
    probe = latency_probe(read_recipe("l1", []), Device(), model, ignore_event)
    assert probe is not None
    probe.export(model.module, tmp_path / "dense.onnx")
    probe.export(copy.deepcopy(model.module), tmp_path / "other.onnx")
    given = net_file.read_bytes()
    assert ((tmp_path / "dense.onnx").read_bytes() == given, (tmp_path / "other.onnx").read_bytes() == given) == (
        True,
        False,
    )


def test_sizes_that_the_file_fixes_follow_the_widths(tmp_path: Path) -> None:
    """Heads are removed: the sizes in the file's Reshapes are rewritten, and the slim file runs."""
    torch.manual_seed(0)
    path = export(Attention(), (7, 6), tmp_path / "m.onnx", dynamic=False)
    out = tmp_path / "out"
    settings = ["--set", "prune.target={macs: 60%}", "--set", "prune.round_to=1", "--target", "none", "-q"]
    assert cli.run([str(path), "-r", "l1", *settings, "-o", str(out)]) == 0
    kept = json.loads((out / "plan.json").read_text())["kept"]
    assert any("qkv" in name for name in kept)
    session = onnxruntime.InferenceSession(out / "model.onnx")
    assert session.run(None, {"pixels": np.zeros((1, 7, 6), np.float32)})[0].shape == (1, 4)


def test_inspect_and_plan(net_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["inspect", str(net_file), "--json", "-q"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["num_classes"], record["input"], record["not_prunable"]) == (5, [3, 8, 8], None)
    assert record["eligible"] >= 0
    assert cli.run(["plan", str(net_file), "-r", "l1", "--target", "none", "--json", "-q"]) == 0


EYE = np.eye(4, dtype=np.float32)
NODE = helper.make_node


@pytest.mark.parametrize(
    ("model", "code", "place"),
    [
        (model_of(NODE("Relu", ["a"], ["b"], "one"), NODE("Relu", ["b"], ["a"], "two")), "inconsistent", "m.onnx"),
        (model_of(NODE("Relu", ["nowhere"], ["y"])), "inconsistent", "m.onnx"),
        (model_of(NODE("Own", ["x"], ["y"], "mine", domain="own")), "unsupported-operator", "mine"),
        (
            model_of(NODE("Unsqueeze", ["x", "at"], ["y"], "far"), weights={"at": np.array([9])}),
            "cannot-run",
            "m.onnx",
        ),
        (model_of(NODE("DequantizeLinear", ["x", "x"], ["y"])), "quantized", "m.onnx"),
        (
            model_of(NODE("MatMul", ["x", "w"], ["y"]), weights={"w": np.zeros((4, 0), np.float32)}),
            "inconsistent",
            "m.onnx",
        ),
        (
            model_of(NODE("MatMul", ["x", "w"], ["y"]), weights={"w": EYE.astype(ml_dtypes.bfloat16)}),
            "bfloat16",
            "m.onnx",
        ),
    ],
    ids=["cyclic", "unconnected", "custom", "invalid", "quantized", "empty", "bfloat16"],
)
def test_graphs_that_cannot_be_imported_are_refused(
    model: onnx.ModelProto, code: str, place: str, tmp_path: Path
) -> None:
    onnx.save(model, tmp_path / "m.onnx")
    with raises_error(ModelError, f"onnx-model/{code}", place):
        load_model(str(tmp_path / "m.onnx"))


def test_statistics_of_batch_norm_are_those_of_the_file(tmp_path: Path) -> None:
    weights = {name: np.full(4, value, np.float32) for name, value in (("s", 2.0), ("b", 1.0), ("m", 3.0), ("v", 4.0))}
    node = NODE("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], epsilon=0.0)
    onnx.save(model_of(node, weights=weights), tmp_path / "m.onnx")
    loaded = load_model(str(tmp_path / "m.onnx"))
    assert torch.equal(loaded.module(torch.full((2, 4), 5.0)), torch.full((2, 4), 3.0))
    (norm,) = (part for part in loaded.module.modules() if isinstance(part, nn.BatchNorm1d))
    assert norm.running_mean is not None
    assert norm.running_mean.tolist() == [3.0] * 4


@pytest.mark.parametrize(("operator", "bound"), [("ReduceMax", "Max"), ("ReduceMin", "Min")])
def test_the_extreme_of_no_entries_is_infinite_as_in_the_runtime(operator: str, bound: str, tmp_path: Path) -> None:
    """As of the boxes of an image in which a detector finds nothing."""
    model = model_of(
        helper.make_node("Slice", ["x", "none", "none"], ["rows"]),
        helper.make_node(operator, ["rows"], ["extreme"], axes=[0], keepdims=0),
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node(bound, ["z", "extreme"], ["y"]),
        weights={"none": np.zeros(1, np.int64), "w": np.eye(4, dtype=np.float32)},
    )
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    x = torch.randn(3, 4)
    torch.testing.assert_close(load_model(str(path)).module(x), x)


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (NODE("Einsum", ["x", "w"], ["y"], equation="nc,cd->nd"), [[3.0, 1.0, 2.0, 4.0]]),
        (NODE("Mean", ["x", "row"], ["y"]), [[1.0, 1.5, 2.0, 2.5]]),
    ],
    ids=["einsum", "mean"],
)
def test_small_constants_are_operands_of_tensors(node: onnx.NodeProto, expected: object, tmp_path: Path) -> None:
    """Constants of few entries are read as numbers on the host, where they may be sizes."""
    weights = {"w": np.eye(4, dtype=np.float32)[[1, 2, 0, 3]], "row": np.ones(4, np.float32)}
    onnx.save(model_of(node, weights=weights), tmp_path / "m.onnx")
    assert load_model(str(tmp_path / "m.onnx")).module(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).tolist() == expected


def test_weights_that_are_not_there_are_not_allocated(tmp_path: Path) -> None:
    model = model_of(NODE("MatMul", ["x", "w"], ["y"]), weights={"w": EYE})
    model.graph.initializer[0].dims[:] = [4, 2**40]
    onnx.save(model, tmp_path / "m.onnx")
    with raises_error(ModelError, "onnx-model/weights-truncated", "m.onnx"):
        load_model(str(tmp_path / "m.onnx"))
    shape = np.array([2**20, 2**20], np.int64)
    huge = model_of(NODE("ConstantOfShape", ["s"], ["w"]), NODE("MatMul", ["x", "w"], ["y"]), weights={"s": shape})
    onnx.save(huge, tmp_path / "m.onnx")
    with raises_error(ModelError, "onnx-model/unsupported-operator", "ConstantOfShape"):
        load_model(str(tmp_path / "m.onnx"))


@pytest.mark.parametrize(
    ("shape", "sizes", "result"),
    [((1, 900, 900), [1, 900, 900], (1, 900, 900)), ((900, 1), [2, 1, 900], (2, 900, 900)), ((3,), [], (3,))],
)
def test_a_constant_is_expanded_by_broadcasting(shape: tuple[int, ...], sizes: list[int], result: object) -> None:
    """The first has 810,000 entries before and after; the product of both would be refused."""
    node = Node("Expand", "", "expand", ("a", "b"), ("c",), opset=17)
    array = np.ones(shape, np.float32)
    assert evaluate_on_host(node, [array, np.array(sizes, np.int64)]).shape == result


def test_a_constant_that_would_fill_the_memory_is_refused() -> None:
    node = Node("Expand", "", "expand", ("a", "b"), ("c",), opset=17)
    with raises_error(ModelError, "onnx-model/unsupported-operator", "100000000000 entries"):
        evaluate_on_host(node, [np.ones((1, 10), np.float32), np.array([10**10, 1], np.int64)])


def test_weights_that_are_not_numbers(tmp_path: Path) -> None:
    weights = {"w": EYE * np.float32(np.nan)}
    onnx.save(model_of(NODE("MatMul", ["x", "w"], ["y"]), weights=weights), tmp_path / "m.onnx")
    with raises_error(VerificationFailed, "weights/non-finite", "w"):
        load_model(str(tmp_path / "m.onnx"))


@pytest.mark.parametrize("location", ["../w.bin", "w.bin\0"])
def test_a_path_out_of_the_folder_is_refused(location: str, tmp_path: Path) -> None:
    model = model_of(NODE("MatMul", ["x", "w"], ["y"]), weights={"w": np.zeros((4, 4), np.float32)})
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    model.graph.initializer[0].external_data[0].value = location
    onnx.save(model, tmp_path / "m.onnx")
    with raises_error(ModelError, "onnx-model/weights-outside-folder", "m.onnx"):
        load_model(str(tmp_path / "m.onnx"))


def test_external_weights_are_read(tmp_path: Path) -> None:
    model = model_of(NODE("MatMul", ["x", "w"], ["y"]), weights={"w": 2 * EYE})
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert torch.equal(load_model(str(tmp_path / "m.onnx")).module(torch.ones(1, 4)), torch.full((1, 4), 2.0))
    (tmp_path / "w.bin").write_bytes(b"\0" * 8)
    with raises_error(ModelError, "onnx-model/weights-truncated", "m.onnx"):
        load_model(str(tmp_path / "m.onnx"))


def test_a_file_that_is_cut_off(net_file: Path, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(net_file.read_bytes()[:-2000])
    with raises_error(ModelError, "onnx-model/not-onnx", "m.onnx"):
        load_model(str(tmp_path / "m.onnx"))


def test_nodes_in_any_order_are_sorted_as_passes_over_the_file_do_and_each_is_read_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A chain in reverse takes as many passes as it has nodes: a hostile file would keep the reader busy for hours."""
    reads: list[str] = []

    def counted(node: onnx.NodeProto) -> list[str]:
        reads.append(node.name)
        return list(node.input)

    monkeypatch.setattr(read_graph, "read_names", counted)
    random = np.random.default_rng(0)
    for count in (1, 5, 40):
        for order in (random.permutation(count), range(count)[::-1]):
            sources = [random.integers(0, index + 1, 2).tolist() for index in range(count)]
            nodes = [NODE("Add", [f"v{a}", f"v{b}"], [f"v{i + 1}"], f"n{i}") for i, (a, b) in enumerate(sources)]
            given = [nodes[index] for index in order]
            model = helper.make_model(helper.make_graph(given, "g", [], []))
            model.graph.input.add(name="v0")
            reads.clear()
            names = [node.name for node in read_graph._ordered(model, Path("m.onnx"))]
            assert len(reads) == count
            known, expected = {"v0"}, list[str]()
            while len(expected) < count:
                for node in given:
                    if node.name not in expected and known.issuperset(node.input):
                        expected.append(node.name)
                        known.update(node.output)
            assert names == expected
