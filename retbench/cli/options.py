"""Options of commands, made from settings: their types, their help in groups, their completion."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from retbench import suites
from retbench.config import values as value
from retbench.config.run import HOW_SURE, OUTPUT, SWEEP, WHAT, WHERE, ModelsConfig, TimedConfig
from retbench.config.settings import ByDevice, Settings, Spec, first_line

Folder = Annotated[Path, typer.Argument(help="A run directory.", metavar="DIR")]
Quiet = Annotated[
    bool, typer.Option("--quiet", help="Print no progress and no summary.", rich_help_panel=OUTPUT)
]
AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON document on stdout.", rich_help_panel=OUTPUT)
]


def option(help: str, metavar: str | None = None, group: str | None = None, **more: Any) -> Any:
    """An option that no setting gives, described as :class:`Spec` does; more is for typer."""
    return typer.Option(help=help, metavar=metavar, rich_help_panel=group, **more)


def path_option(help: str, metavar: str = "PATH", group: str | None = None) -> Any:
    """An option for a path; ``~`` is the user's home, which shells leave in ``--out=~/x``."""
    return option(help, metavar, group, parser=_path)


def _path(word: str) -> Path:
    try:
        return Path(value.path(word))
    except ValueError as problem:
        raise typer.BadParameter(str(problem)) from None


_TRAINING = "Training"
_GROUPS = (WHAT, _TRAINING, SWEEP, HOW_SURE, WHERE, OUTPUT)


def completing(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What a shell offers for the beginning of a name; of names with commas between for the last.

    Args:
        names: gives those that there are.
    """

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [before + comma + name for name in names() if name.startswith(last)]

    return complete


suite_names = completing(suites.names)


def options(settings: type[Settings], *names: str, **shown: str) -> dict[str, Spec]:
    """A class's settings, each by the argument that takes it in a command.

    Args:
        settings: the class.
        names: of the fields; all that a user chooses where there are none.
        shown: the default in words of those to which a command gives another.
    """
    every = settings.settings()
    found = {every[name].flag or name: every[name] for name in names or settings.by_key().values()}
    return found | {name: replace(every[name], shown=words) for name, words in shown.items()}


def of_all_suites() -> dict[str, Spec]:
    """The settings of all suites by the parameter that takes each; of equal names the first."""
    found: dict[str, Spec] = {}
    for name in suites.names():
        found = options(suites.get(name).config) | found
    return found


def with_options(entries: Mapping[str, Spec]) -> Callable[[Callable[..., None]], Any]:
    """Decorator of a command: an option for each setting; the command takes those that are given.

    Args:
        entries: settings by the name of the command's argument.
    """

    def add(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters.values()
        plain = [each for each in own if each.kind is not inspect.Parameter.VAR_KEYWORD]

        @functools.wraps(command)
        def called(**words: Any) -> None:
            absent = [key for key in entries if words[key] is None or words[key] == []]
            command(**{key: word for key, word in words.items() if key not in absent})

        made = [_parameter(key, entry) for key, entry in entries.items()]
        called.__signature__ = inspect.Signature([*plain, *made])  # type: ignore[attr-defined]
        return called

    return add


def _parameter(key: str, entry: Spec) -> inspect.Parameter:
    name, metavar = _flag(key), _metavar(entry)
    option = typer.Option(
        name, help=_help(entry), metavar=metavar or None, rich_help_panel=entry.group or _TRAINING,
        show_default=False,
        autocompletion=completing(lambda: getattr(entry.reader, "known", None) or entry.choices()),
    )  # fmt: skip
    kind = inspect.Parameter.KEYWORD_ONLY
    annotation: Any = Annotated[_type(entry) | None, option]
    return inspect.Parameter(key, kind, default=None, annotation=annotation)


def _flag(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _type(entry: Spec) -> Any:
    """What typer makes of the words behind a flag; the setting's reader sees to the rest."""
    if entry.repeats:
        return list[str]
    if isinstance(entry.reader, value.Number):
        return entry.reader.type
    return bool if entry.reader is value.boolean else str


def _metavar(entry: Spec) -> str:
    reader = entry.reader
    if entry.metavar or reader is value.boolean:
        return entry.metavar
    if isinstance(reader, value.OneOf | value.SomeOf):
        return ("|" if isinstance(reader, value.OneOf) else ",").join(reader.known)
    return "N"


def _help(entry: Spec) -> str:
    default = entry.shown or _default(entry)
    return entry.help + (f" [default: {default}]" if default else "")


def _default(entry: Spec) -> str:
    default = entry.default
    if not isinstance(default, ByDevice):
        unsaid = callable(default) or default is None or default is False or default in ((), {})
        return "" if unsaid else _written(default)
    cpu, cuda = _written(default.cpu), _written(default.cuda)
    return cpu if cpu == cuda else f"{cpu} on a CPU, {cuda} on a GPU"


def _written(given: Any) -> str:
    """A value as one would write it behind a flag."""
    if not isinstance(given, tuple):
        return f"{given:g}" if isinstance(given, float) else str(given)
    if len(given) > 2 and isinstance(given[0], int) and given == value.powers(given[0], given[-1]):
        return f"{given[0]}:{given[-1]}"
    return ",".join(map(_written, given))


class GroupedCommand(TyperCommand):
    """A command whose options stand in groups in its help."""

    def rows(self, ctx: Any) -> Iterator[tuple[str, tuple[str, str]]]:
        """The group of each option, and its flag and help."""
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx)
            if row and parameter.param_type_name == "option":
                yield getattr(parameter, "rich_help_panel", None) or OUTPUT, row

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, group by group."""
        groups: dict[str, list[tuple[str, str]]] = {group: [] for group in _GROUPS}
        for group, row in self.rows(ctx):
            groups.setdefault(group, []).append(row)
        for title, rows in groups.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


class RunCommand(GroupedCommand):
    """The command ``run``: its help is of the suite that is named, or of what suites share."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Look for the suite first, for ``--help`` ends everything where it stands."""
        words = [word.removeprefix("--suite=") for word in args]
        ctx.meta[__name__] = next((word for word in words if word in suites.names()), None)
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed

    def rows(self, ctx: Any) -> Iterator[tuple[str, tuple[str, str]]]:
        """The options of the suite; where none is named those of all, and the suites."""
        suite, every = ctx.meta[__name__], of_all_suites()
        shown = options(suites.get(suite).config) if suite else _shared()
        for key, entry in sorted(shown.items(), key=lambda item: item[1].repeats):
            group = entry.group or f"Of the suite {suite}"
            yield group, (f"{_flag(key)} {_metavar(entry)}", _help(entry))
        flags = {_flag(key) for key in every}
        yield from (each for each in super().rows(ctx) if each[1][0].split()[0] not in flags)
        for name in suites.names() if suite is None else ():
            config = suites.get(name).config
            own = " ".join(_flag(key) for key in options(config) if key not in shown)
            title = "Suites, each with options of its own (retbench run SUITE --help)"
            yield title, (name, f"{first_line(config)} {own}")


def _shared() -> dict[str, Spec]:
    """The options that most suites have; of defaults that differ it is said that they do."""
    found = options(ModelsConfig) | options(TimedConfig)
    each = [options(suites.get(name).config) for name in suites.names()]
    return {
        key: replace(entry, shown="the suite's")
        if any(key in own and own[key].default != entry.default for own in each)
        else entry
        for key, entry in found.items()
    }
