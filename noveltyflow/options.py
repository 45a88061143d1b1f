"""Every setting as an option of the command line, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from noveltyflow.config import ClusterSettings, ScoringSettings
from noveltyflow.inert import shell_line

_GROUPS: dict[str, Any] = {
    **{name: field.annotation for name, field in ScoringSettings.model_fields.items()},
    "cluster": ClusterSettings,
}
_BETWEEN = "__"
"""Stands between a setting's group and its name in the parameter of its option."""
_MOST_NAMED = 10
"""Inputs that a command names; more of them were hardly given one by one."""


def setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one option for each setting, with the setting's own name, type and description."""
    for group, model in reversed(_GROUPS.items()):
        for name, field in reversed(model.model_fields.items()):
            command = _option(group, name, field)(command)
    return command


def _option(group: str, name: str, field: FieldInfo) -> Callable[..., Any]:
    flag = "--" + name.replace("_", "-")
    options: dict[str, Any] = {"default": None, "help": _help(field)}
    kind = next((arg for arg in get_args(field.annotation) if arg is not type(None)), field.annotation)
    if field.annotation is bool:
        flag = f"{flag}/--no-{flag[2:]}"
    elif get_origin(field.annotation) is Literal:
        options["type"] = click.Choice(get_args(field.annotation))
    elif get_origin(field.annotation) is tuple:
        options |= {"type": int, "nargs": 2}
    else:
        options["type"] = int if int in (kind, field.annotation) else str
    return click.option(flag, f"{group}{_BETWEEN}{name}", **options)


def _help(field: FieldInfo) -> str:
    text = " ".join((field.description or "").split())
    return text if field.default is None else f"{text} [default: {_shown(field.default)}]"


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def given_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by group and name, of those options of `setting_options` that were given."""
    values: dict[str, Any] = {}
    for parameter, value in options.items():
        if value is not None:
            group, _, name = parameter.partition(_BETWEEN)
            values.setdefault(group, {})[name] = value
    return values


def command_of(path: str) -> str:
    """The command that makes the run at a path or fsspec address, or continues it, from the current folder."""
    from noveltyflow.store import RunStore
    from noveltyflow.unfinished import folder_of, stored_settings

    store = RunStore(path)
    return run_command(store.header["inputs"], path, stored_settings(store), folder_of(store))


def run_command(
    inputs: Sequence[Mapping[str, Any]], out: str, settings: Mapping[str, Any], folder: str | None = None
) -> str:
    """The command that makes a run, or continues it, from its inputs and its settings by group and name.

    `INPUT...` stands for many inputs, and for those that could be read as options or may hold a secret. Where an
    input is relative to `folder`, and that is not the current one, the command goes there first: a run knows its
    inputs by the names that they were given, so under absolute ones they would be others.
    """
    sources = [str(entry["source"]) for entry in inputs]
    named = shell_line(sources)
    if len(sources) > _MOST_NAMED or not all(map(_is_plain, sources)):
        named = "INPUT..."
    options = [
        word
        for group, model in _GROUPS.items()
        for name, value in model.model_validate(settings.get(group, {}))
        for word in _words(name, value, model.model_fields[name])
    ]
    before = ""
    if folder is not None and folder != str(Path.cwd()) and any(map(_is_relative, sources)):
        before = f"{shell_line(['cd', folder])} && "
        out = str(Path(out).absolute()) if "://" not in out else out
    return f"{before}noveltyflow run {named} {shell_line(['--out', out, *options])}"


def _is_relative(source: str) -> bool:
    return source != "-" and "://" not in source and not Path(source).is_absolute()


def _is_plain(source: str) -> bool:
    may_tell_secrets = "://" in source and not {"@", "?"}.isdisjoint(source)
    may_be_option = source.startswith("-") and source != "-"
    return not may_be_option and not may_tell_secrets


def _words(name: str, value: Any, field: FieldInfo) -> list[str]:
    """The option that gives a setting its value, unless it is the default."""
    flag = name.replace("_", "-")
    if value == field.default:
        return []
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
