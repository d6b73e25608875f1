"""Options: the kinds of paths, and the options that several commands share."""

from typing import Any

import click

from kdcache.config.paths import check_local, expanded
from kdcache.errors import ConfigError, printable

__all__ = ["LOCAL", "PATH", "shown", "with_force", "with_module", "with_overrides", "with_trust"]


class _Path(click.ParamType):
    """A path or URL, with ~ and $NAME expanded: a shell does not expand them after an equals sign."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return expanded(str(value))


class _LocalPath(_Path):
    """A path, and no URL."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        path = super().convert(value, param, ctx)
        try:
            return check_local(path)
        except ConfigError as error:
            name = param.human_readable_name if param is not None else "a path"
            raise ConfigError(f"{name}: {error}") from None


PATH = _Path()
LOCAL = _LocalPath()


def _import_first(ctx: click.Context, param: click.Parameter, module: str | None) -> None:
    from kdcache.registry import import_extensions

    import_extensions(module)


with_module = click.option(
    "--module",
    help="Module of yours to import first, which registers what the cache or a student is made of.",
    callback=_import_first,
    expose_value=False,
    is_eager=True,
    metavar="MODULE",
)

with_overrides = click.option(
    "-o",
    "--override",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Replace a setting of the file, e.g. -o output=runs/cache -o task.sequence_length=512. May be given several "
    "times.",
)

with_trust = click.option(
    "--trust-remote-code", is_flag=True, help="Let Python code that comes with the models run on this machine."
)

with_force = click.option(
    "--force",
    is_flag=True,
    help="Write into an output folder that kdcache did not make, or in which another command writes; says what that "
    "overrides, and deletes no file that kdcache did not write.",
)


def shown(text: str) -> str:
    """A text of several lines, without what would steer a terminal."""
    return printable(text, lines=True)
