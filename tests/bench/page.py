"""Results -> the page. What stands between the two marks of RESULTS.md is made here; the rest is written by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.part import Part

__all__ = ["BEGIN", "END", "page", "write"]

BEGIN = "<!-- python -m tests.bench writes from here -->"
END = "<!-- to here -->"


def page(results: Sequence[tuple[Part, dict[str, Any] | None]]) -> str:
    """A section for each part, in this order; its latest result, or why there is none."""
    return "\n\n".join(_section(part, result) for part, result in results)


def write(path: Path, text: str) -> None:
    """Put it between the marks of a page; a page without them becomes the marks and the text."""
    before, _, rest = path.read_text().partition(BEGIN) if path.exists() else ("", "", "")
    after = rest.partition(END)[2] or "\n"
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def _section(part: Part, result: dict[str, Any] | None) -> str:
    lines = [f"## {part.title}", ""]
    if result is None:
        return "\n".join([*lines, f"`python -m tests.bench {part.name}` has not run here."])
    if "failure" in result:
        failure = result["failure"]
        earlier = "; below is what it gave before" if "rows" in result else ""
        lines += [
            f"**`python -m tests.bench {part.name}` failed on {failure['date']}**: {failure['why']}{earlier}.",
            "",
        ]
    if "rows" in result:
        lines += [_where(part, result), "", part.render(result["rows"]).strip()]
    return "\n".join(lines).strip()


def _where(part: Part, result: dict[str, Any]) -> str:
    libraries = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    load = f", load average {result['load']:g}" if result.get("load") is not None else ""
    small = "**With `--quick`, so not to be quoted.** " if result["quick"] else ""
    return (
        f"{small}`python -m tests.bench {part.name}`, {result['date']}, {result['machine']}{load}; it took "
        f"{result['seconds'] / 60:.1f} minutes; commit {result['commit']}; {libraries}."
    )
