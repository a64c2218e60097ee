"""What a careless or hostile user does to the command line: one line, the right exit code, nothing half-written."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from failures import raises_error
from safetensors.torch import load_file

import compressor
from compressor import cli
from compressor.errors import CompressorError, ModelError, RecipeError, Temporary
from compressor.models.source import load_model
from compressor.output.folder import CHECKPOINTS, check_output_free, staged_output
from compressor.run_log import RunLog

WEIGHTS = Path(compressor.__file__).parent / "models" / "resnet8-digits.safetensors"
QUICK = ("-r", "quickstart", "--target", "none", "--set", "retrain.epochs=0", "-q")


# ---------------------------------------------------------------- the output folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("out", [".", "..", "/", "/proc"])
def test_force_never_replaces_the_current_folder_or_a_mount_point(here: Path, out: str) -> None:
    (here / "precious").touch()
    with raises_error(RecipeError, "output/not-replaceable", str(out)):
        check_output_free(Path(out), force=True)


def finished(folder: Path) -> None:
    """A folder that looks like the result of a run."""
    folder.mkdir()
    (folder / "model.onnx").touch()
    (folder / "report.json").write_text('{"version": 1, "method": "l1", "files": {"model.onnx": "0"}}')


NO_FILES = '{"version": 1, "method": "l1", "files": null}'


@pytest.mark.parametrize("content", ["", "[]", '{"version": 1}', NO_FILES, "not json"])
def test_force_replaces_nothing_that_no_run_wrote(here: Path, content: str) -> None:
    (here / "out").mkdir()
    (here / "out" / "report.json").write_text(content)
    with raises_error(RecipeError, "output/not-replaceable", "out", "report.json"):
        check_output_free(Path("out"), force=True)
    with (
        raises_error(RecipeError, "output/not-replaceable"),
        staged_output(Path("out"), force=True, resume=False),
    ):
        pytest.fail("it would be replaced")
    assert (here / "out").is_dir()


def test_force_replaces_an_earlier_result(here: Path) -> None:
    finished(here / "out")
    with staged_output(Path("out"), force=True, resume=False) as folder:
        (folder / "new").touch()
    assert [path.name for path in (here / "out").iterdir()] == ["new"]


@pytest.mark.parametrize("name", ["mine.txt", "notes/mine.txt", ".hidden"])
def test_force_keeps_what_users_added(here: Path, name: str) -> None:
    """A pipeline may write a report of its own into the folder of the run before."""
    finished(here / "out")
    (here / "out" / name).parent.mkdir(exist_ok=True)
    (here / "out" / name).write_text("mine")
    with staged_output(Path("out"), force=True, resume=False) as folder:
        (folder / "new").touch()
    files = {path.relative_to(here / "out").as_posix() for path in (here / "out").rglob("*") if path.is_file()}
    assert files == {"new", name}
    assert (here / "out" / name).read_text() == "mine"


def test_force_replaces_an_added_file_that_the_new_run_writes(here: Path) -> None:
    finished(here / "out")
    (here / "out" / "new").write_text("mine")
    with staged_output(Path("out"), force=True, resume=False) as folder:
        (folder / "new").write_text("of the run")
    assert [path.name for path in (here / "out").iterdir()] == ["new"]
    assert (here / "out" / "new").read_text() == "of the run"


@pytest.mark.parametrize(
    ("out", "helps"), [(".", False), ("", False), ("file", False), ("other", False), ("out", True)]
)
def test_force_is_named_where_it_helps(here: Path, out: str, helps: bool) -> None:
    finished(here / "out")
    (here / "file").touch()
    (here / "other").mkdir()
    (here / "other" / "precious").touch()
    with raises_error(RecipeError, "output/exists") as raised:
        check_output_free(Path(out), force=False)
    assert ("--force" in raised.value.hint) == helps


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", ["folder", "link", "current"])
def test_an_empty_folder_is_filled_and_the_report_comes_last(
    here: Path, monkeypatch: pytest.MonkeyPatch, kind: str, force: bool
) -> None:
    real, out = here / "real", Path("out")
    real.mkdir()
    if kind == "folder":
        out = real
    elif kind == "link":
        out.symlink_to("real")
    else:
        monkeypatch.chdir(real)
        out = Path(".")
    moved, rename = [], Path.rename

    def record(path: Path, to: Path) -> Path:
        moved.append(path.name)
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", record)
    before = real.stat().st_ino
    with staged_output(out, force=force, resume=False) as folder:
        for name in ("a.onnx", "report.json", "slim.safetensors"):
            (folder / name).touch()
    assert real.stat().st_ino == before, "a mount point cannot be replaced"
    assert moved[-1] == "report.json"
    assert {path.name for path in real.iterdir()} == {"a.onnx", "report.json", "slim.safetensors"}
    assert out.is_symlink() == (kind == "link")


def test_an_interrupted_run_into_an_empty_folder_is_resumed_there(here: Path) -> None:
    def interrupted() -> None:
        with staged_output(Path("out"), force=False, resume=False) as folder:
            (folder / CHECKPOINTS).mkdir()
            raise KeyboardInterrupt

    (here / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with staged_output(Path("out"), force=False, resume=True) as folder:
        assert (folder / CHECKPOINTS).is_dir()
    assert [path.name for path in (here / "out").iterdir()] == [CHECKPOINTS]


def test_force_never_deletes_what_the_run_reads(here: Path) -> None:
    finished(here / "out")
    shutil.copy(WEIGHTS, "out/model.safetensors")
    with raises_error(RecipeError, "output/not-replaceable", "out/model.safetensors", "--force"):
        check_output_free(Path("out"), force=True, inputs=("out/model.safetensors",))
    (here / "out" / "model.safetensors").unlink()
    check_output_free(Path("out"), force=True, inputs=("out", "torchvision:resnet18"))


def test_an_existing_folder_is_refused_before_anything_heavy_is_imported(here: Path) -> None:
    (here / "out").mkdir()
    (here / "out" / "precious").touch()
    code = "import sys; from compressor.cli import run; code = run(sys.argv[1:]); print(code, 'torch' in sys.modules)"
    words = ["cifar:resnet8@digits", "-r", "l1", "-o", "out"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=here)
    assert done.stdout == "2 False\n"


def test_a_link_is_replaced_and_what_it_leads_to_is_left(here: Path) -> None:
    finished(here / "real")
    (here / "real" / "precious").touch()
    (here / "out").symlink_to("real")
    with staged_output(Path("out"), force=True, resume=False) as folder:
        (folder / "new").touch()
    assert [each.name for each in (here / "out").iterdir()] == ["new"]
    assert (here / "real" / "precious").exists()


def test_a_link_in_place_of_the_draft_is_not_followed(here: Path) -> None:
    (here / "real").mkdir()
    (here / "real" / "precious").touch()
    (here / ".out.partial").symlink_to("real")
    with (
        raises_error(RecipeError, "output/not-writable", ".out.partial"),
        staged_output(Path("out"), force=False, resume=False),
    ):
        pass
    assert (here / "real" / "precious").exists()


def test_a_folder_that_appeared_meanwhile_is_not_replaced(here: Path) -> None:
    with raises_error(RecipeError, "output/exists"), staged_output(Path("out"), force=False, resume=False):
        (here / "out").mkdir()
        (here / "out" / "precious").touch()
    assert [path.name for path in (here / "out").iterdir()] == ["precious"]


def test_two_runs_do_not_share_a_folder(here: Path) -> None:
    with staged_output(Path("out"), force=False, resume=False) as folder:
        (folder / "precious").touch()
        for resume in (False, True):
            with raises_error(Temporary, "output/locked"), staged_output(Path("out"), force=False, resume=resume):
                pass
        assert (folder / "precious").exists()


def test_a_lock_whose_folder_has_moved_away_counts_for_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(lock: int, how: int) -> None:
        Path(".out.partial").rename("out")  # the other run ends between our opening its lock and taking it

    monkeypatch.setattr(fcntl, "flock", late)
    with raises_error(Temporary, "output/locked"), staged_output(Path("out"), force=False, resume=False):
        pass


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "full"), RecipeError("a/b", "b", "c", "d")])
@pytest.mark.parametrize("trained", [True, False])
def test_only_what_can_be_resumed_is_left(here: Path, error: BaseException, trained: bool) -> None:
    def run() -> None:
        with staged_output(Path("out"), force=False, resume=False) as folder:
            if trained:
                (folder / CHECKPOINTS).mkdir()
            raise error

    with pytest.raises(type(error)):
        run()
    assert os.listdir() == ([".out.partial"] if trained else [])


def test_resuming_goes_on_from_the_journal_and_the_checkpoint_alone(here: Path) -> None:
    draft = here / ".out.partial"
    (draft / ".model.onnx.x7").mkdir(parents=True)
    (draft / CHECKPOINTS).mkdir()
    for name in ("run.jsonl", "report.json"):
        (draft / name).touch()
    with staged_output(Path("out"), force=False, resume=True) as folder:
        assert {each.name for each in folder.iterdir()} == {".lock", CHECKPOINTS, "run.jsonl"}


def test_a_line_that_a_kill_cut_off_is_no_line(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(b'{"event": "stage"}\n{"event": "ep')
    with RunLog(path, lambda event, fields: None) as journal:
        journal("note", {"text": "resumed"})
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["stage", "note"]
    assert [event["event"] for event in journal.events] == ["stage", "note"]


# ---------------------------------------------------------------- models


def test_a_torch_archive_called_safetensors_is_read_by_its_content(tmp_path: Path) -> None:
    torch.save(load_file(WEIGHTS), tmp_path / "renamed.safetensors")
    assert load_model(str(tmp_path / "renamed.safetensors")).spec.source == "cifar:resnet8"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda tensors: tensors.pop("linear.bias"), "cifar:resnet8 (1 missing (linear.bias))"),
        (lambda tensors: tensors.update({"foo.bar": torch.ones(3)}), "cifar:resnet8 (1 extra (foo.bar))"),
        (
            lambda tensors: tensors.update({"linear.bias": torch.ones(11)}),
            "cifar:resnet8 (1 of another shape (linear.bias is 11, not 10))",
        ),
    ],
    ids=["missing", "extra", "reshaped"],
)
def test_the_nearest_architecture_differs_in_just_what_is_wrong(tmp_path: Path, spoil: object, words: str) -> None:
    tensors = load_file(WEIGHTS)
    assert callable(spoil)
    spoil(tensors)
    torch.save(tensors, tmp_path / "model.pt")
    with raises_error(ModelError, "checkpoint/unknown-architecture", words) as caught:
        load_model(str(tmp_path / "model.pt"))
    assert caught.value.exit_code == 3


def test_code_without_its_function_is_not_taken_for_a_pickle(here: Path) -> None:
    (here / "net.py").write_text("import torch\nc = torch\n")
    with raises_error(CompressorError, "model-file/python-code", "net.py:factory"):
        load_model("net.py")


# ---------------------------------------------------------------- data and streams


def test_a_data_factory_that_exits_is_a_fault_of_the_data(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "data.py").write_text("def make():\n    raise SystemExit(3)\n")
    assert cli.run(["cifar:resnet8@digits", *QUICK, "--set", "data=null", "--data", "data.py:make"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"compress: data: {here / 'data.py'}:2: it raised SystemExit: 3; ")
    assert [each.name for each in here.iterdir() if "resnet8" in each.name] == []


CLOSED = "import os, sys; os.close({0}); os.execv(sys.executable, [sys.executable, '-m', 'compressor', *sys.argv[1:]])"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_closed_stream_is_no_error(here: Path, number: int) -> None:
    words = ["recipes", "cp", "l1"]
    done = subprocess.run([sys.executable, "-c", CLOSED.format(number), *words], capture_output=True, cwd=here)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (here / "l1.yaml").read_text().startswith("# compress")


def test_a_reader_that_leaves_a_table_is_no_error(here: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "compressor", "recipes", "ls"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, cwd=here)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")
