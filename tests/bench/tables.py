"""Rows -> Markdown."""

from collections.abc import Iterable, Sequence

__all__ = ["figure", "spread", "table"]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def figure(value: float | None, digits: int = 3) -> str:
    """So many significant digits, never as a power of ten below a billion."""
    if value is None:
        return ""
    if value == 0 or value != value:
        return f"{value:g}"
    text = f"{value:.{digits}g}"
    return f"{float(text):,.0f}" if abs(float(text)) >= 10 ** (digits - 1) else f"{float(text):g}"


def spread(found: tuple[float, float, float]) -> str:
    """A ratio, and its least and greatest in one round."""
    ratio, least, most = found
    return f"{ratio:.2f} ({least:.2f}–{most:.2f})"
