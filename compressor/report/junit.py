"""Gates and proofs as JUnit's XML, which pipelines show as tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from compressor.report.schema import Report
from compressor.report.schema_verbs import Verify
from compressor.report.words import plain

Case = tuple[str, bool, str]
"""name, whether it holds, and what was asked and found"""


def render(result: Report | Verify) -> str:
    """What a run or `compress verify` found."""
    return of_verify(cast(Verify, result)) if "checks" in result else of_report(result)


def of_report(report: Report) -> str:
    """Each gate and target of the recipe, and the two proofs every run makes."""
    proofs: list[Case] = [
        ("certificate", report["certificate"]["ok"], f"largest error {report['certificate']['max_abs_error']}"),
        ("parity", report["onnx"]["ok"], f"largest error {report['onnx']['max_abs_error']}"),
    ]
    gates = ((gate["name"], gate["ok"], f"asked {gate['asked']}, found {gate['found']}") for gate in report["gates"])
    return junit(report["model"], sum(report["seconds"].values()), [*proofs, *gates])


def of_verify(result: Verify) -> str:
    """Each check of an output folder."""
    return junit(result["folder"], 0.0, ((check["name"], check["ok"], check["detail"]) for check in result["checks"]))


def junit(model: str, seconds: float, cases: Iterable[Case]) -> str:
    """One suite, one test a case; a case that does not hold is a failure with its words as the message."""
    suite = Element("testsuite", name="compress", time=f"{seconds:.3f}")
    suite.extend(_cases(model, cases))
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", "0")
    root = Element("testsuites")
    root.append(suite)
    indent(root)
    return tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def _cases(model: str, cases: Iterable[Case]) -> Iterator[Element]:
    for name, ok, words in cases:
        case = Element("testcase", classname=plain(model), name=plain(name), time="0")
        SubElement(case, "system-out" if ok else "failure", {} if ok else {"message": plain(words)}).text = plain(words)
        yield case
