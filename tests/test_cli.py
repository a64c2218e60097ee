"""The command line: which words mean what, one line for each failure, exit codes, and what may be imported when."""

from __future__ import annotations

import errno
import importlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

import compressor
from compressor import cli, errors
from compressor.cli.commands import command_line
from compressor.cli.exit_report import Terminated, as_compressor_error, one_line
from compressor.core import EventSink
from compressor.preflight import default_folder
from compressor.progress import progress_reporter
from compressor.recipe import Recipe, read_recipe, shipped_recipes
from compressor.run_options import RunOptions

Calls = list[tuple[str, tuple[Any, ...], dict[str, Any]]]
MODEL = "cifar:resnet8@digits"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Calls:
    """Stand-ins for what the verbs call; with what they were called. The current folder is empty."""
    monkeypatch.chdir(tmp_path)
    made: Calls = []

    def compress(source: str, recipe: Recipe, folder: Path, options: RunOptions) -> dict[str, Any]:
        options.emit("stage", {"name": "compress"})
        made.append(("compress", (source, recipe, folder), {"options": options}))
        return {"is": "a report"}

    def stand_in(name: str, result: dict[str, Any]) -> Callable[..., dict[str, Any]]:
        def call(*args: Any, emit: EventSink, **named: Any) -> dict[str, Any]:
            emit("stage", {"name": name})
            made.append((name, args, named))
            return result

        return call

    def table(verb: str) -> Callable[..., None]:
        return lambda result, console, **how: console.print(f"table: {verb}")

    replace(monkeypatch, "compressor.pipeline", compress_model=compress)
    replace(
        monkeypatch,
        "compressor.commands.plan",
        plan_run=stand_in("plan", {"is": "a plan"}),
        plan_several=stand_in("pareto", {"is": "several plans"}),
    )
    replace(monkeypatch, "compressor.commands.bench", bench_files=stand_in("bench", {"stable": True}))
    replace(monkeypatch, "compressor.commands.inspect", inspect_model=stand_in("inspect", {"is": "a model"}))
    replace(
        monkeypatch,
        "compressor.commands.verify",
        verify_folder=stand_in("verify", {"ok": True, "proven": True, "gates": []}),
    )
    tables = {f"show_{what}": table(what) for what in ("report", "plan", "inspect", "bench", "verify")}
    replace(monkeypatch, "compressor.report.terminal", **tables)
    return made


def replace(monkeypatch: pytest.MonkeyPatch, name: str, **functions: Callable[..., object]) -> None:
    """A module of that name with these functions, instead of the real one and all it would import."""
    module = types.ModuleType(name)
    vars(module).update(functions)
    package, _, last = name.rpartition(".")
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(importlib.import_module(package), last, module, raising=False)


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*args: Any, **named: Any) -> None:
        raise error

    monkeypatch.setattr(sys.modules["compressor.pipeline"], "compress_model", fail)


# ---------------------------------------------------------------- words to calls


def test_the_bare_form_compresses(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    words = [MODEL, "-r", "l1", "-o", "out", "--data", "digits", "--set", "retrain.epochs=3", "--seed", "7", "--force"]
    assert cli.run(words) == 0
    ((name, (source, recipe, folder), named),) = calls
    assert (name, source, folder) == ("compress", MODEL, Path("out"))
    assert (recipe.retrain.epochs, recipe.seed, recipe.bench.target) == (3, 7, "local")
    assert named["options"] == RunOptions(data="digits", force=True, emit=named["options"].emit)
    out, err = capsys.readouterr()
    assert out == "table: report\n"
    assert re.fullmatch(r"\[ +\d\.\ds\] compress\n", err)


def test_options_may_come_first_and_progress_be_silenced(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["-q", "--resume", "--trust-pickle", "--target", "none", "-r", "l1", MODEL]) == 0
    ((_, (_, recipe, folder), named),) = calls
    assert recipe.bench.target == "none"
    assert named["options"] == RunOptions(resume=True, trust_pickle=True, emit=named["options"].emit)
    assert folder == Path("cifar-resnet8-digits-l1")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("model", "recipe", "folder"),
    [
        ("some/where/resnet56.pt", "l1", "resnet56-l1"),
        ("resnet20-12fca82f.th", "my/l1.yaml", "resnet20-12fca82f-l1"),
        ("torchvision:resnet50@IMAGENET1K_V2", "l1", "torchvision-resnet50-IMAGENET1K_V2-l1"),
        ("nets/net.py:make", "l1", "net.py-make-l1"),
        ("out/", "l1", "out-l1"),
        ("../..", "l1", "l1"),
    ],
)
def test_default_output_folders(model: str, recipe: str, folder: str) -> None:
    assert default_folder(model, recipe) == Path(folder)


def test_a_verb_wins_over_a_file_of_its_name(calls: Calls) -> None:
    Path("plan").touch()
    assert cli.run(["plan", MODEL, "-r", "l1", "-q"]) == 0
    assert cli.run(["./plan", "-r", "l1", "-q"]) == 0
    assert [(name, args[0]) for name, args, _ in calls] == [("plan", MODEL), ("compress", "./plan")]


def test_several_targets_are_a_recipe_each(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["plan", MODEL, "-r", "l1", "--pareto", "latency = 70%, 50%,70%", "--seed", "3", "--json"]) == 0
    ((name, (source, recipes), _),) = calls
    assert (name, source) == ("pareto", MODEL)
    assert list(recipes) == ["latency: 70%", "latency: 50%"]
    assert [each.prune.target.latency for each in recipes.values()] == [0.7, 0.5]
    assert all(each.prune.target.macs is None for each in recipes.values()), "the recipe's own target no longer counts"
    assert {each.seed for each in recipes.values()} == {3}
    assert json.loads(capsys.readouterr().out) == {"is": "several plans"}


def test_a_dry_run_is_a_plan(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([MODEL, "-r", "l1", "--dry-run", "--json"]) == 0
    assert calls[0][0] == "plan"
    assert json.loads(capsys.readouterr().out) == {"is": "a plan"}
    assert list(Path().iterdir()) == []


def test_the_other_verbs(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.onnx", "b.onnx"):
        Path(name).touch()
    assert cli.run(["inspect", MODEL, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"is": "a model"}
    assert cli.run(["bench", "a.onnx"]) == 0
    assert cli.run(["bench", "a.onnx", "b.onnx", "--threads", "2", "--batch", "4", "--seconds", "0.5"]) == 0
    assert cli.run(["verify", "."]) == 0
    assert [(name, args) for name, args, _ in calls[1:]] == [
        ("bench", (Path("a.onnx"), None)),
        ("bench", (Path("a.onnx"), Path("b.onnx"))),
        ("verify", (Path(),)),
    ]
    named = dict(calls[2][2])
    assert named.pop("device").threads == 2
    assert named == {"batch": 4, "seconds": 0.5, "layers": False, "sustain": None}


def test_results_that_are_failures(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verify, bench = (sys.modules[f"compressor.commands.{name}"] for name in ("verify", "bench"))
    checks = [{"name": "hashes", "ok": True}, {"name": "parity", "ok": False}]
    gates = [
        {
            "name": "speedup",
            "asked": "at least 2.00x",
            "found": "faster 1.20x [1.10, 1.30]",
            "ok": False,
            "status": "missed",
        }
    ]
    result = {"ok": False, "proven": False, "checks": checks, "gates": gates}
    monkeypatch.setattr(verify, "verify_folder", lambda folder, emit: result)
    unstable = {"stable": False, "verdict": "unstable: it drifts"}
    monkeypatch.setattr(bench, "bench_files", lambda a, b, **_: unstable)
    Path("a.onnx").touch()
    assert cli.run(["verify", ".", "--json"]) == 6
    assert json.loads(capsys.readouterr().out) == result, "one object: the result"
    result["proven"] = True
    assert cli.run(["verify", "."]) == 8, "what it is proven to be falls short of a gate"
    capsys.readouterr()
    assert cli.run(["bench", "a.onnx", "--json"]) == 9
    assert json.loads(capsys.readouterr().out) == unstable


# ---------------------------------------------------------------- usage


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("", "usage: compress: MODEL is missing; see compress --help"),
        ("m.pt", "usage: compress: --recipe is missing; see compress --help"),
        ("m.pt --recip l1", "usage: compress: there is no option --recip; did you mean --recipe? see compress --help"),
        ("m.pt -r", "usage: compress: Option '-r' requires an argument; see compress --help"),
        ("m.pt -r l1 x", "usage: compress: Got unexpected extra argument (x); see compress --help"),
        ("m.pt -r l1 --seed x", "usage: compress: Invalid value for '--seed': 'x' is not a valid integer; "),
        ("m.pt -r l1 --devices 0", "usage: --devices: it is 0; give 1 or more"),
        ("m.pt -r l1 --nodes 2", "usage: --nodes: it is 2, but torchrun did not start this process; run this on each"),
        (
            "m.pt -r qickstart",
            "recipe: qickstart: it is neither a file nor a shipped recipe; did you mean quickstart? ",
        ),
        (
            "m.pt -r l1 --target pi5",
            "target: bench.target: it is pi5, but there is no targets.yaml; choose local or none",
        ),
        ("inspcet m.pt", "usage: compress: --recipe is missing; did you mean inspect? see compress --help"),
        ("m.pt -r l2", "recipe: l2: it is neither a file nor a shipped recipe; did you mean l1? "),
        ("m.pt --bogus", "usage: compress: there is no option --bogus; see compress --help"),
        ("list x.yaml", "usage: compress: --recipe is missing; there is no command list among inspect, plan, "),
        ("-q plan m.pt -r l1", "usage: compress: Got unexpected extra argument (m.pt); the command comes first, "),
        ("plan m.pt", "usage: compress plan: --recipe is missing; see compress plan --help"),
        (
            "plan m.pt -r l1 --pareto latency",
            "usage: --pareto: 'latency' is not of the form KEY=A,B,...; write for example --pareto latency=70%,50%,35%",
        ),
        (
            "plan m.pt -r l1 --pareto latency=70%,,50%",
            "usage: --pareto: 'latency=70%,,50%' is not of the form KEY=A,B,...; write for example ",
        ),
        (
            "plan m.pt -r l1 --pareto latncy=70%,50%",
            "recipe: --set prune.target={latncy: 70%}: prune.target.latncy is ",
        ),
        ("plan m.pt -r l1 --figure f.html", "usage: --figure: f.html is given without --pareto; name the targets"),
        (
            "plan m.pt -r l1 --pareto macs=5% --figure no/f.html",
            "usage: --figure: the folder of no/f.html does not exist; create it",
        ),
        ("bench", "usage: compress bench: A.onnx is missing; see compress bench --help"),
        ("bench no.onnx", "usage: compress bench: Invalid value for 'A.onnx': File 'no.onnx' does not exist; "),
        ("verify no", "usage: compress verify: Invalid value for 'DIR': Directory 'no' does not exist; "),
        ("recipes", "usage: compress recipes: Missing command; see compress recipes --help"),
        (
            "recipes lss",
            "usage: compress recipes: there is no command lss; did you mean ls? one of: ls, show, cp, schema",
        ),
        (
            "recipes show l1-cifar",
            "recipe: l1-cifar: no shipped recipe has this name; did you mean l1-cifar10? one of: ",
        ),
        ("recipes cp l1 no/such/x.yaml", "recipe: no/such/x.yaml: the folder does not exist; "),
    ],
)
def test_usage_errors_are_one_line(calls: Calls, capsys: pytest.CaptureFixture[str], words: str, line: str) -> None:
    assert cli.run(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"compress: {line}")
    assert err.count("\n") == 1
    assert calls == []


def test_each_fault_of_a_recipe_is_a_line(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.yaml").write_text("version: 1\nprune: {method: l1, target: {macs: 50}}\nseed: x\n")
    assert cli.run([MODEL, "-r", "r.yaml"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:3] for line in lines] == [
        ["compress", "recipe", "r.yaml:2:36"],
        ["compress", "recipe", "r.yaml:3:7"],
    ]


DATA, TARGET, RECIPE = "data/no-such-file", "target/no-targets-file", "recipe/not-allowed"


@pytest.mark.parametrize(
    ("words", "codes"),
    [
        (
            "--data /nonexistent --target pi5 --set prune.target.macs=50 --set prune.scope=x",
            [RECIPE] * 2 + [TARGET, DATA],
        ),
        ("--data /nonexistent --set prune.target.macs=50", [RECIPE, DATA]),
        ("--data no.py:make --target pi5", [TARGET, DATA]),
        ("--data no.py:make", [DATA]),
    ],
)
@pytest.mark.parametrize("command", [[], ["plan"]])
def test_faults_of_the_recipe_and_of_options_are_reported_together(
    calls: Calls, capsys: pytest.CaptureFixture[str], command: list[str], words: str, codes: list[str]
) -> None:
    assert cli.run([*command, MODEL, "-r", "l1", "--json", *words.split()]) == 2
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert [error["code"], *(fault["code"] for fault in error["more"])] == codes
    assert len(err.splitlines()) == len(codes)


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^  {verb}  ", text, re.MULTILINE) for verb in command_line.commands)
    assert "--trust-pickle" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"compress, version {compressor.__version__}\n"


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.RecipeError, 2),
        (errors.DataError, 2),
        (errors.ModelError, 3),
        (errors.UntrustedFile, 4),
        (errors.TargetNotReached, 5),
        (errors.VerificationFailed, 6),
        (errors.AccuracyGateFailed, 7),
        (errors.LatencyGateFailed, 8),
        (errors.MeasurementUnstable, 9),
        (errors.DeviceUnavailable, 10),
        (errors.Temporary, 75),
    ],
)
def test_exit_codes(
    calls: Calls,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: type[errors.CompressorError],
    code: int,
) -> None:
    raising(monkeypatch, kind("what/slug", "where", "found", "what to do"))
    assert cli.run([MODEL, "-r", "l1"]) == code
    assert capsys.readouterr() == ("", "compress: what: where: found; what to do\n")


@pytest.mark.parametrize(("flag", "out"), [("--json", '{\n  "ok": false\n}\n'), ("-q", "table: report\n")])
def test_a_failed_gate_still_tells_the_result(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flag: str, out: str
) -> None:
    gate = errors.LatencyGateFailed("gate/too-slow", "speedup", "1.1, asked: 1.3", "prune more")
    raising(monkeypatch, gate.with_report({"ok": False}))
    assert cli.run([MODEL, "-r", "l1", flag]) == 8
    assert capsys.readouterr() == (out, "compress: gate: speedup: 1.1, asked: 1.3; prune more\n")


def test_a_failure_without_a_result_is_one_json_object(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    second = errors.RecipeError("recipe/too-short", "r.yaml:2:1", "[]", "add one")
    raising(monkeypatch, errors.RecipeError("recipe/unknown-key", "r.yaml:1:1", "prun", "prune?", (second,)))
    assert cli.run([MODEL, "-r", "l1", "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "error": {
            "code": "recipe/unknown-key",
            "place": "r.yaml:1:1",
            "problem": "prun",
            "hint": "prune?",
            "exit_code": 2,
            "more": [{"code": "recipe/too-short", "place": "r.yaml:2:1", "problem": "[]", "hint": "add one"}],
        }
    }
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (KeyboardInterrupt(), "interrupted/ctrl-c", 130),
        (Terminated(), "interrupted/sigterm", 143),
        (OSError(errno.ENOSPC, "full", "x"), "disk-full/no-space", 75),
        (MemoryError(), "out-of-memory/allocation", 75),
        (ZeroDivisionError("by zero"), "internal-error/bug", 1),
    ],
)
def test_whatever_ends_a_run_has_a_code(
    calls: Calls,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: str,
    exit_code: int,
) -> None:
    raising(monkeypatch, error)
    assert cli.run([MODEL, "-r", "l1", "--json"]) == exit_code
    printed = json.loads(capsys.readouterr().out)["error"]
    assert (printed["code"], printed["exit_code"], printed["more"]) == (code, exit_code, [])


@pytest.mark.parametrize(
    "words", [["--json"], ["plan", "--json"], ["verify", "no", "--json"], ["recipes", "ls", "--json"]]
)
def test_usage_errors_are_json_too(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert cli.run(words) == 2
    printed = json.loads(capsys.readouterr().out)["error"]
    assert (printed["code"].partition("/")[0], printed["exit_code"]) == ("usage", 2)


OUT = Path("runs/out").absolute()
FAILURES = [
    (
        KeyboardInterrupt(),
        130,
        f"interrupted: {OUT}: Ctrl-C was pressed; run the same command with --resume to continue",
    ),
    (Terminated(), 143, f"interrupted: {OUT}: SIGTERM was received; run the same command with --resume"),
    (
        OSError(errno.ENOSPC, "full", "x"),
        75,
        "disk full: x: no space is left; free some space, then run the same command with --re",
    ),
    (RuntimeError("write failed: No space left on device"), 75, f"disk full: {OUT}: no space is left"),
    (MemoryError(), 75, f"out of memory: {OUT}: MemoryError; free some memory or lower retrain.batch_size"),
    (
        PermissionError(errno.EACCES, "Permission denied", str(OUT)),
        2,
        f"output: {OUT}: it cannot be written (Permission denied); choose anoth",
    ),
    (
        OSError(errno.EROFS, "Read-only file system", str(OUT.parent)),
        2,
        f"output: {OUT.parent}: it cannot be written (Read-only file system)",
    ),
    (OSError(errno.EROFS, "Read-only", f"{OUT.parent}/.out.partial/a"), 2, "output: "),
    (FileNotFoundError(errno.ENOENT, "No such file", str(OUT.parent)), 2, "output: "),
    (PermissionError(errno.EACCES, "Permission denied", f"{OUT.parent}/layout/data.npy"), 2, "file: "),
    (PermissionError(errno.EACCES, "Permission denied", f"{OUT.parent}/.out.partial.npy"), 2, "file: "),
    (OSError(errno.EINVAL, "Invalid argument", f"{OUT}/a"), 1, "internal error: "),
    (
        PermissionError(errno.EACCES, "Permission denied", "/etc/x"),
        2,
        "file: /etc/x: Permission denied; check the path",
    ),
    (FileNotFoundError(errno.ENOENT, "No such file", "/etc/x"), 1, "internal error: "),
    (
        ValueError("two\nlines"),
        1,
        "internal error: compress: ValueError two lines; this is a bug in compress; run again ",
    ),
]


@pytest.mark.parametrize(("error", "code", "line"), FAILURES, ids=[repr(error) for error, _, _ in FAILURES])
def test_what_else_ends_a_run(error: BaseException, code: int, line: str) -> None:
    failure = as_compressor_error(error, OUT)
    assert failure.errors == (failure,)
    assert (failure.exit_code, str(failure)[: len(line)]) == (code, line)


def test_a_bug_names_our_line_and_debug_shows_the_traceback(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, ZeroDivisionError("by zero"))
    assert cli.run([MODEL, "-r", "l1"]) == 1
    err = capsys.readouterr().err
    assert re.match(r"compress: internal error: compressor/cli/compress\.py:\d+: ZeroDivisionError by zero; ", err)
    assert "Traceback" not in err
    assert cli.run([MODEL, "-r", "l1", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_control_characters_of_untrusted_names_are_not_printed() -> None:
    assert one_line("a\x1b]0;x\x07b\nc é") == "a\\x1b]0;x\\x07b\\nc é"


# ---------------------------------------------------------------- a finished run

SPEEDUP = {"name": "speedup", "asked": "at least 2.00x", "found": "1.20x", "ok": False, "status": "missed"}


def finished(*overrides: str, model: str = MODEL, gates: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    """An output folder `out`, as far as `--resume` reads it; its report."""
    report = {"version": 1, "method": "l1", "model": model, "files": {}, "gates": list(gates)}
    Path("out").mkdir()
    Path("out/report.json").write_text(json.dumps(report))
    Path("out/recipe.yaml").write_text(read_recipe("quickstart", ["bench.target=none", *overrides]).to_yaml())
    return report


def resume(*words: str, model: str = MODEL) -> int:
    return cli.run([model, "-r", "quickstart", "--target", "none", "-o", "out", "--resume", "--json", *words])


@pytest.mark.parametrize(("gates", "code"), [((), 0), ((SPEEDUP,), 8)])
def test_resume_prints_a_finished_run_again_and_ends_as_it_ended(
    calls: Calls, capsys: pytest.CaptureFixture[str], gates: tuple[dict[str, Any], ...], code: int
) -> None:
    report = finished(gates=gates)
    assert resume() == code
    assert json.loads(capsys.readouterr().out) == report
    assert calls == [], "nothing is done again"


@pytest.mark.parametrize(
    ("overrides", "model", "values"),
    [
        (["--set", "prune.target.ratio=30%"], MODEL, ("prune.target.ratio", "50%", "30%")),
        (["--set", "retrain.epochs=9"], MODEL, ("retrain.epochs", "9")),
        (["--seed", "3"], MODEL, ("seed", "0", "3")),
        ([], "other.pt", ("model", MODEL, "other.pt")),
    ],
)
def test_resume_refuses_the_folder_of_another_run_and_names_the_key(
    calls: Calls, capsys: pytest.CaptureFixture[str], overrides: list[str], model: str, values: tuple[str, ...]
) -> None:
    finished()
    assert resume(*overrides, model=model) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "resume/other-run"
    assert all(value in error["problem"] for value in values), error["problem"]
    assert calls == []


def test_resume_of_a_folder_that_no_run_wrote_is_refused(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").mkdir()
    Path("out/precious").touch()
    assert resume() == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "output/exists"
    assert calls == []


def test_resume_of_a_pruned_folder_compares_the_model_it_was_made_from(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(model="resnet.pt")
    Path("first").mkdir()
    Path("first/plan.json").write_text('{"name": "resnet.pt"}')
    assert resume(model="first") == 0
    capsys.readouterr()
    Path("first/plan.json").write_text('{"name": "vgg.pt"}')
    assert resume(model="first") == 2
    assert "vgg.pt" in json.loads(capsys.readouterr().out)["error"]["problem"]


# ---------------------------------------------------------------- recipes


def test_recipes_ls_show_cp_schema(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["recipes", "ls"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in listed if line.startswith("  ")) == sorted(shipped_recipes())
    assert max(map(len, listed)) <= 100
    text = shipped_recipes()["l1"].read_text()
    assert cli.run(["recipes", "show", "l1"]) == 0
    assert capsys.readouterr().out == text
    assert cli.run(["recipes", "cp", "l1"]) == 0
    assert Path("l1.yaml").read_text() == text
    assert cli.run(["recipes", "cp", "quickstart", "l1.yaml"]) == 2
    assert Path("l1.yaml").read_text() == text
    assert cli.run(["recipes", "cp", "quickstart", "l1.yaml", "--force"]) == 0
    assert Path("l1.yaml").read_text() != text
    capsys.readouterr()
    assert cli.run(["recipes", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "compress recipe"


# ---------------------------------------------------------------- whole processes

HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "rich", "timm", "matplotlib", "scipy", "PIL")


def process(
    code: str, *words: str, stdout: int | IO[str] = subprocess.PIPE, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    root = str(Path(compressor.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": root},
        cwd=cwd,
    )


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["plan", "--help"], 0),
        (["m.pt"], 2),
        (["m.pt", "-r", "l1", "--set", "prune.target.macs=50"], 2),
        (["recipes", "ls"], 0),
        (["m.pt", "-r", "l1-cifar10", "-o", "no/such/out"], 2),  # its train.parquet is missing
        (["m.pt", "-r", "tpp", "-o", "no/such/out"], 2),  # it needs --data
    ],
)
def test_help_and_usage_errors_import_nothing_heavy(words: list[str], code: int) -> None:
    script = (
        "import sys; from compressor.cli import run; code = run(sys.argv[1:]);"
        f"print(code, sorted(set({HEAVY}) & sys.modules.keys()), 'pydantic' in sys.modules)"
    )
    last = process(script, *words).stdout.splitlines()[-1]
    assert last.startswith(f"{code} []")
    if "--help" in words:
        assert last == "0 [] False"


RUN = """
import signal, sys, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells make their background jobs ignore it
import compressor
compressor.pipeline = sys.modules["compressor.pipeline"] = types.ModuleType("compressor.pipeline")
def compress(source, recipe, folder, options):
    options.emit("stage", {"name": "retrain"})
    BODY
compressor.pipeline.compress_model = compress
from compressor.cli import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_leave_a_line_that_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    body = f"import os; os.kill(os.getpid(), {int(number)}); import time; time.sleep(30)"
    done = process(RUN.replace("BODY", body), MODEL, "-r", "l1", "-o", "out", cwd=tmp_path)
    assert done.returncode == 128 + number
    assert done.stdout == ""
    assert "compress: interrupted: out: " in done.stderr
    assert done.stderr.endswith("; run the same command with --resume to continue\n")


LOUD = (
    "import atexit, os; print('own'); os.system('echo child'); os.write(1, b'descriptor\\n');"
    "atexit.register(print, 'at exit');"
)


@pytest.mark.parametrize(
    ("body", "code", "key"),
    [("return {'is': 'a report'}", 0, "is"), ("raise ValueError", 1, "error"), ("raise SystemExit(3)", 1, "error")],
)
def test_what_users_code_prints_goes_to_stderr(tmp_path: Path, body: str, code: int, key: str) -> None:
    done = process(RUN.replace("BODY", LOUD + body), MODEL, "-r", "l1", "-o", "out", "--json", cwd=tmp_path)
    assert done.returncode == code
    assert list(json.loads(done.stdout)) == [key]
    assert {"own", "child", "descriptor", "at exit"} <= set(done.stderr.splitlines())


def test_what_users_code_prints_goes_to_stderr_in_every_command(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def loud(*args: Any, **named: Any) -> dict[str, bool]:
        print("loud")
        return {"stable": True, "proven": True, "gates": []}  # type: ignore[dict-item]

    replace(monkeypatch, "compressor.pipeline", compress_model=loud)
    replace(monkeypatch, "compressor.commands.plan", plan_run=loud, plan_several=loud)
    replace(monkeypatch, "compressor.commands.inspect", inspect_model=loud)
    replace(monkeypatch, "compressor.commands.bench", bench_files=loud)
    replace(monkeypatch, "compressor.commands.verify", verify_folder=loud)
    Path("a.onnx").touch()
    recipe = [MODEL, "-r", "l1", "--target", "none"]
    pareto = ["plan", *recipe, "--pareto", "macs=70%,50%"]
    for words in (recipe, ["plan", *recipe], pareto, ["inspect", MODEL], ["bench", "a.onnx"], ["verify", "."]):
        assert cli.run([*words, "--json", "-q"]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out)["stable"]
        assert err == "loud\n"


def test_a_reader_that_leaves_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = process("from compressor.cli import main; main()", "recipes", "schema", stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout() -> None:
    with open("/dev/full", "w") as full:
        done = process("from compressor.cli import main; main()", "recipes", "schema", stdout=full)
    assert (done.returncode, done.stderr.count("\n")) == (75, 1)
    assert done.stderr.startswith("compress: disk full: ")


# ---------------------------------------------------------------- progress


EVENTS: tuple[tuple[str, dict[str, object]], ...] = (
    ("stage", {"name": "retrain"}),
    ("progress", {"done": 1, "total": 9, "what": "images"}),
    ("epoch", {"epoch": 1, "epochs": 3, "loss": 0.41234, "lr": 0.01, "held_out": 83.2, "seconds": 12.0}),
    ("progress", {"done": 3, "total": 6, "what": "epoch 2/3", "epoch": 2, "epochs": 3, "loss": 0.51, "lr": 0.02}),
    ("epoch", {"epoch": 2, "epochs": 3, "loss": 0.4, "lr": 1e-4, "held_out": None, "images_per_second": 10321.4}),
    ("epoch", {"epoch": 3}),
    ("metric", {"stage": "retrained", "metric": "accuracy", "unit": "%", "accuracy": 84.0}),
    ("note", {"text": "prefix module. [peeled]"}),
    ("warning", {"text": "not retrained"}),
    ("sample", {"ms": 1.0}),
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(stream: io.StringIO, *, quiet: bool = False) -> str:
    with progress_reporter(quiet=quiet, stream=stream) as emit:
        for event, fields in EVENTS:
            emit(event, fields)
    return stream.getvalue()


def test_plain_lines_where_there_is_no_terminal() -> None:
    lines = [line.split("] ", 1)[1] for line in told(io.StringIO()).splitlines()]
    assert lines == [
        "retrain",
        "  epoch 1/3  loss 0.4123  lr 0.01  held out 83.2  12.0 s",
        "  epoch 2/3  loss 0.4000  lr 0.0001  10,321 images/s",
        "  epoch 3",
        "  accuracy 84.00 % (retrained)",
        "  prefix module. [peeled]",
        "  warning: not retrained",
    ]


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    text = told(Terminal())
    assert "━" in text
    assert re.search(r"epoch 2/3 .*loss 0\.5100 lr 0\.02 held out 83\.2", text)
    assert "prefix module. [peeled]" in text


def test_nothing_when_quiet() -> None:
    assert told(Terminal(), quiet=True) == ""
