"""The command line: reads arguments and settings files, and calls the rooms. No logic of theirs is here.

entry        the entry point: errors in one line, exit statuses
commands     the group of all commands
options      kinds of paths, and options that several commands share
dump_logits  `kdcache dump-logits`
train        `kdcache train`
export       `kdcache export`
evaluate     `kdcache eval`
inspect      `kdcache inspect`
import_      `kdcache import`
verify       `kdcache verify`
plan         `kdcache plan`
convert      `kdcache convert`
merge        `kdcache merge`
filter       `kdcache filter`
ensemble     `kdcache ensemble`
cut          `kdcache cut`
push         `kdcache push`
fetch        `kdcache fetch`

A new command is one file and a line in `commands`. A command imports its room inside its function, so that
`kdcache inspect` and `--help` start in under a second.
"""

from kdcache.cli.commands import cli
from kdcache.cli.entry import main

__all__ = ["cli", "main"]
