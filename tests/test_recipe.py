"""Recipes: tables of values and of faults, overrides, and that what is written out reads back."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from failures import raises_error
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.budget.layer_rules import LayerRule
from compressor.budget.target import PruningTarget
from compressor.errors import RecipeError
from compressor.methods import methods
from compressor.methods.earlybird import EarlyBird
from compressor.recipe import Recipe, read_recipe, shipped_recipes
from compressor.recipe.fields import parse_agreement, parse_points, parse_share, write_points, write_share
from compressor.recipe.read import MAX_BYTES
from compressor.recipe.reconstruct_config import ReconstructConfig
from compressor.recipe.yaml_source import dump_yaml, parse_yaml
from compressor.steps.train import Train
from compressor.training.train_settings import OptimizerSettings

Write = Callable[[str], str]

GOOD = """\
version: 1
prune:
  method: l1
  target: {macs: 50%}
retrain:
  epochs: 10
  optimizer: {name: sgd, lr: 1e-2, momentum: 0.9}
  schedule: {name: multistep, milestones: [3, 6], gamma: 0.1, warmup: 1}
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Puts a recipe's text into r.yaml of an empty current folder."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> str:
        (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
        return "r.yaml"

    return write


def faults(name: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        read_recipe(name, overrides)
    assert caught.value.exit_code == 2
    return list(map(str, caught.value.errors))


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("written", "share"),
    [("50%", 0.5), ("50 %", 0.5), ("12.5%", 0.125), (".5%", 0.005), (0.3, 0.3), ("99.99%", 0.9999)],
)
def test_shares(written: object, share: float) -> None:
    assert parse_share(written) == pytest.approx(share, rel=1e-15)


NO_PERCENTAGES = ["0%", "100%", "150%", "-5%", "50", "0.5", "50 percent", "8ms", "%", "", "५०%"]


@pytest.mark.parametrize(
    "written",
    [50, 1, 0, 1.0, 0.0, -0.5, 1.4, math.nan, math.inf, True, None, [0.5], {"share": 0.5}, *NO_PERCENTAGES],
)
def test_what_is_no_share(written: object) -> None:
    with pytest.raises(Exception, match=r"written as 50% or 0\.5"):
        parse_share(written)


@pytest.mark.parametrize(("written", "points"), [("1.0%", 1.0), (1.0, 1.0), (2, 2.0), ("0.25%", 0.25), (0, 0.0)])
def test_percentage_points(written: object, points: float) -> None:
    assert parse_points(written) == points


@pytest.mark.parametrize("written", ["1", "1 point", -1, 101, "101%", True, None, math.nan])
def test_what_are_no_percentage_points(written: object) -> None:
    with pytest.raises(Exception, match="a percentage"):
        parse_points(written)


@pytest.mark.parametrize(("written", "percent"), [("98%", 98.0), (98, 98.0), ("0.98%", 0.98), (1.5, 1.5), (0, 0.0)])
def test_agreements(written: object, percent: float) -> None:
    assert parse_agreement(written) == percent


@pytest.mark.parametrize(("written", "either"), [(0.98, "98% or 0.98%"), (1, "100% or 1%"), (1.0, "100% or 1%")])
def test_an_agreement_that_may_be_a_share_is_refused(written: float, either: str) -> None:
    with pytest.raises(Exception, match=either):
        parse_agreement(written)


@given(st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_shares_read_back(share: float) -> None:
    assert parse_share(write_share(share)) == share


@given(st.floats(0, 100))
def test_points_read_back(points: float) -> None:
    assert parse_points(write_points(points)) == points


# ---------------------------------------------------------------- YAML


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-3", 1e-3),
        ("5.0e-4", 5e-4),
        (".5", 0.5),
        ("010", 10),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("~", None),
        ("", None),
        ("none", "none"),
        ("-.inf", -math.inf),
        (".Inf", math.inf),
        ("+.INF", math.inf),
        ("2020-01-01", "2020-01-01"),
        ("'50'", "50"),
        ("9" * 5000, math.inf),
        ("net.py:make", "net.py:make"),
    ],
)
def test_scalars(written: str, value: object) -> None:
    data = parse_yaml(f"a: {written}", "t").data["a"]
    assert (data, type(data)) == (value, type(value))


@pytest.mark.parametrize("written", [".nan", ".NaN", ".NAN"])
def test_every_spelling_of_nan_is_a_number(written: str) -> None:
    assert math.isnan(parse_yaml(f"a: {written}", "t").data["a"])


def test_places_count_from_one() -> None:
    tree = parse_yaml("a: 1\nb:\n  - c: x\n", "t")
    assert str(tree.place(("b", 0, "c"))) == "t:3:8"
    assert str(tree.place(("b", 0, "c"), of_key=True)) == "t:3:5"
    assert str(tree.place(("b", 0, "missing"))) == "t:3:5"


words = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=12)


@given(st.dictionaries(words, st.one_of(words, st.integers(-10, 10), st.floats(allow_nan=False), st.booleans())))
def test_what_is_dumped_parses_to_the_same(data: dict[str, Any]) -> None:
    assert parse_yaml(dump_yaml(data), "t").data == (data or {})


@given(words)
def test_words_stay_words_for_other_readers_too(word: str) -> None:
    assert yaml.safe_load(dump_yaml({"match": word}))["match"] == word


BOMB = "a: &a [1]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize(
    ("text", "code", "place", "value"),
    [
        ("", "recipe/empty", "r.yaml", ""),
        ("# only a comment\n", "recipe/empty", "r.yaml", ""),
        ("- a\n- b\n", "recipe/not-a-block", "r.yaml:1:1", "['a', 'b']"),
        ("just words", "recipe/not-a-block", "r.yaml:1:1", "'just words'"),
        ("version: [1\n", "recipe/not-yaml", "r.yaml:2:1", ""),
        ("version: 1\n\tprune: x\n", "recipe/not-yaml", "r.yaml:2:1", "'\\t'"),
        ("version: 1\n--- \nversion: 1\n", "recipe/not-yaml", "r.yaml:2:1", ""),
        (BOMB, "recipe/alias", "r.yaml:2:8", ""),
        ("version: !!python/object/apply:os.getcwd []\n", "recipe/tag", "r.yaml:1:10", "os.getcwd"),
        ("a: " + "[" * 50, "recipe/too-deep", "r.yaml:1:20", "16"),
        ("version: 1\nseed: \x07\n", "recipe/forbidden-character", "r.yaml:2:7", "7"),
    ],
)
def test_texts_that_are_no_recipe(write: Write, text: str, code: str, place: str, value: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(write(text))
    error = caught.value
    assert (error.code, error.place, error.more) == (code, place, ())
    assert value in error.problem


@pytest.mark.parametrize(
    ("setting", "word", "key"),
    [("prune.blocks=30", "auto", "drop"), ("prune.blocks=foo", "auto", "drop"), ("reconstruct=oof", "off", "ridge")],
)
def test_a_word_or_a_block_is_one_fault(setting: str, word: str, key: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe("l1", [setting])
    error = caught.value
    assert (error.code, error.place, error.more) == ("recipe/not-allowed", f"--set {setting}", ())
    assert word in error.hint
    assert key in error.hint


def test_an_override_that_spoils_a_block_is_the_place() -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe("l1", ["seed=1", "prune.target.macs="])
    assert (caught.value.place, caught.value.more) == ("--set prune.target.macs=", ())
    with pytest.raises(RecipeError) as caught:
        read_recipe("l1", ["prune.target={}"])
    assert caught.value.place == "--set prune.target={}"


def test_files_that_are_no_recipe(tmp_path: Path, write: Write) -> None:
    large, latin = tmp_path / "large.yaml", tmp_path / "latin.yaml"
    large.write_text("#" * (MAX_BYTES + 1))
    latin.write_bytes(b"version: 1 # caf\xe9\n")
    for name, code, *values in [
        (str(large), "recipe/too-large", "256 KB"),
        (str(latin), "recipe/not-utf-8", "byte 16"),
        (str(tmp_path), "recipe/not-readable", "Is a directory"),
        ("a\0b", "recipe/not-readable"),
        ("quikstart", "recipe/unknown-name", "quikstart", "did you mean quickstart?", "l1-cifar10"),
    ]:
        with raises_error(RecipeError, code, *values):
            read_recipe(name)


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "bom.yaml"
    file.write_text(GOOD, encoding="utf-8-sig")
    assert read_recipe(str(file)).retrain.epochs == 10


# ---------------------------------------------------------------- faults

FAULTS = [
    # (text to replace in GOOD, what with, start of the line)
    ("version: 1", "version: 2", "r.yaml:1:10: version is 2; allowed: 1"),
    ("version: 1", "version: true", "r.yaml:1:10: version is true; "),
    ("version: 1\n", "", "r.yaml:1:1: version is missing; add it"),
    ("retrain:", "retran:", "r.yaml:5:1: retran is not a key; did you mean retrain? allowed: version, model, "),
    ("method: l1", "method: l2", "r.yaml:3:11: prune.method is 'l2'; did you mean l1? allowed: "),
    ("method: l1", "method: [l1]", "r.yaml:3:11: prune.method is ['l1']; allowed: "),
    ("  method: l1\n", "", "r.yaml:3:3: prune.method is missing; add it"),
    ("method: l1", "method: l1\n  l1: {p: 2}", "r.yaml:4:8: prune.l1.p is not a key; allowed: nothing"),
    ("method: l1", "method: l1\n  mine: {}", "r.yaml:4:3: prune.mine is not a key; allowed: method, target, scope, "),
    ("  target: {macs: 50%}\n", "", "r.yaml:3:3: prune.target is missing; add it"),
    (
        "{macs: 50%}",
        "{}",
        "r.yaml:4:11: prune.target is an empty block; allowed: ratio, or one or more of macs, params, weights, ",
    ),
    ("{macs: 50%}", "50%", "r.yaml:4:11: prune.target is '50%'; allowed: a block with the keys ratio, macs, params, "),
    ("{macs: 50%}", "{energy: 50%}", "r.yaml:4:12: prune.target.energy is not a key; allowed: ratio, macs, params, "),
    ("{macs: 50%}", "{mac: 50%}", "r.yaml:4:12: prune.target.mac is not a key; did you mean macs? "),
    (
        "50%",
        "50",
        "r.yaml:4:18: prune.target.macs is 50; allowed: a share, above 0% and below 100%, written as 50% or ",
    ),
    ("50%", "'50'", "r.yaml:4:18: prune.target.macs is '50'; allowed: a share"),
    ("50%", "8ms", "r.yaml:4:18: prune.target.macs is '8ms'; allowed: a share"),
    ("50%", "1.4", "r.yaml:4:18: prune.target.macs is 1.4; allowed: a share"),
    ("50%}", "50%, ratio: 30%}", "r.yaml:4:30: prune.target.ratio is '30%'; allowed: either ratio alone, "),
    ("method: l1", "method: l1\n  scope: globl", "r.yaml:4:10: prune.scope is 'globl'; did you mean global? "),
    ("method: l1", "method: l1\n  round_to: 7", "r.yaml:4:13: prune.round_to is 7; allowed: auto, 1, 4, 8, 16 or 32"),
    ("method: l1", "method: l1\n  round_to: true", "r.yaml:4:13: prune.round_to is true; allowed: a number or "),
    ("method: l1", "method: l1\n  layers: {a: 1}", "r.yaml:4:11: prune.layers is a block; allowed: a list"),
    (
        "method: l1",
        "method: l1\n  layers: [conv1]",
        "r.yaml:4:12: prune.layers.0 is 'conv1'; allowed: a block with the keys ",
    ),
    ("method: l1", "method: l1\n  layers: [{freeze: true}]", "r.yaml:4:12: prune.layers.0.match is missing; "),
    (
        "method: l1",
        "method: l1\n  layers: [{match: ''}]",
        "r.yaml:4:20: prune.layers.0.match is ''; allowed: at least ",
    ),
    (
        "method: l1",
        "method: l1\n  layers: [{match: a, freeze: true, ratio: 30%}]",
        "r.yaml:4:44: prune.layers.0.ratio is '30%'; allowed: no ratio beside freeze: true",
    ),
    ("method: l1", "method: l1\n  layers: [{match: a, freeze: yes}]", "r.yaml:4:31: prune.layers.0.freeze is 'yes'; "),
    ("epochs: 10", "epochs: -1", "r.yaml:6:11: retrain.epochs is -1; allowed: a number at least 0"),
    ("epochs: 10", "epochs: 1.5", "r.yaml:6:11: retrain.epochs is 1.5; allowed: a whole number"),
    ("epochs: 10", "epochs: '10'", "r.yaml:6:11: retrain.epochs is '10'; allowed: a whole number"),
    ("epochs: 10", "epochs: true", "r.yaml:6:11: retrain.epochs is true; allowed: a whole number"),
    (
        "epochs: 10",
        "epochs: 10\n  epochs: 10",
        "r.yaml:7:3: retrain.epochs is set again; it was first set at r.yaml:6:3; ",
    ),
    ("epochs: 10", "epochs: 10\n  batch_size: 0", "r.yaml:7:15: retrain.batch_size is 0; allowed: a number at least 1"),
    (
        "epochs: 10",
        "epochs: 10\n  precision: fp8",
        "r.yaml:7:14: retrain.precision is 'fp8'; allowed: auto, fp32, bf16 or fp16",
    ),
    ("name: sgd", "name: sdg", "r.yaml:7:21: retrain.optimizer.name is 'sdg'; did you mean sgd? allowed: sgd, adam"),
    ("name: sgd", "name: adamw", "r.yaml:7:38: retrain.optimizer.momentum is not a key; allowed: name, lr, weight_d"),
    ("lr: 1e-2", "lr: fast", "r.yaml:7:30: retrain.optimizer.lr is 'fast'; allowed: a number"),
    ("lr: 1e-2", "lr: 0", "r.yaml:7:30: retrain.optimizer.lr is 0; allowed: a number above 0"),
    ("lr: 1e-2", "lr: .inf", "r.yaml:7:30: retrain.optimizer.lr is inf; allowed: a finite number"),
    ("momentum: 0.9", "momentum: 1.5", "r.yaml:7:46: retrain.optimizer.momentum is 1.5; allowed: a number below 1"),
    ("0.9", "0, nesterov: true", "r.yaml:7:59: retrain.optimizer.nesterov is true; allowed: false while momentum is 0"),
    ("[3, 6]", "[6, 3]", "r.yaml:8:43: retrain.schedule.milestones is [6, 3]; allowed: epochs in increasing order"),
    (
        "[3, 6]",
        "[60, 90]",
        "r.yaml:8:43: retrain.schedule.milestones is [60, 90]; allowed: numbers below retrain.epochs, which is 10",
    ),
    ("[3, 6]", "[]", "r.yaml:8:43: retrain.schedule.milestones is []; allowed: at least one"),
    ("[3, 6]", "3", "r.yaml:8:43: retrain.schedule.milestones is 3; allowed: a list"),
    ("warmup: 1", "warmup: 10", "r.yaml:8:71: retrain.schedule.warmup is 10; allowed: less than retrain.epochs, 10"),
    (
        "multistep, milestones: [3, 6]",
        "step, size: 11",
        "r.yaml:8:32: retrain.schedule.size is 11; allowed: a number up to ",
    ),
    ("multistep, milestones: [3, 6]", "step", "r.yaml:8:13: retrain.schedule.size is missing; add it"),
    ("multistep", "cosin", "r.yaml:8:20: retrain.schedule.name is 'cosin'; did you mean cosine? allowed: cosine, "),
    (
        "multistep, milestones: [3, 6], gamma: 0.1",
        "havling",
        "r.yaml:8:20: retrain.schedule.name is 'havling'; did you ",
    ),
    (
        "multistep, milestones: [3, 6], gamma: 0.1",
        "halving, longest: 0",
        "r.yaml:8:38: retrain.schedule.longest is 0; allowed: a number at least 1",
    ),
    (
        "multistep, milestones: [3, 6], gamma: 0.1",
        "halving, end: 1e-6",
        "r.yaml:8:20: retrain.schedule.name is 'halving'; allowed: halving from 0.01 to 1e-06 in retrain.epochs of at "
        "least 16, not 10",
    ),
    (
        "multistep, milestones: [3, 6], gamma: 0.1",
        "halving, end: 0.01",
        "r.yaml:8:34: retrain.schedule.end is 0.01; allowed: below retrain.optimizer.lr, 0.01",
    ),
    (
        "multistep, milestones: [3, 6], gamma: 0.1",
        "lrw, original: {epochs: 9, milestones: [5]}",
        "r.yaml:8:20: retrain.schedule.name is 'lrw'; allowed: lrw in retrain.epochs of at most "
        "schedule.original.epochs, 9, not 10",
    ),
    (
        "multistep, milestones: [3, 6], gamma: 0.1",
        "slr, original: {epochs: 160, milestones: [5, 120]}",
        "r.yaml:8:20: retrain.schedule.name is 'slr'; allowed: slr in more retrain.epochs than 10: the original's ",
    ),
    (
        "multistep, milestones: [3, 6], gamma: 0.1",
        "ft, original: {epochs: 200}",
        "r.yaml:8:34: retrain.schedule.original.milestones is missing; add it",
    ),
    (
        "multistep, milestones: [3, 6], gamma: 0.1",
        "ft, original: {epochs: 200, milestones: [100, 200]}",
        "r.yaml:8:60: retrain.schedule.original.milestones is [100, 200]; allowed: all below the original's epochs",
    ),
    (
        "multistep, milestones: [3, 6], gamma: 0.1",
        "ft, original: {name: cosin, epochs: 200}",
        "r.yaml:8:41: retrain.schedule.original.name is 'cosin'; did you mean cosine? allowed: multistep, cosine",
    ),
    (
        "multistep, milestones: [3, 6], gamma: 0.1",
        "ft, original: {name: cosine, epochs: 200, milestone: [3]}",
        "r.yaml:8:62: retrain.schedule.original.milestone is not a key; allowed: name, epochs, end",
    ),
    (
        "multistep, milestones: [3, 6], gamma: 0.1",
        "clr, original: {epochs: 200}",
        "r.yaml:8:25: retrain.schedule.original is not a key; allowed: name, warmup, rise",
    ),
    (
        "version: 1",
        "version: 1\ndata: {source: parket}",
        "r.yaml:2:16: data.source is 'parket'; did you mean parquet? ",
    ),
    ("version: 1", "version: 1\ndata: {source: net.py}", "r.yaml:2:16: data.source is 'net.py'; allowed: auto, p"),
    (
        "version: 1",
        "version: 1\ndata: {source: torchvision}",
        "r.yaml:2:16: data.source is 'torchvision'; allowed: auto, p",
    ),
    (
        "version: 1",
        "version: 1\ndata: {source: digits, augment: cifra}",
        "r.yaml:2:33: data.augment is 'cifra'; did you mean cifar? ",
    ),
    (
        "version: 1",
        "version: 1\ndata: {source: digits, task: regresion}",
        "r.yaml:2:30: data.task is 'regresion'; did you mean regression? allowed: classification, regression or ",
    ),
    (
        "retrain:",
        "data: {source: a.py:b, task: regression}\nretrain:\n  label_smoothing: 0.1",
        "r.yaml:7:20: retrain.label_smoothing is 0.1; allowed: 0 while data.task is regression",
    ),
    (
        "retrain:",
        "data: {source: a.py:b, task: a.py:c}\nretrain:\n  mixup: 0.2",
        "r.yaml:7:10: retrain.mixup is 0.2; allowed: 0 while data.task is a.py:c",
    ),
    (
        "retrain:",
        "retrain:\n  distill: {labels: false}\n  mixup: 0.2",
        "r.yaml:7:10: retrain.mixup is 0.2; allowed: 0 while retrain.distill.labels is false",
    ),
    (
        "retrain:",
        "retrain:\n  distill: {labels: false}\n  label_smoothing: 0.1",
        "r.yaml:7:20: retrain.label_smoothing is 0.1; allowed: 0 while retrain.distill.labels is false",
    ),
    (
        "retrain:",
        "retrain:\n  distill: {labels: false, weight: 0.9}",
        "r.yaml:6:36: retrain.distill.weight is 0.9; allowed: ",
    ),
    (
        "retrain:",
        "data: {source: digits}\nretrain:\n  keep: best",
        "r.yaml:7:9: retrain.keep is 'best'; allowed: last, or best together with a data.holdout, such as 10%",
    ),
    (
        "retrain:",
        "retrain:\n  keep: best",
        "r.yaml:6:9: retrain.keep is 'best'; allowed: last, or best together with a data.holdout, such as 10%",
    ),
    (
        "version: 1",
        "version: 1\ndata: {source: digits, loss: l1}",
        "r.yaml:2:30: data.loss is 'l1'; allowed: nothing while data.task is classification",
    ),
    (
        "version: 1",
        "version: 1\ndata: {source: digits, task: a.py:b, metric: mae}",
        "r.yaml:2:46: data.metric is 'mae'; allowed: nothing while data.task is a.py:b",
    ),
    (
        "version: 1",
        "version: 1\ndata: {source: digits, holdout: 0}",
        "r.yaml:2:33: data.holdout is 0; allowed: a share",
    ),
    (
        "version: 1",
        "version: 1\ndata: {source: digits, workers: -1}",
        "r.yaml:2:33: data.workers is -1; allowed: auto or a whole number, 0 to 256",
    ),
    ("version: 1", "version: 1\ndata: {source: digits, train: x}", "r.yaml:2:31: data.train is 'x'; allowed: no path"),
    (
        "version: 1",
        "version: 1\ndata: {source: folder, mean: [1]}",
        "r.yaml:2:30: data.mean is [1]; allowed: mean and ",
    ),
    (
        "version: 1",
        "version: 1\ndata: {source: folder, mean: [0], std: [1, 1]}",
        "r.yaml:2:40: data.std is [1, 1]; allowed: as many numbers as mean has, 1",
    ),
    (
        "version: 1",
        "version: 1\ndata: {source: folder, mean: [0], std: [1]}\nmodel: {input: [3, 32, 32]}",
        "r.yaml:2:30: data.mean is [0]; allowed: as many numbers as model.input has channels, 3",
    ),
    (
        "version: 1",
        "version: 1\nmodel: {input: [3, 0]}",
        "r.yaml:2:16: model.input is [3, 0]; allowed: auto, a shape ",
    ),
    ("version: 1", "version: 1\nmodel: {num_classes: 0}", "r.yaml:2:22: model.num_classes is 0; allowed: auto or a "),
    (
        "version: 1",
        "version: 1\nexport: {opset: 12}",
        "r.yaml:2:17: export.opset is 12; allowed: auto or a whole number",
    ),
    ("version: 1", "version: 1\nbench: {target: 5}", "r.yaml:2:17: bench.target is 5; allowed: a word"),
    (
        "version: 1",
        "version: 1\nbench: {batch: [1, 1]}",
        "r.yaml:2:16: bench.batch is [1, 1]; allowed: each batch size ",
    ),
    ("version: 1", "version: 1\ngates: {speedup: 1.3x}", "r.yaml:2:18: gates.speedup is '1.3x'; allowed: a number"),
    (
        "version: 1",
        "version: 1\nbench: {target: none}\ngates: {speedup: 1.3}",
        "r.yaml:3:18: gates.speedup is 1.3; allowed: null while bench.target is none",
    ),
    ("version: 1", "version: 1\nseed: -1", "r.yaml:2:7: seed is -1; allowed: a number at least 0"),
    ("version: 1", "version: 1\nseed: 12345678901234567890", "r.yaml:2:7: seed is 1.2345678901234567e+19; allowed: "),
]


@pytest.mark.parametrize(("old", "new", "line"), FAULTS, ids=[new[-40:] or old for old, new, _ in FAULTS])
def test_each_fault_has_its_place_and_what_is_allowed(write: Write, old: str, new: str, line: str) -> None:
    assert GOOD.count(old) == 1
    (only,) = faults(write(GOOD.replace(old, new)))
    assert only.startswith(f"recipe: {line}")


def test_every_fault_is_told_at_once_in_the_order_of_the_file(write: Write) -> None:
    text = """\
version: 1
prune:
  method: l1
  target: {ratio: 1.4, macs: 40%}
  layers:
    - {match: a, freeze: true, ratio: 50}
  scop: local
retrain:
  epochs: 10
  epochs: 11
  optimizer: {lr: fast}
  schedule: {name: multistep, milestones: [60], warmup: 20}
"""
    lines = faults(write(text), "seed=x", "bench.threads=0")
    places = [line.removeprefix("recipe: ").split(": ")[0] for line in lines]
    assert places == [
        *("r.yaml:4:19", "r.yaml:4:19", "r.yaml:6:39", "r.yaml:6:39", "r.yaml:7:3", "r.yaml:10:3", "r.yaml:11:19"),
        *("r.yaml:12:43", "r.yaml:12:57", "--set bench.threads=0", "--set seed=x"),
    ]


def test_a_block_of_another_method_is_refused(write: Write) -> None:
    (only,) = faults(write(GOOD.replace("method: l1", "method: l1\n  tpp: {epochs: 3}")))
    assert "allowed: no settings of tpp while prune.method is l1" in only


def test_a_recipe_without_channels_to_remove(write: Write) -> None:
    """2of4 alone sets masks: no target, and nothing may be said of how channels go."""
    recipe = read_recipe("2of4")
    assert recipe.prune.target is None
    assert recipe.pruning_target(8).is_empty
    assert Recipe.model_validate(parse_yaml(recipe.to_yaml(), "t").data) == recipe
    (only,) = faults(write(GOOD.replace("method: l1", "method: 2of4").replace("  target: {macs: 50%}\n", "")),
                     "prune.scope=global")  # fmt: skip
    assert only.endswith(
        "prune.scope is 'global'; allowed: nothing while there is no prune.target: no channel is removed"
    )
    with_channels = read_recipe("2of4", ["prune.target={macs: 50%}", "prune.scope=global"])
    assert not with_channels.pruning_target(8).is_empty


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("prune.2of4.pattern=[2, 3]", "prune.2of4.pattern is [2, 3]; allowed: [N, M] with M one of 2, 4, 8, 16 and N "),
        ("prune.2of4.pattern=[4, 4]", "prune.2of4.pattern is [4, 4]; allowed: [N, M] with M one of 2, 4, 8, 16 and N "),
        ("prune.2of4.runtime=tensort-ampere", "prune.2of4.runtime is 'tensort-ampere'; did you mean tensorrt-ampere? "),
        ("prune.2of4.training=srste", "prune.2of4.training is 'srste'; did you mean sr-ste? allowed: fixed or sr-ste"),
        ("prune.2of4.rounds=0", "prune.2of4.rounds is 0; allowed: a number at least 1"),
    ],
)
def test_faults_in_the_settings_of_2of4(override: str, line: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe("2of4", [override])
    assert str(caught.value).startswith(f"recipe: --set {override}: {line}")


def test_without_retraining_a_schedule_outlives_nothing(write: Write) -> None:
    recipe = read_recipe(write(GOOD.replace("epochs: 10", "epochs: 0")))
    assert recipe.train_step() is None


# ---------------------------------------------------------------- --set


SGD = {"name": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": False, "decay_all": True}
ADAMW = {"name": "adamw", "lr": 0.01, "weight_decay": 0.01, "decay_all": False}


@pytest.mark.parametrize(
    ("overrides", "path", "value"),
    [
        (["retrain.epochs=7"], "retrain.epochs", 7),
        (["retrain.epochs=7", "retrain.epochs=8"], "retrain.epochs", 8),
        (["prune.target={params: 40%}"], "prune.target", {"params": "40%"}),
        (["prune.target.params=40%"], "prune.target", {"macs": "50%", "params": "40%"}),
        (["prune.target.ratio=40%"], "prune.target", {"ratio": "40%"}),
        (["prune.target={ratio: 30%}", "prune.target={macs: 40%}"], "prune.target", {"macs": "40%"}),
        (["bench.target=none"], "bench.target", "none"),
        (["data={source: digits}", "data.augment=cifar"], "data.augment", "cifar"),
        (["data.source=path/to/net.py:make"], "data.source", "path/to/net.py:make"),
        (["data.train=a=b.parquet", "data.source=parquet"], "data.train", "a=b.parquet"),
        (["data="], "data", None),
        (["retrain.optimizer={lr: 0.5}"], "retrain.optimizer.name", "sgd"),
        (["retrain.schedule.name=cosine"], "retrain.schedule", {"name": "cosine", "warmup": 1.0, "end": 0.0}),
        (["retrain.schedule.name=lrw"], "retrain.optimizer", {**SGD, "lr": 0.1}),
        (["retrain.schedule={name: ft}"], "retrain.optimizer", {**SGD, "lr": 0.1}),
        (["retrain.schedule.name=halving"], "retrain.optimizer", SGD),
        (["retrain.schedule.name=slr", "retrain.schedule.name=cosine"], "retrain.optimizer", SGD),
        (["retrain.optimizer.lr=0.05", "retrain.schedule.name=lrw"], "retrain.optimizer", {**SGD, "lr": 0.05}),
        (["retrain.schedule.name=lrw", "retrain.optimizer.lr=0.05"], "retrain.optimizer", {**SGD, "lr": 0.05}),
        (["retrain.optimizer={lr: 0.05}", "retrain.schedule.name=lrw"], "retrain.optimizer", {**SGD, "lr": 0.05}),
        (["retrain.optimizer.name=adamw"], "retrain.optimizer", ADAMW),
        (["prune.layers=[{match: a}, {match: b}]", "prune.layers.1.ratio=30%"], "prune.layers.1.ratio", "30%"),
        (["model.input=[1, 8, 8]"], "model.input", [1, 8, 8]),
    ],
    ids=str,
)
def test_overrides(write: Write, overrides: list[str], path: str, value: object) -> None:
    written = parse_yaml(read_recipe(write(GOOD), overrides).to_yaml(), "t")
    assert written.value(tuple(int(part) if part.isdecimal() else part for part in path.split("."))) == value


def test_a_macs_target_drops_the_ratio_of_the_file(write: Write) -> None:
    name = write(GOOD.replace("macs: 50%", "ratio: 50%"))
    target = read_recipe(name, ["prune.target.macs=40%"]).prune.target
    assert (target.ratio, target.macs) == (None, 0.4)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("retrain.epochs", "it is not of the form key.path=value; "),
        ("=5", "it is not of the form key.path=value; "),
        ("a..b=5", "it is not of the form key.path=value; "),
        ("retrain.epoch=5", "retrain.epoch is not a key; did you mean epochs? "),
        ("retran.epochs=5", "retran is not a key; did you mean retrain? "),
        ("prune.target.macs=50", "prune.target.macs is 50; allowed: a share"),
        ("prune.target={ratio: 1%, macs: 1%}", "prune.target.ratio is '1%'; allowed: either ratio alone"),
        ("prune.target={", "it is not valid YAML: "),
        ("prune.target=*a", "an alias (*name) is not allowed; "),
        ("prune.target={macs: 50%, macs: 40%}", "its value contains a key twice; "),
        ("prune.method.x=1", "prune.method is 'l1', not a block; set prune.method as a whole"),
        ("retrain.schedule.milestones.2=9", "retrain.schedule.milestones is a list of 2; use an index from 0"),
        ("retrain.schedule.milestones.1=20", "retrain.schedule.milestones is [3, 20]; allowed: numbers below "),
        ("retrain.schedule.name=step", "retrain.schedule.size is missing; add it"),
        ("retrain.schedule.name=foo", "retrain.schedule.name is 'foo'; allowed: cosine, "),
    ],
)
def test_faults_of_overrides_name_the_override(write: Write, override: str, line: str) -> None:
    (only,) = faults(write(GOOD), override)
    place, _, rest = only.removeprefix("recipe: ").partition(": " + line[:6])
    # Where only a part of a block came from the override, the block in the file is the place.
    assert place in (f"--set {override}", "r.yaml:8:43", "r.yaml:8:13")
    assert (line[:6] + rest).startswith(line)


def test_overrides_that_contradict_each_other_are_refused(write: Write) -> None:
    lines = faults(write(GOOD), "prune.target.ratio=30%", "prune.target.macs=40%")
    assert [line.split("; ")[0] for line in lines] == [
        "recipe: --set prune.target.ratio=30%: prune.target.ratio is '30%'"
    ]
    assert "retrain.schedule.gamma is not a key" in "".join(
        faults(write(GOOD), "retrain.schedule.gamma=0.5", "retrain.schedule.name=cosine")
    )


# ---------------------------------------------------------------- settings of methods


@pytest.mark.parametrize(
    ("recipe", "former", "key", "value"),
    [
        ("earlycrop-s", "counted: true", "count_toward_retraining", True),
        ("earlybird", "counted: false", "count_toward_retraining", False),
        ("earlybird", "drawn: 0.3", "ticket_ratio", 0.3),
        ("earlycrop-u", "when: released", "rule", "paper_code"),
        ("earlycrop-u", "when: squared", "rule", "slides"),
        ("earlycrop-s", "when: fixed", "rule", "fixed_epochs"),
        ("snip", "guard: false", "keep_one_per_layer", False),
        ("snip", "norms: batch", "batchnorm", "train"),
        ("grasp", "norms: running", "batchnorm", "eval"),
        ("force", "course: linear", "schedule", "linear"),
        ("cropit-s", "halvings: 3", "rounds", 5),
        ("snap-it", "halvings: 5", "rounds", 7),
        ("scratch", "equal: flops", "match", "flops"),
        ("tpp", "every: 5", "update_interval", 5),
        ("greg-1", "hold: 0", "hold_iterations", 0),
    ],
)
def test_former_names_of_settings(write: Write, recipe: str, former: str, key: str, value: object) -> None:
    """In a file, in `--set` of one key and in `--set` of the block; what is written has the current name."""
    name, _, former_value = former.partition(": ")
    file = parse_yaml(read_recipe(recipe, [f"prune.{recipe}={{}}"]).to_yaml(), "t").data
    del file["prune"][recipe][key]
    file["prune"][recipe][name] = parse_yaml(former_value, "t").data
    written = (
        read_recipe(write(dump_yaml(file))),
        read_recipe(recipe, [f"prune.{recipe}.{name}={former_value}"]),
        read_recipe(recipe, [f"prune.{recipe}={{{former}}}"]),
    )
    for recipe_written in written:
        settings = yaml.safe_load(recipe_written.to_yaml())["prune"][recipe]
        assert settings[key] == value
        assert name not in settings
        assert type(settings[key]) is type(value)


def test_a_former_name_set_later_wins_over_the_current_one_and_the_other_way_round(write: Write) -> None:
    former, current = "prune.earlycrop-s.counted=true", "prune.earlycrop-s.count_toward_retraining=false"
    for overrides, expected in (([former, current], False), ([current, former], True)):
        settings = yaml.safe_load(read_recipe("earlycrop-s", overrides).to_yaml())["prune"]["earlycrop-s"]
        assert settings["count_toward_retraining"] is expected


def test_a_setting_with_both_of_its_names_is_refused(write: Write) -> None:
    text = GOOD.replace("method: l1", "method: tpp\n  tpp: {every: 5, hold: 1.5, update_interval: 6}")
    lines = faults(write(text))
    assert [line.removeprefix("recipe: ").split(": ")[0] for line in lines] == ["r.yaml:4:9", "r.yaml:4:25"]
    assert "prune.tpp.every" in lines[0]
    assert "prune.tpp.hold_iterations is 1.5" in lines[1]


@pytest.mark.parametrize(
    "override", ["prune.imp.halvings=3", "prune.gatedecorators.update_interval=3", "prune.tpp.when=fixed"]
)
def test_a_former_name_is_only_known_where_the_setting_is(override: str) -> None:
    (line,) = faults(override.split(".")[1], override)
    assert f"{override.partition('=')[0]} is not a key" in line


def test_settings_that_methods_share_are_keys_beside_their_own() -> None:
    schema = Recipe.json_schema()["$defs"]
    early, bird = (schema[name]["properties"] for name in ("EarlyCropS", "EarlyBird"))
    assert {"start", "epochs", "lr", "rule", "patience", "score"} <= early.keys()
    assert not {"training", "stop", "counted"} & early.keys()
    assert [block["epochs"]["default"] for block in (early, bird)] == [100, 80]
    method = read_recipe("earlybird", ["prune.earlybird={lr: 0.3, masks: 4}"]).method
    assert isinstance(method, EarlyBird)
    assert (method.masks, method.training.lr, method.training.epochs, method.training.clip) == (4, 0.3, 80, None)
    (line,) = faults("earlybird", "prune.earlybird.training={lr: 0.3}")
    assert "prune.earlybird.training is not a key" in line


# ---------------------------------------------------------------- out again

shares = st.floats(0.001, 0.999)
positive = st.floats(1e-6, 100)
epochs = st.integers(10, 50)
originals = st.one_of(
    st.fixed_dictionaries({"epochs": st.just(90), "milestones": st.just([30, 60.5])}, optional={"gamma": shares}),
    st.fixed_dictionaries({"name": st.just("cosine"), "epochs": st.just(90)}, optional={"end": shares}),
)
optional = {
    "model": st.fixed_dictionaries(
        {},
        optional={
            "arch": words.filter(bool),
            "num_classes": st.one_of(st.just("auto"), st.integers(1, 1000)),
            "input": st.lists(st.integers(1, 512), min_size=3, max_size=3),
        },
    ),
    "data": st.one_of(
        st.none(),
        st.fixed_dictionaries(
            {"source": st.sampled_from(["folder", "parquet", "a b/net.py:make"])},
            optional={
                "train": words.filter(bool),
                "augment": st.sampled_from(["cifar", "none", "imagenet"]),
                "task": st.sampled_from(["classification", "regression", "a b/net.py:task"]),
                "holdout": shares,
                "workers": st.one_of(st.just("auto"), st.integers(0, 8)),
            },
        ),
    ),
    "export": st.fixed_dictionaries({}, optional={"opset": st.integers(18, 23), "dynamic_batch": st.booleans()}),
    "bench": st.fixed_dictionaries({}, optional={"seconds": positive, "batch": st.just([1, 8])}),
    "gates": st.fixed_dictionaries({}, optional={"accuracy_drop": st.floats(0, 100), "speedup": positive}),
    "seed": st.integers(0, 2**32 - 1),
}
channels = st.fixed_dictionaries(
    {
        "method": st.sampled_from([name for name, method in methods().items() if not method.unstructured]),
        "target": st.one_of(
            st.fixed_dictionaries({"ratio": shares}),
            st.fixed_dictionaries({"macs": shares}, optional={"params": shares}),
        ),
    },
    optional={
        "scope": st.sampled_from(["local", "global"]),
        "round_to": st.sampled_from(["auto", 1, 4, 8, 16, 32]),
        "layers": st.lists(
            st.fixed_dictionaries({"match": words.filter(bool)}, optional={"ratio": shares}), max_size=3
        ),
    },
)
single_weights = st.fixed_dictionaries(
    {
        "method": st.sampled_from([name for name, method in methods().items() if method.unstructured]),
        "target": st.fixed_dictionaries({"weights": shares}),
    },
    optional={"layers": st.lists(st.fixed_dictionaries({"match": words.filter(bool)}), max_size=3)},
)
recipes = st.fixed_dictionaries(
    {
        "version": st.just(1),
        "prune": st.one_of(channels, single_weights),
        "retrain": st.fixed_dictionaries(
            {"epochs": epochs},
            optional={
                "optimizer": st.one_of(
                    st.fixed_dictionaries({"name": st.just("adamw"), "lr": positive}),
                    st.fixed_dictionaries({"lr": positive, "momentum": shares, "nesterov": st.booleans()}),
                ),
                "schedule": st.one_of(
                    st.fixed_dictionaries({"name": st.sampled_from(["cosine", "constant", "onecycle"])}),
                    st.fixed_dictionaries({"name": st.just("multistep"), "milestones": st.just([0.5, 9])}),
                    st.fixed_dictionaries({"name": st.sampled_from(["ft", "lrw", "slr", "clr", "polynomial"])}),
                    st.fixed_dictionaries(
                        {"name": st.sampled_from(["ft", "lrw", "slr"]), "original": originals},
                        optional={"warmup": shares},
                    ),
                    st.fixed_dictionaries({"name": st.just("step"), "size": st.integers(1, 10), "gamma": shares}),
                ),
            },
        ),
    },
    optional=optional,
)


@settings(max_examples=60, deadline=None)
@given(recipes)
def test_what_is_written_out_reads_back(data: dict[str, Any]) -> None:
    recipe = Recipe.model_validate(data)
    text = recipe.to_yaml()
    again = Recipe.model_validate(parse_yaml(text, "t").data)
    assert again == recipe
    assert again.to_yaml() == text


def test_every_default_is_written_out() -> None:
    written = parse_yaml(read_recipe("l1").to_yaml(), "t").data
    assert set(written) == set(Recipe.model_fields)
    assert written["retrain"]["optimizer"]["nesterov"] is False
    assert written["bench"] == {"target": "local", "threads": "auto", "batch": [1], "seconds": 6.0}


@pytest.mark.parametrize("name", ["earlybird", "earlycrop-s", "gatedecorators", "greg-2", "tpp"])
def test_hints_name_the_learning_rate_of_the_method(name: str) -> None:
    recipe = read_recipe(name)
    own = [step.optimizer.key for step in recipe.method_steps() if isinstance(step, Train)]
    assert set(own) == {f"prune.{name}.lr"}
    retraining = recipe.train_step()
    assert retraining is None or retraining.optimizer.key == "retrain.optimizer.lr"


def test_the_steps_of_a_recipe(write: Write) -> None:
    recipe = read_recipe(write(GOOD), ["prune.layers=[{match: a*, freeze: true}, {match: b, ratio: 30%}, {match: c}]"])
    assert recipe.pruning_target(8) == PruningTarget(
        macs=0.5,
        round_to=8,
        allow_finer_rounding=True,
        rules=(LayerRule("a*", freeze=True), LayerRule("b", ratio=0.3), LayerRule("c")),
    )
    assert [str(step) for step in recipe.method.steps(recipe.pruning_target())] == [
        "SelectChannels(l1)",
        "RemoveChannels",
    ]
    train = recipe.train_step()
    assert train is not None
    assert (train.epochs, train.optimizer) == (10, OptimizerSettings("sgd", 0.01, 0.9, 5e-4))
    # Warm-up over the first epoch, then 1, 0.1 from epoch 3, 0.01 from epoch 6.
    assert [round(train.schedule(t), 9) for t in (0, 0.5, 1, 2.9, 3, 6, 9.9)] == [0, 0.5, 1, 1, 0.1, 0.01, 0.01]


@pytest.mark.parametrize(
    ("schedule", "factors"),  # at 0, 5 and 10 of 10 epochs
    [
        ("{name: constant}", (1, 1, 1)),
        ("{name: cosine}", (1, 0.5, 0)),
        ("{name: cosine, end: 0.5}", (1, 0.75, 0.5)),
        ("{name: step, size: 5, gamma: 0.2}", (1, 0.2, 0.04)),
        ("{name: onecycle, rise: 0.5, start: 0.1, end: 0.0}", (0.1, 1, 0)),
        ("{name: polynomial, power: 2.0, end: 0.2}", (1, 0.4, 0.2)),
        ("{name: halving, end: 1e-3, longest: 4}", (1, 0.1, 0.1)),
        ("{name: constant, warmup: 5}", (0, 1, 1)),
        ("{name: clr, rise: 0.5}", (0.01, 1, 1e-4)),
        ("{name: ft}", (0.01, 0.01, 0.01)),
        ("{name: ft, original: {epochs: 30, milestones: [20], gamma: 0.5}}", (0.5, 0.5, 0.5)),
        ("{name: lrw, original: {epochs: 20, milestones: [12, 16], gamma: 0.5}}", (1, 0.5, 0.25)),
        ("{name: lrw, original: {name: cosine, epochs: 20, end: 0.5}}", (0.75, 0.5 + (1 - 0.5**0.5) / 4, 0.5)),
        ("{name: slr}", (0.01, 0.1, 0.01)),  # one epoch of rise, drops at 1 + 4 and 1 + 6
        ("{name: slr, rise: 0.0}", (1, 0.1, 0.01)),
        ("{name: slr, rise: 0.0, original: {name: cosine, epochs: 90}}", (1, 0.5, 0)),
    ],
)
def test_schedules_get_their_settings(write: Write, schedule: str, factors: tuple[float, ...]) -> None:
    train = read_recipe(write(GOOD), [f"retrain.schedule={schedule}"]).train_step()
    assert train is not None
    assert [train.schedule(t) for t in (0, 5, 10)] == pytest.approx(factors)


def test_a_name_alone_repeats_the_cifar_training(write: Write) -> None:
    """Le and Hua's: 160 epochs from 0.1, a tenth from 80 on, a hundredth from 120 on."""
    text = GOOD.replace("lr: 1e-2, ", "").replace("multistep, milestones: [3, 6], gamma: 0.1, warmup: 1", "NAME")

    def rates(name: str) -> list[float]:
        train = read_recipe(write(text.replace("NAME", name)), ["retrain.epochs=56"]).train_step()
        assert train is not None
        return [train.optimizer.lr * train.schedule(t) for t in range(56)]

    assert rates("ft") == pytest.approx([0.001] * 56)
    assert rates("lrw") == pytest.approx([0.01] * 16 + [0.001] * 40)
    assert rates("slr")[5:] == pytest.approx([0.1] * 25 + [0.01] * 12 + [0.001] * 14)
    assert rates("slr")[0] == pytest.approx(0.001)
    assert rates("clr")[0] == pytest.approx(0.001)
    assert rates("cosine")[0] == pytest.approx(0.01)


def test_json_schema_says_what_an_editor_needs() -> None:
    schema = Recipe.json_schema()
    json.dumps(schema)
    blocks = schema["$defs"]
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["version", "prune"]
    assert blocks["Prune"]["required"] == ["method"]
    assert blocks["Prune"]["properties"]["l1"]
    percent, number, _ = blocks["TargetConfig"]["properties"]["macs"]["anyOf"]
    assert percent["pattern"].startswith("^(")
    assert number == {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    kinds = blocks["RetrainConfig"]["properties"]["schedule"]["discriminator"]["mapping"]
    names = "constant step multistep cosine onecycle polynomial halving ft lrw slr clr"
    assert set(kinds) == set(names.split())


# ---------------------------------------------------------------- shipped


def test_recipes_that_ship() -> None:
    assert {"quickstart", "l1", "l1-cifar10"} <= shipped_recipes().keys()


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_opens_with_its_command_and_is_right(name: str) -> None:
    first = shipped_recipes()[name].read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# compress ")
    assert f"--recipe {name} " in f"{first} "
    recipe = read_recipe(name)
    assert recipe.retrain.epochs > 0 or isinstance(recipe.reconstruct, ReconstructConfig), (
        "something recovers the model"
    )
    assert recipe.method.name in methods()


def test_the_literatures_setting() -> None:
    recipe = read_recipe("l1-cifar10")
    selection = recipe.pruning_target()
    assert (selection.ratio, recipe.prune.round_to) == (0.5, 1)
    assert selection.rules == (LayerRule("layer*.conv1"), LayerRule("*", freeze=True))
    long = ["retrain.epochs=120", "retrain.schedule={name: multistep, milestones: [60, 90], gamma: 0.1}"]
    train = read_recipe("l1-cifar10", long).train_step()
    assert train is not None
    assert train.schedule(119) == pytest.approx(0.01)


def test_a_shipped_name_wins_over_a_file(write: Write, tmp_path: Path) -> None:
    (tmp_path / "l1").write_text(GOOD.replace("50%", "30%"))
    assert read_recipe("l1").prune.target.macs == 0.5
    assert read_recipe("./l1").prune.target.macs == 0.3
