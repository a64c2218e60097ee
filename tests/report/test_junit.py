"""Gates as JUnit: read back with an independent parser, whatever the names hold."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from compressor.report.junit import Case, junit, render
from compressor.report.verify_result import Verify


@given(st.text(min_size=1), st.lists(st.tuples(st.text(), st.booleans(), st.text()), max_size=5))
def test_every_case_is_there_and_counted(model: str, cases: list[tuple[str, bool, str]]) -> None:
    suite = ET.fromstring(junit(model, 1.5, [Case(*case) for case in cases])).find("testsuite")
    assert suite is not None
    found = suite.findall("testcase")
    assert suite.get("tests") == str(len(cases)) == str(len(found))
    assert suite.get("failures") == str(sum(not ok for _, ok, _ in cases))
    assert suite.get("time") == "1.500"
    assert [case.find("failure") is None for case in found] == [ok for _, ok, _ in cases]


def test_a_failure_says_why() -> None:
    checks = [{"name": "parity", "ok": False, "detail": "differ by 1 < 2"}, {"name": "cost", "ok": True, "detail": "5"}]
    suite = ET.fromstring(render(Verify(folder="out", checks=checks, ok=False)))  # type: ignore[typeddict-item]
    assert [(case.get("classname"), case.get("name")) for case in suite.iter("testcase")] == [
        ("out", "parity"),
        ("out", "cost"),
    ]
    assert [failure.get("message") for failure in suite.iter("failure")] == ["differ by 1 < 2"]
