"""Write docstrings of Python's standard library as JSONL: real English text that every machine has.

    python launch/make_corpus.py OUT                 the text of launch/quickstart_text.txt
    python launch/make_corpus.py --pin 280 40        print such a list of this Python's docstrings

OUT/train.jsonl and OUT/heldout.jsonl hold {"text", "source"} rows from different modules, so that no docstring is in
both. Which docstrings they are is pinned by digest, since installations of Python differ: where every n-th of all
docstrings was taken, one file more or less moved all that came after it, and Python 3.12.1 gave 39 of the 280 rows that
3.11.7 gives, although it has 254 of them. What this installation lacks is left out and told. Nothing is imported:
sources are parsed.
"""

import argparse
import ast
import hashlib
import json
import platform
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

PINNED = Path(__file__).parent / "quickstart_text.txt"
"""Lines of "train" or "heldout", the first 16 digits of a docstring's sha256, and its module."""
HELDOUT_PERCENT = 10
SHORTEST = 200  # characters
LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__", "turtledemo", "ensurepip"}


def docstrings(folder: Path) -> Iterator[tuple[str, str]]:
    """(module, docstring) of every module, class and function, in sorted order, each text once."""
    seen: set[str] = set()
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).parts
        if LEFT_OUT & set(parts):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                if len(text) >= SHORTEST and text not in seen:
                    seen.add(text)
                    yield "/".join(parts), text


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def chosen(found: dict[str, str], pinned: list[tuple[str, str, str]], part: str) -> tuple[list[dict[str, str]], int]:
    """The rows of a part in the order of their pins, and how many pins are not among the docstrings found."""
    wanted = [(sha256, module) for name, sha256, module in pinned if name == part]
    rows = [{"text": found[sha256], "source": module} for sha256, module in wanted if sha256 in found]
    return rows, len(wanted) - len(rows)


def read_pins(path: Path) -> list[tuple[str, str, str]]:
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    return [(part, sha256, module) for part, sha256, module in lines]


def pins(found: list[tuple[str, str]], train: int, heldout: int) -> Iterator[str]:
    """Lines that pin so many of these docstrings, spread over the library; a tenth of its modules is held out."""
    for part, wanted in (("train", train), ("heldout", heldout)):
        rows = [(module, text) for module, text in found if held_out(module) == (part == "heldout")]
        step = max(1, len(rows) // wanted)
        yield from (f"{part} {digest(text)} {module}" for module, text in rows[::step][:wanted])


def held_out(module: str) -> bool:
    """By a digest of the module's name: the same modules on every machine."""
    return hashlib.sha256(module.encode()).digest()[0] * 100 // 256 < HELDOUT_PERCENT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--pin", type=int, nargs=2, metavar=("TRAIN", "HELDOUT"), help="print a new list of pins")
    arguments = parser.parse_args()
    library = [*docstrings(Path(sysconfig.get_paths()["stdlib"]))]
    if arguments.pin:
        print("\n".join(pins(library, *arguments.pin)))
        return
    if arguments.out is None:
        parser.error("got no OUT, expected the folder to write to")
    arguments.out.mkdir(parents=True, exist_ok=True)
    found, pinned = {digest(text): text for _, text in library}, read_pins(PINNED)
    for part in ("train", "heldout"):
        rows, missing = chosen(found, pinned, part)
        path = arguments.out / f"{part}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        print(f"{path}: {len(rows)} docstrings")
        if missing:
            print(f"  {missing} more are not in Python {platform.python_version()}: figures will not be the README's")


if __name__ == "__main__":
    main()
