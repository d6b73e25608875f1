"""Write the docstrings of Python's standard library as JSONL: real English text that every machine has.

    python launch/make_corpus.py OUT --train-rows 700 --heldout-rows 60

OUT/train.jsonl and OUT/heldout.jsonl hold {"text", "source"} rows from different modules, so that no docstring is in
both. Nothing is imported: sources are parsed.
"""

import argparse
import ast
import hashlib
import json
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

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


def held_out(module: str) -> bool:
    """By a digest of the module's name: the same modules on every machine."""
    return hashlib.sha256(module.encode()).digest()[0] * 100 // 256 < HELDOUT_PERCENT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--train-rows", type=int, default=700)
    parser.add_argument("--heldout-rows", type=int, default=60)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: dict[bool, list[str]] = {False: [], True: []}
    for module, text in docstrings(Path(sysconfig.get_paths()["stdlib"])):
        rows[held_out(module)].append(json.dumps({"text": text, "source": module}))
    for name, wanted, lines in (
        ("train", arguments.train_rows, rows[False]),
        ("heldout", arguments.heldout_rows, rows[True]),
    ):
        step = max(1, len(lines) // wanted)  # spread over the library, not its first modules
        chosen = lines[::step][:wanted]
        (arguments.out / f"{name}.jsonl").write_text("\n".join(chosen) + "\n", encoding="utf-8")
        print(f"{arguments.out / name}.jsonl: {len(chosen)} docstrings")


if __name__ == "__main__":
    main()
