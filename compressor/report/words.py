"""Numbers and names -> short words for people, the same on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compressor.report.schema import IsometryRecord, MetricRecord, OnnxRecord, StableRateRecord, Trainability
from compressor.report.schema_latency import BenchRecord, BenchResult
from compressor.report.schema_sparsity import MasksRecord, QuantisedRecord, SparsityRecord

NOTHING = "-"
PROOFS: Mapping[str, str] = {
    "masked-dense-float64": "slim equals dense with the removed channels' readers zeroed, in float64",
    "restricted-dense-float64": "slim equals dense with norms over the kept channels only and the removed channels' "
    "readers zeroed, in float64",
    "reordered-float64": "the function is the same with the channels in another order, in float64",
    "masked-weights": "every weight is as before or, where it is masked, zero; groups of an N:M pattern keep it",
}


def plain(text: object) -> str:
    """`text` on one line, without what a terminal or browser obeys: controls, bidi marks, surrogates."""
    return "".join(each if each.isprintable() else "�" for each in " ".join(str(text).split()))


def format_count(value: int) -> str:
    """853018 -> '853,018'; from ten million on in M, from a thousand million on in G."""
    if value < 10_000_000:
        return f"{value:,}"
    return f"{value / 1e6:.1f} M" if value < 1_000_000_000 else f"{value / 1e9:,.2f} G"


def format_shapes(sizes: Sequence[int] | Sequence[Sequence[int]], sign: str = "x") -> str:
    """3 x 32 x 32, or the shapes of several inputs."""
    several = [each if isinstance(each, Sequence) else [each] for each in sizes]
    if all(len(each) == 1 for each in several) and not isinstance(next(iter(sizes), 0), Sequence):
        return f" {sign} ".join(str(each[0]) for each in several)
    return " and ".join(f" {sign} ".join(map(str, each)) for each in several)


def format_bytes(octets: int) -> str:
    """Bytes in decimal units: 3412345 -> '3.41 MB'."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if octets >= scale:
            return f"{significant(octets / scale)} {unit}"
    return f"{octets} B"


def significant(value: float) -> str:
    """Three digits or all of the whole part: 4.213 -> '4.21', 42.13 -> '42.1', 0.04213 -> '0.0421'."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".") if abs(value) >= 1e-3 else f"{value:.2e}"


def milliseconds(value: float | None) -> str:
    return NOTHING if value is None else f"{significant(value)} ms"


def microseconds(value: float | None) -> str:
    return NOTHING if value is None else f"{significant(value)} µs"


def energy(joules: float | None) -> str:
    """Of one run: '12.3 mJ'."""
    return NOTHING if joules is None else f"{significant(joules * 1e3)} mJ"


def percent(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f} %"


def name_of(metric: MetricRecord) -> str:
    """'Accuracy', and 'RMSE' as it is written."""
    name = metric["name"]
    return name.upper() if name in ("rmse", "mae") else name[:1].upper() + name[1:]


def quality(value: float | None, metric: MetricRecord) -> str:
    """A metric's value with its unit: '91.42 %', '0.0412 m'."""
    if value is None or metric["unit"] == "%":
        return percent(value)
    return f"{significant(value)} {metric['unit']}".strip()


def format_change(before: float | None, after: float | None, metric: MetricRecord) -> str:
    """Of a percentage in points: '-0.70 points'; of anything else in % of what it was: '+3.20 %'."""
    if before is None or after is None:
        return NOTHING
    if metric["unit"] == "%":
        return f"{after - before:+.2f} points"
    return f"{100 * (after - before) / abs(before):+.2f} %" if before else NOTHING


def ratio(value: float | None, bounds: Sequence[float] | None = None) -> str:
    """'1.67x' or, with its interval, '1.67x [1.60, 1.75]'."""
    if value is None:
        return NOTHING
    return f"{value:.2f}x" + (f" [{bounds[0]:.2f}, {bounds[1]:.2f}]" if bounds else "")


def error(value: float | None) -> str:
    """A numerical error: '1.2e-13', '0', or 'not a number'."""
    return "not a number" if value is None else f"{value:.1e}" if value else "0"


def describe_parity_scope(onnx: OnnxRecord) -> str:
    """' with PyTorch', and in what, where it is not the answers."""
    return " with PyTorch" + ("" if onnx["compared"] == "answers" else f" in the {onnx['compared']}")


def duration(seconds: float) -> str:
    """'0.3 s', '42 s', '3 min 20 s', '1 h 05 min'."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def describe_isometry(stages: Mapping[str, IsometryRecord]) -> str:
    """'dense 2.31 -> surgery 0.52 ± 0.04 (mean Jacobian singular value, 32 images)', by stage."""
    values = [
        f"{stage.removeprefix('after ')} {significant(each['mean'])}"
        + (f" ± {significant(each['error'])}" if each["error"] else "")
        for stage, each in stages.items()
    ]
    images = max(each["images"] for each in stages.values())
    return f"{' -> '.join(values)} (mean Jacobian singular value, {images} image{'s' if images != 1 else ''})"


def describe_trainability(found: Trainability) -> str:
    """'88.10 % (mean over the first 60 epochs)'."""
    epochs = "the first epoch" if found["epochs"] == 1 else f"the first {found['epochs']} epochs"
    return f"{percent(found['accuracy'])} (mean over {epochs} of retraining)"


def describe_stable_rate(found: StableRateRecord) -> str:
    """'0.042 for gradient descent on 32 images (a hint: 2 (1 + momentum) / curvature 90.4 where retraining starts)'."""
    return (
        f"{significant(found['lr'])} for gradient descent on {found['images']} images (a hint: 2 (1 + momentum) / "
        f"curvature {significant(found['curvature'])} where retraining starts)"
    )


def describe_proof(kind: str) -> str:
    """What a certificate of this kind says."""
    return "; then ".join(PROOFS.get(each, plain(each)) for each in kind.split("+"))


def describe_measurement(bench: BenchRecord | BenchResult) -> str:
    """How latency was measured: '1 thread, batch 1, onnxruntime 1.31 CPU, on local'."""
    threads, batch = bench["threads"], bench["batch"]
    parts = (
        "" if threads is None else f"{threads} thread{'s' if threads != 1 else ''}",
        "" if batch is None else f"batch {batch}",
        f"{bench['runtime'] or ''} {(bench['provider'] or '').removesuffix('ExecutionProvider')}".strip(),
        f"on {bench['target']}",
    )
    return plain(", ".join(filter(None, parts)))


def describe_int8(record: QuantisedRecord, metric: MetricRecord) -> str:
    """'model.int8.onnx, 322 kB, 85.90 %; 18 weights keep the pattern'."""
    sparse = "" if record["sparse"] is None else f"; {record['sparse']} weights keep the pattern"
    return f"model.int8.onnx, {format_bytes(record['onnx_bytes'])}, {quality(record['quality'], metric)}{sparse}"


def describe_sparsity(record: SparsityRecord) -> str:
    """'2:4 in 19 of 22 layers; masks keep 76.4 % of the weights' magnitude, ...'."""
    pattern, kept = ":".join(map(str, record["pattern"])), record["kept_percent"]
    ordered = f" ({kept['first']:.1f} % before the channels were put in order)"
    return (
        f"{pattern} in {record['eligible']} of {len(record['layers'])} layers; masks keep {kept['now']:.1f} % of the "
        f"sum of |w|{ordered if kept['first'] != kept['now'] else ''}, {kept['now'] / kept['bound']:.1%} of what any "
        f"pattern with as many zeros could; {record['onnx_initializers']} weights of model.onnx keep the rule"
    )


def describe_masks(record: MasksRecord) -> str:
    """'95.00 % of 11.2 M weights are zero or gone, from 41.2 % in conv1 to 99.1 % in fc'."""
    by_layer = sorted((100 * (1 - each["left"] / each["weights"]), each["name"]) for each in record["layers"])
    (least, dense), (most, sparse) = by_layer[0], by_layer[-1]
    return (
        f"{record['sparsity_percent']:.2f} % of {format_count(record['weights'])} weights are zero or gone, from "
        f"{least:.1f} % in {plain(dense)} to {most:.1f} % in {plain(sparse)}; {record['onnx_initializers']} of "
        f"{len(record['layers'])} weights of model.onnx show it"
    )
