"""Compare the table that `kdcache eval` printed with the one in a page, and say which figures differ by how much.

    python launch/compare_table.py runs/quickstart/table.txt README.md

The page's table is the first of its blocks with the same columns. Processors differ in the last digits of a figure, so
that a difference is told and never fails a script.
"""

import argparse
import re
from pathlib import Path

COLUMNS = re.compile(r"\s{2,}")


def table_of(text: str) -> dict[tuple[str, str], str]:
    """(row, column) -> figure, of the first table in a text: a line of columns, then a line for each row."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if "label NLL" in line and line.startswith("  ")), None)
    if start is None:
        return {}
    columns = COLUMNS.split(lines[start].strip())
    found = {}
    for line in lines[start + 1 :]:
        name, *figures = COLUMNS.split(line.strip())
        if len(figures) != len(columns):
            break
        found |= {(name, column): figure for column, figure in zip(columns, figures, strict=True)}
    return found


def number(figure: str) -> float | None:
    """Of "49,850.6", "7.14 M" or "15.3%"; None for what is no number."""
    try:
        return float(figure.replace(",", "").removesuffix("%").removesuffix("M").strip())
    except ValueError:
        return None


def differences(got: dict[tuple[str, str], str], expected: dict[tuple[str, str], str], page: str) -> list[str]:
    """A line for each figure that is another than the page's, or that one of the two lacks."""
    found = []
    for key in dict.fromkeys([*expected, *got]):
        ours, theirs = got.get(key, "nothing"), expected.get(key, "nothing")
        if ours == theirs:
            continue
        first, second = number(ours), number(theirs)
        by = "" if first is None or second is None else f" ({first - second:+.4g})"
        found.append(f"{key[0]}, {key[1]}: {ours} here, {theirs} in {page}{by}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("printed", type=Path, help="what kdcache eval printed")
    parser.add_argument("page", type=Path, help="the page with the table")
    arguments = parser.parse_args()
    texts = [path.read_text(encoding="utf-8") if path.is_file() else "" for path in vars(arguments).values()]
    got, expected = map(table_of, texts)
    if not got or not expected:
        missing = arguments.page if got else arguments.printed
        print(f"{missing} holds no table of students, so that nothing is compared")
        return
    found = differences(got, expected, arguments.page.name)
    if not found:
        print(f"every figure is that of {arguments.page.name}")
        return
    print(f"{len(found)} of {len(expected)} figures are not those of {arguments.page.name}:", *found, sep="\n  ")


if __name__ == "__main__":
    main()
