"""The entry point: one line for every error that kdcache raised on purpose, and the exit status.

0 done (of one rank of a dump: its own shards, and it says how many the others still make), 1 the work failed, 2 the
command or its config was wrong: a path in it that is not there is always 2 (errors.py, missing_path); 75 for a training
run that was told to stop and goes on with the same command.
"""

import contextlib
import logging
import sys
import warnings
from typing import Any

import click

from kdcache.cli.commands import cli
from kdcache.cli.options import shown
from kdcache.disk import what_to_do
from kdcache.errors import LONGEST_LINE, KdcacheError, printable

__all__ = ["main"]


def main() -> None:
    """Entry point of the console script: one line for an error that kdcache raised on purpose."""
    # DeepSpeed, which transformers imports too, says this on standard output wherever there is no GPU.
    _neutralise_what_libraries_say()
    logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator" not in record.getMessage())
    try:
        cli.main(prog_name="kdcache", standalone_mode=False)
    except KdcacheError as error:
        _complain(str(error))
        sys.exit(error.exit_status)
    except OSError as error:
        if (words := what_to_do(error)) is None:
            raise
        _complain(words)
        sys.exit(1)
    except click.exceptions.Abort:
        _complain("interrupted; run the same command again to go on")
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        where = getattr(error, "ctx", None)
        hint = f"; see {where.command_path} --help" if where else ""
        _complain(f"{' '.join(error.format_message().split()).rstrip('.')}{hint}")
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)


def _complain(text: str) -> None:
    print(f"kdcache: {printable(text, limit=LONGEST_LINE)}", file=sys.stderr)


def _neutralise_what_libraries_say() -> None:
    """Their log lines and warnings quote configs and names too."""
    made, worded = logging.getLogRecordFactory(), warnings.formatwarning
    if made is not logging.LogRecord:
        return

    def record(*given: Any, **named: Any) -> logging.LogRecord:
        line = made(*given, **named)
        with contextlib.suppress(Exception):  # a line that does not fit its arguments: logging says so itself
            line.msg, line.args = shown(line.getMessage()), ()
        return line

    def worded_plainly(*given: Any, **named: Any) -> str:
        return shown(worded(*given, **named))

    logging.setLogRecordFactory(record)
    warnings.formatwarning = worded_plainly
