"""`corpus`: where the text is, and how its files say what a row holds."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from kdcache.config.base import Config, Count, Name, PathText

__all__ = ["CONLLU", "LABEL_SETTINGS", "CorpusConfig"]

CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
"""The columns of CoNLL-U."""

LABEL_SETTINGS = ("label_field", "tags_field")
"""The settings that name a column of labels."""

_DELIMITERS = {"tab": "\t", "space": " ", "comma": ",", "semicolon": ";"}


def _delimiter(value: object) -> object:
    if isinstance(value, str) and len(found := _DELIMITERS.get(value, value)) == 1 and found not in '"\n\r':
        return found
    raise ValueError(f"got {value!r}, expected one character, or {', '.join(_DELIMITERS)}")


def _numbered(value: object) -> object:
    if value is None:
        return None
    if not value or not isinstance(value, list | tuple | dict):
        raise ValueError(f"got {value!r}, expected a list of names, or a mapping from integers to names")
    return value if isinstance(value, dict) else dict(enumerate(value))


class CorpusConfig(Config):
    """Where the text is, and what a row of it holds.

    A row is a line of JSONL or CSV, a row of a Parquet or Arrow table, or a sentence of a CoNLL file. A file of plain
    text is one row; a file above 64 KiB is cut at blank lines.

    paths: files, folders, globs or fsspec URLs, one or a list; .gz, .bz2, .xz and .zst files are decompressed. Of
        format datasets one folder, or one name on the Hugging Face hub.
    format: how the files are written; "datasets" has Hugging Face's library say, by the dataset's card, which files a
        split is of (tables as Parquet, Arrow, JSONL or CSV, also a folder of save_to_disk), and reads these.
    split: of a dataset, by default its only one, or train.
    subset: of a dataset that has several, also called its configuration.
    revision: the branch, tag or commit of a dataset on the hub. The commit is pinned in the header, and a dump goes on
        with the one that it was begun with.
    text_field: the column of the text, where the task reads texts.
    text_pair_field: the column of the second text, where the task reads pairs of texts.
    messages_field: the column of the conversation, where the task reads chats.
    teacher_messages_field: the column of the conversation that the teacher is told in place of messages_field: one with
        more in it, that ends in the same words of the assistant's. Records stand at the student's tokens, and a row
        is refused where what is learnt are not the same tokens in both. For chats.
    label_field: the column of a row's label. Rows without a label may stand beside others.
    tokens_field: the column of the words, where the task reads sentences of words; for a language model the column of
        the token ids of a corpus that is tokenised already, which are taken as they are. In a conll file it is a number
        (columns are counted from 1, or from the end as -1) or a name of CoNLL-U (form, lemma, upos, xpos, feats,
        deprel and so on), by default the first column. A name of CoNLL-U, or a file that ends in .conllu, says that
        the file is CoNLL-U: its comments, ranges (1-2) and empty nodes (1.1) are left out.
    loss_mask_field: the column of lists, as long as tokens_field, with 1 for each token that is learnt and 0 for the
        others, of a corpus that is tokenised already; by default all are learnt.
    tags_field: the column of the words' tags; null reads no tags. In a conll file it is given as tokens_field is, by
        default the last column. Rows without tags may stand beside others.
    delimiter: what stands between two columns of a csv or conll file: one character, or tab, space, comma or
        semicolon. By default a csv file has commas (a .tsv file has TABs), and a conll file has TABs, or spaces in
        lines that have no TAB.
    comment: how the comment lines of a conll file begin; write it in quotes, as in "#".
    columns: the names of the columns of csv files that have no header.
    quotes: whether quotes in a csv file hold together a value that has delimiters or line breaks in it; false where
        quotes are characters like any others, as in many .tsv files.
    label_names: the names of integers in label_field or tags_field: a list that starts at 0, or a mapping such as
        {-1: bad, 1: good}. Parquet and Arrow files that Hugging Face's datasets wrote have the names in them. A row
        with -1 has no label, unless -1 has a name.
    unit_rows: corpus rows per work unit, and so per shard. "auto" aims at 64 units, each of 256 KiB to 2 MiB of
        corpus, so that a small corpus is one unit; above 2 GiB of corpus at 1,024 units or more, of up to 64 MB of
        shard, and of a cache above 0.5 TB up to 256 MB (kdcache/corpus/cutting.py). A dump that goes on keeps the units
        that it was begun with, however much the corpus has grown.
    """

    paths: tuple[PathText, ...]
    format: Literal["jsonl", "parquet", "arrow", "csv", "conll", "text", "datasets"]
    split: Name | None = None
    subset: Name | None = None
    revision: Name | None = None
    text_field: str = "text"
    text_pair_field: str | None = None
    messages_field: str | None = None
    teacher_messages_field: str | None = None
    label_field: str | None = None
    tokens_field: Name | None = None
    loss_mask_field: str | None = None
    tags_field: Name | None = None
    delimiter: Annotated[str, BeforeValidator(_delimiter)] | None = None
    comment: Annotated[str, Field(min_length=1)] | None = None
    columns: tuple[str, ...] | None = None
    quotes: bool = True
    label_names: Annotated[dict[int, str] | None, BeforeValidator(_numbered)] = None
    unit_rows: Count | Literal["auto"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _conll_has_tokens_and_tags(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("format") == "conll":
            data = {"tokens_field": "tokens", "tags_field": "tags"} | data
            for setting in ("tokens_field", "tags_field"):
                if str(data[setting]).lower() in CONLLU:
                    data[setting] = data[setting].lower()
        return data

    @model_validator(mode="after")
    def _settings_fit_the_format(self) -> Self:
        given = {"delimiter": ("csv", "conll"), "comment": ("conll",), "columns": ("csv",), "quotes": ("csv",)}
        given |= dict.fromkeys(("split", "subset", "revision"), ("datasets",))
        for setting, formats in given.items():
            default = type(self).model_fields[setting].default
            if getattr(self, setting) != default and self.format not in formats:
                raise ValueError(f"got {setting} for format {self.format}, expected it for {' or '.join(formats)} only")
        if self.format == "datasets" and len(self.paths) > 1:
            raise ValueError(f"got {len(self.paths)} corpus.paths for format datasets, expected one dataset")
        if self.format == "conll":
            _check_conll_column("tokens_field", self.tokens_field or "tokens", "tokens")
            _check_conll_column("tags_field", self.tags_field or "tags", "tags")
        return self

    @property
    def columns_named(self) -> set[str]:
        """The settings that name a column otherwise than by default."""
        fields = {name for name in type(self).model_fields if name.endswith("_field")}
        usual = {"tokens_field": "tokens", "tags_field": "tags"} if self.format == "conll" else {}
        fields_with = {name: usual.get(name, type(self).model_fields[name].default) for name in fields}
        return {name for name, default in fields_with.items() if getattr(self, name) not in (None, default)}

    @field_validator("paths", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("paths")
    @classmethod
    def _each_says_something(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        """What an unset variable leaves of a path would be the whole working directory, or the whole disk."""
        for path in paths:
            if path.strip() in ("", ".", "/"):
                raise ValueError(f"got {path!r}, expected a file, folder, glob or URL; the working directory is ./")
        if not paths:
            raise ValueError("got none, expected at least one file, folder, glob or URL")
        return paths


def _check_conll_column(setting: str, column: str, default: str) -> None:
    is_number = re.fullmatch(r"-?[1-9]\d*", column) is not None
    if not (is_number or column in (default, *CONLLU)):
        raise ValueError(
            f"got {setting} {column} for format conll, expected {default}, the number of a column, counted from 1, or "
            f"for CoNLL-U one of {', '.join(CONLLU)}"
        )
