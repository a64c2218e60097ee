"""What a certificate's kind says of the arithmetic and of what was compared."""

from __future__ import annotations

import pytest

from compressor.report.findings.surgery_certificate import MEANING, SurgeryCertificate


def shown(kind: str) -> str:
    record = {"kind": kind, "max_abs_error": 0.0, "max_rel_error": 0.0, "ok": True}  # earlier versions had no tolerance
    (fact,) = SurgeryCertificate().terminal({"certificate": record})
    return fact.text


@pytest.mark.parametrize("kind", ["masked-dense-float64", "restricted-dense-float64", "reordered-float64"])
def test_the_arithmetic_is_named(kind: str) -> None:
    assert MEANING[kind] in shown(kind)
    in_float32 = shown(kind.replace("float64", "float32"))
    assert ("float64" in in_float32, "float32" in in_float32) == (False, True)
    assert MEANING[kind].replace("float64", "float32") in in_float32


def test_equal_choices_are_said_once_for_their_proof() -> None:
    kind = "masked-dense-float64"
    alone, chosen = shown(kind), shown(f"{kind}-equal-choices")
    assert len(chosen) > len(alone)
    both = shown(f"{kind}-equal-choices+masked-weights")
    assert MEANING[kind] in both
    assert MEANING["masked-weights"] in both
