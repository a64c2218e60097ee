"""Every kind of error message has one stable code, which one exception class owns."""

from __future__ import annotations

import ast
import functools
import pickle
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import compressor
from compressor import errors
from compressor.cli import exit_report
from compressor.errors import CompressorError, DataError, RecipeError

PACKAGE = Path(compressor.__file__).parent
CODE = re.compile(r"[a-z0-9-]+/[a-z0-9-]+")
CLASSES = {
    name
    for module in (errors, exit_report)
    for name, value in vars(module).items()
    if isinstance(value, type) and issubclass(value, CompressorError)
}
HELPERS = {"_fault": (0, "RecipeError"), "_refused": (0, "RecipeError")}  # of recipe/: index of the code, class raised


@functools.cache
def nodes() -> list[tuple[Path, ast.Call | ast.Assign]]:
    """Every call and assignment of the package, with its file."""
    return [
        (file, node)
        for file in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call | ast.Assign)
    ]


def raised() -> Iterator[tuple[str, str, str]]:
    """Yield (place, exception class, code) for every error with a literal code in the package."""
    for file, node in nodes():
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        place = f"{file.relative_to(PACKAGE)}:{node.lineno}"
        if name in CLASSES and isinstance(code := node.args[0], ast.Constant):
            yield place, name, code.value
        elif name == "user_errors_as" and isinstance(code := node.args[1], ast.Constant):
            yield place, node.args[0].id, code.value
        elif name in HELPERS and file.parent.name == "recipe":
            index, error_class = HELPERS[name]
            if isinstance(code := node.args[index], ast.Constant):
                yield place, error_class, code.value


def literals() -> Iterator[str]:
    """Yield every string of the package that is assigned to a variable called `code`."""
    for _, node in nodes():
        if isinstance(node, ast.Assign):
            names = [n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)]
            strings = [n.value for n in ast.walk(node.value) if isinstance(n, ast.Constant)]
            if "code" in names:
                yield from (text for text in strings if isinstance(text, str) and re.search("./.", text))


def test_codes_are_kebab_case() -> None:
    codes = [(place, code) for place, _, code in raised()]
    assert len(codes) > 180, "the walk must see the raise sites"
    assert [entry for entry in codes if not CODE.fullmatch(entry[1])] == []
    assert [code for code in literals() if not CODE.fullmatch(code)] == []


def test_a_code_belongs_to_one_class() -> None:
    owners = defaultdict(set)
    for _, error_class, code in raised():
        owners[code].add(error_class)
    assert {code: names for code, names in owners.items() if len(names) > 1} == {}


@pytest.mark.parametrize("error_class", [CompressorError, RecipeError, DataError])
def test_an_error_keeps_its_parts_in_a_pickle(error_class: type[CompressorError]) -> None:
    error = error_class("data/no-images", "a b", "it has 0\nimages", "add one").with_report({"ok": False})
    assert str(error) == "data: a b: it has 0 images; add one"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.code, again.place, again.problem, again.hint) == (
        error_class,
        "data/no-images",
        "a b",
        "it has 0\nimages",
        "add one",
    )
    assert (str(again), again.report) == (str(error), {"ok": False})


def test_a_subject_is_written_with_blanks() -> None:
    assert str(CompressorError("nothing-to-prune/all-frozen", "net", "frozen", "unfreeze")).startswith(
        "nothing to prune: net: "
    )


def test_an_error_that_carries_others_lists_them_in_order() -> None:
    inner = RecipeError("recipe/b", "b", "2", "h", (RecipeError("recipe/c", "c", "3", "h"),))
    outer = RecipeError("recipe/a", "a", "1", "h", (inner,))
    assert [error.place for error in outer.errors] == ["a", "b", "c"]
    printed = exit_report.as_json(outer)["error"]
    assert [printed["place"], *(fault["place"] for fault in printed["more"])] == ["a", "b", "c"]
    assert (printed["code"], printed["exit_code"]) == ("recipe/a", 2)
