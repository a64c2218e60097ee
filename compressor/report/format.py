"""Numbers and names as short text, the same on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Sequence

NOTHING = "-"
"""What a table shows for a number that was not measured."""


def printable(text: object) -> str:
    """Return `text` on one line; characters that a terminal or browser obeys (controls, bidi marks) become U+FFFD."""
    return "".join(char if char.isprintable() else "\ufffd" for char in " ".join(str(text).split()))


def format_count(value: int) -> str:
    """853018 -> '853,018'; from ten million on in M, from a thousand million on in G."""
    if value < 10_000_000:
        return f"{value:,}"
    return f"{value / 1e6:.1f} M" if value < 1_000_000_000 else f"{value / 1e9:,.2f} G"


def format_number(count: int, noun: str) -> str:
    """Return a count with its noun in the singular or plural.

    Args:
        count: How many.
        noun: The singular; the plural adds an s.

    Returns:
        '1 image', '32 images'.
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def format_shape(shape: Sequence[int] | Sequence[Sequence[int]]) -> str:
    """'3 x 32 x 32', or the shapes of several inputs: '128 and 3 x 8 x 8'."""
    inputs = [size if isinstance(size, Sequence) else [size] for size in shape]
    if not isinstance(next(iter(shape), 0), Sequence):
        inputs = [[size[0] for size in inputs]]
    return " and ".join(" x ".join(map(str, sizes)) for sizes in inputs)


def format_bytes(octets: int) -> str:
    """Bytes in decimal units: 3412345 -> '3.41 MB'."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if octets >= scale:
            return f"{format_significant(octets / scale)} {unit}"
    return f"{octets} B"


def format_significant(value: float) -> str:
    """Three digits, or all digits of the integer part: 4.213 -> '4.21', 42.13 -> '42.1', 0.04213 -> '0.0421'."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".") if abs(value) >= 1e-3 else f"{value:.2e}"


def format_ms(value: float | None) -> str:
    """Milliseconds: '4.21 ms'."""
    return NOTHING if value is None else f"{format_significant(value)} ms"


def format_us(value: float | None) -> str:
    """Microseconds: '133 µs'."""
    return NOTHING if value is None else f"{format_significant(value)} µs"


def format_percent(value: float | None) -> str:
    """A percentage of 0 to 100: '95.10 %'."""
    return NOTHING if value is None else f"{value:.2f} %"


def format_joules(value: float | None) -> str:
    """Energy: '12.3 mJ', '812 J', '12.3 kJ', '1.02 kWh'."""
    if value is None:
        return NOTHING
    for unit, scale in (("kWh", 3.6e6), ("kJ", 1e3), ("J", 1.0)):
        if value >= scale:
            return f"{format_significant(value / scale)} {unit}"
    return f"{format_significant(value * 1e3)} mJ"


def format_ratio(value: float | None, bounds: Sequence[float] | None = None) -> str:
    """Return a ratio with its interval.

    Args:
        value: Dense / slim; None where it was not measured.
        bounds: Low and high end of its interval, where there is one.

    Returns:
        '1.67x', '1.67x [1.60, 1.75]' or '-'.
    """
    if value is None:
        return NOTHING
    return f"{value:.2f}x" + (f" [{bounds[0]:.2f}, {bounds[1]:.2f}]" if bounds else "")


def format_quotient(before: float | None, after: float | None) -> str:
    """Return before / after as a ratio.

    Args:
        before: A quantity of the dense model, such as its bytes.
        after: The same quantity of the slim model.

    Returns:
        '1.67x', or '-' where one of them is missing or zero.
    """
    return format_ratio(before / after if before and after else None)


def format_error(value: float | None) -> str:
    """A numerical error: '1.2e-13', '0', or 'not a number'."""
    return "not a number" if value is None else f"{value:.1e}" if value else "0"


def format_duration(seconds: float) -> str:
    """'0.3 s', '42 s', '3 min 20 s', '1 h 05 min'."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60:02d} min"
