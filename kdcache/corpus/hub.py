"""A dataset of Hugging Face's `datasets`, on the hub or in a folder -> the files that hold one of its splits.

`datasets` reads the dataset's card and says which files a subset and a split are of; kdcache reads these files itself,
as it reads any others. So rows are read by ranges where they lie: a Parquet file on the hub is streamed, a row group at
a time, and nothing is converted or copied (but compressed files are decompressed, as everywhere). There is no second,
streaming mode, because an IterableDataset can neither be entered at a row nor cut into units of a known number of rows.
But for the card, nothing is written into the cache folders of `datasets`, so that no rank waits for another's lock.

A folder of `save_to_disk` holds Arrow files, which its state.json lists. A name on the hub is resolved to a commit.
"""

import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdcache.corpus.settings import CorpusConfig
from kdcache.errors import ConfigError, CorpusError, one_line
from kdcache.near import did_you_mean

__all__ = ["DatasetFiles", "is_commit", "resolved"]

FORMATS = {"parquet": "parquet", "arrow": "arrow", "json": "jsonl", "csv": "csv"}
"""Module of `datasets` -> format of a corpus."""
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar")
NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class DatasetFiles:
    """The files of a split.

    Attributes:
        config: The settings with the split, the subset and the commit that were found.
        files: The settings that read its files.
        class_names: The names of the integers of columns, where the dataset's card has them.
    """

    config: CorpusConfig
    files: CorpusConfig
    class_names: Mapping[str, list[str]] = field(default_factory=dict)


def is_commit(revision: str | None) -> bool:
    """Whether it can mean one state of a repository alone."""
    return revision is not None and re.fullmatch("[0-9a-f]{40}", revision) is not None


def resolved(config: CorpusConfig) -> DatasetFiles:
    """Find the files of a dataset.

    Args:
        config: Of format datasets.

    Raises:
        ConfigError: `datasets` is not installed, or there is no such subset, split or revision.
        CorpusError: There is no such dataset, it cannot be reached, or its files are none that kdcache reads.
    """
    (path,) = config.paths
    folder = Path(path)
    if folder.is_dir():
        if config.revision is not None:
            raise ConfigError(
                f"got corpus.revision {config.revision} for the folder {path}, expected it for a dataset on the hub "
                "only"
            )
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            return _saved(config, folder)
    elif os.path.exists(path) or not NAME.fullmatch(path):
        raise CorpusError(
            f"got corpus path {path} for format datasets, expected a folder that is there, or a name on the Hugging "
            "Face hub such as owner/name; for single files set corpus.format to theirs"
        )
    return _built(config, path, on_hub=not folder.is_dir())


def _saved(config: CorpusConfig, folder: Path) -> DatasetFiles:
    """Of a folder that `save_to_disk` wrote."""
    if config.subset is not None:
        raise ConfigError(f"got corpus.subset {config.subset} for {folder}, a saved dataset, which has no subsets")
    whole = _json(folder / "dataset_dict.json") if (folder / "dataset_dict.json").is_file() else None
    if whole is not None:
        split = _split(config, [str(name) for name in whole.get("splits", ())], str(folder))
        folder = folder / split
    state = _json(folder / "state.json")
    if whole is None:
        own = state.get("_split")
        split = config.split or str(own or "train")
        if config.split is not None and own is not None and config.split != own:
            raise ConfigError(f"got corpus.split {config.split}, expected {own}, the one that {folder} holds")
    try:
        names = [entry["filename"] for entry in state["_data_files"]]
        sound = bool(names) and all(os.path.basename(name) == name for name in names)
    except (KeyError, TypeError):
        sound = False
    if not sound or state.get("_indices_files"):
        raise CorpusError(
            f"{folder / 'state.json'} does not list the Arrow files beside it, expected a folder that save_to_disk "
            "wrote: save it again"
        )
    paths = [str(folder / name) for name in names]
    if lost := [path for path in paths if not os.path.isfile(path)]:
        raise CorpusError(f"{lost[0]} is not there, and {folder / 'state.json'} lists it: save the dataset again")
    return DatasetFiles(config.model_copy(update={"split": split}), _reading(config, "arrow", paths))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CorpusError(f"{path} cannot be read ({one_line(error)}): save the dataset again") from None
    if not isinstance(found, dict):
        raise CorpusError(f"{path} is not what save_to_disk writes: save the dataset again")
    return found


def _built(config: CorpusConfig, path: str, *, on_hub: bool) -> DatasetFiles:
    """Of a folder of files, or of a name on the hub."""
    try:
        import datasets
    except ImportError:
        raise ConfigError(
            'got corpus.format datasets without the package datasets, expected it: pip install "kdcache[hub]"'
        ) from None
    revision = _commit(path, config.revision) if on_hub else None
    datasets.disable_progress_bars()
    try:
        subset = _subset(datasets, path, config.subset, revision)
        with tempfile.TemporaryDirectory() as scratch:
            builder = datasets.load_dataset_builder(path, subset, revision=revision, cache_dir=scratch)
    except ConfigError:
        raise
    except Exception as error:  # it raises many classes, some of them its own
        raise CorpusError(f"datasets cannot tell the files of {path}: {one_line(error)}") from None
    module = type(builder).__module__.rpartition(".")[2]
    files = getattr(builder.config, "data_files", None) or {}
    if module not in FORMATS:
        raise CorpusError(
            f"got {path}, whose files datasets reads as {module}, expected one of {', '.join(FORMATS)}: kdcache "
            "distils text, from tables; for files of plain text set corpus.format: text and their paths"
        )
    split = _split(config, [str(name) for name in files], path)
    paths = [str(file) for file in files[split]]
    if packed := [name for name in paths if name.lower().endswith(ARCHIVES) or "::" in name]:
        raise CorpusError(f"got {packed[0]} in {path}, an archive, expected files that are not packed: unpack it first")
    return DatasetFiles(
        config.model_copy(update={"split": split, "subset": subset, "revision": revision}),
        _reading(config, FORMATS[module], paths, getattr(builder.config, "delimiter", None)),
        _class_names(builder.info.features),
    )


def _commit(name: str, revision: str | None) -> str:
    """The commit that a branch, a tag or nothing means now."""
    from huggingface_hub import HfApi

    try:
        found = HfApi().dataset_info(name, revision=revision).sha
    except Exception as error:  # of huggingface_hub, of the library below it, or of the network
        raise CorpusError(
            f"cannot find the dataset {name}{f' at revision {revision}' if revision else ''} on the hub: "
            f"{one_line(error).rstrip('.')}; without a network give a folder that holds it"
        ) from None
    assert found is not None
    return found


def _subset(datasets: Any, path: str, wanted: str | None, revision: str | None) -> str | None:
    """None where the dataset has one alone, without a name."""
    known = [str(name) for name in datasets.get_dataset_config_names(path, revision=revision)]
    if wanted is not None and wanted not in known:
        hint = did_you_mean(wanted, known)
        raise ConfigError(f"got corpus.subset {wanted}, expected one of {', '.join(known)}, those of {path}{hint}")
    if wanted is None and len(known) > 1 and "default" not in known:
        raise ConfigError(f"got no corpus.subset, expected one of {', '.join(known[:20])}, those of {path}")
    return wanted


def _split(config: CorpusConfig, known: list[str], path: str) -> str:
    """The one that is asked for; without a wish the only one, or train."""
    if config.split is None and len(known) == 1:
        return known[0]
    split = config.split or "train"
    if split in known:
        return split
    hint = did_you_mean(split, known) if config.split else ""
    got = f"corpus.split {split}" if config.split else "no corpus.split"
    raise ConfigError(f"got {got}, expected one of {', '.join(known) or 'none'}, the splits of {path}{hint}")


def _reading(config: CorpusConfig, format: str, paths: list[str], delimiter: str | None = None) -> CorpusConfig:
    own = {"split": None, "subset": None, "revision": None}
    given = {"delimiter": delimiter} if format == "csv" and delimiter else {}
    return config.model_copy(update={"format": format, "paths": tuple(paths), **own, **given})


def _class_names(features: Any) -> dict[str, list[str]]:
    """Of columns of class labels, and of lists of them."""
    found = {}
    for column, feature in (features or {}).items():
        item = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", feature)
        if names := getattr(item, "names", None):
            found[str(column)] = [str(name) for name in names]
    return found
