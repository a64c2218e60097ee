"""Gates and proofs as JUnit XML, which pipelines show as tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from compressor.report.format import printable


class Case(NamedTuple):
    """A test case: whether it holds, and what was required and found."""

    name: str
    ok: bool
    message: str


def render(result: Mapping[str, Any]) -> str:
    """The XML for a report, or for the result of `compress verify`."""
    return render_verify(result) if "checks" in result else render_report(result)


def render_report(report: Mapping[str, Any]) -> str:
    """The two proofs that every run makes, and each target and gate of the recipe."""
    proofs = [
        Case(name, report[key]["ok"], f"largest error {report[key]['max_abs_error']}")
        for name, key in (("certificate", "certificate"), ("parity", "onnx"))
    ]
    gates = [
        Case(gate["name"], gate["ok"], f"asked {gate['asked']}, found {gate['found']}") for gate in report["gates"]
    ]
    return junit(report["model"], sum(report["seconds"].values()), [*proofs, *gates])


def render_verify(result: Mapping[str, Any]) -> str:
    """Each check of an output folder."""
    checks = (Case(check["name"], check["ok"], check["detail"]) for check in result["checks"])
    return junit(result["folder"], 0.0, checks)


def junit(model: str, seconds: float, cases: Iterable[Case]) -> str:
    """Return one test suite.

    Args:
        model: Class name of every test case.
        seconds: Time of the suite.
        cases: One that does not hold is a failure with its message.
    """
    suite = Element("testsuite", name="compress", time=f"{seconds:.3f}")
    suite.extend(_elements(model, cases))
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", "0")
    root = Element("testsuites")
    root.append(suite)
    indent(root)
    return tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def _elements(model: str, cases: Iterable[Case]) -> Iterator[Element]:
    for case in cases:
        element = Element("testcase", classname=printable(model), name=printable(case.name), time="0")
        message = printable(case.message)
        child = SubElement(element, "system-out" if case.ok else "failure", {} if case.ok else {"message": message})
        child.text = message
        yield element
