"""The command; the docstring of the package says what it does."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import tests.bench
from tests.bench import page
from tests.bench.part import PARTS, Part, load
from tests.bench.running import read, run

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE / "RESULTS.md"


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m tests.bench", description=tests.bench.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="by default all that take minutes, not hours")
    parser.add_argument("--list", action="store_true", help="name the parts and run none")
    parser.add_argument("--quick", action="store_true", help="small, into a folder under the temporary one")
    parser.add_argument("--render", action="store_true", help="make the page of the results that are there")
    options = parser.parse_args()
    unknown = [name for name in options.parts if name not in PARTS]
    if unknown:
        parser.error(f"got {', '.join(unknown)}, expected some of {', '.join(PARTS)}")
    folder = Path(tempfile.gettempdir()) / "kdcache-bench-quick" if options.quick else RESULTS
    parts = [load(name) for name in PARTS]
    if options.list:
        print("\n".join(_line(part, folder) for part in parts))
        return 0
    chosen = [p for p in parts if (p.name in options.parts if options.parts else p.usual)]
    failed = [] if options.render else [part.name for part in chosen if not _run(part, folder, options.quick)]
    target = folder / "RESULTS.md" if options.quick else PAGE
    page.write(target, page.page([(part, read(folder, part.name)) for part in parts]))
    print(target)
    if failed:
        print(f"failed: {', '.join(failed)}; the page says why", file=sys.stderr)
    return 1 if failed else 0


def _run(part: Part, folder: Path, quick: bool) -> bool:
    print(f"{part.name}: {part.title}", flush=True)
    started = time.perf_counter()
    result = run(part, folder, quick=quick)
    failure = result.get("failure")
    outcome = f"failed: {failure['why']}" if failure else "done"
    print(f"    {outcome} after {time.perf_counter() - started:.0f} s", flush=True)
    return failure is None


def _line(part: Part, folder: Path) -> str:
    result = read(folder, part.name) or {}
    last = f"last ran {result['date']}" if "rows" in result else "has not run"
    if "failure" in result:
        last += f"; failed {result['failure']['date']}"
    usual = "" if part.usual else "; only when named"
    return f"{part.name:<14}{part.minutes:>4g} min  {part.title} ({last}{usual})"


if __name__ == "__main__":
    sys.exit(main())
