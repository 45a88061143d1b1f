"""A workflow: what is run, from a YAML file or from the command line, validated as one model."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from pydantic import BaseModel, Field, ValidationError

from noveltyflow.config import ClusterSettings, ScoringSettings
from noveltyflow.errors import SettingsError
from noveltyflow.inert import shortened

Location: TypeAlias = tuple[Any, ...]
"""Path of a setting in the model: names, and numbers within lists."""


class Workflow(ScoringSettings):
    """Inputs, where the run goes, all scoring settings, and the cluster."""

    inputs: list[str] = Field(min_length=1)
    """Files, globs, directories, fsspec addresses, or `-` for standard input."""
    out: str = Field(min_length=1)
    """The run folder."""
    cluster: ClusterSettings = ClusterSettings()

    @property
    def scoring(self) -> ScoringSettings:
        """The settings that decide the result, alone."""
        return ScoringSettings(**{name: getattr(self, name) for name in ScoringSettings.model_fields})


_MOST_SHOWN = 200
"""Characters of a wrong value that its message shows."""
_SECTIONS = (*ScoringSettings.model_fields, "cluster")


def load_workflow(path: Path, overrides: Mapping[str, Any] | None = None) -> Workflow:
    """Read a workflow file; relative paths in it are relative to the current folder.

    Parameters
    ----------
    path
        The YAML file.
    overrides
        Nested mapping of settings that go before those of the file, which may then lack them.

    Raises
    ------
    SettingsError
        Naming the file, the line, what is wrong there, and for an unknown key the nearest right one.
    """
    try:
        text = path.read_text(encoding="utf-8")
        _refuse_aliases(text, path)
        loader = yaml.SafeLoader(text)
        tree = loader.get_single_node()
        values = None if tree is None else loader.construct_document(tree)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: not valid YAML: {error}") from error
    if (twice := _given_twice(tree)) is not None:
        line = twice.start_mark.line + 1
        raise SettingsError(f"{path}:{line}: {twice.value}: is given twice; keep one of them")
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: a workflow is a mapping with the keys {_names(Workflow)}")
    given = overrides or {}

    def where(location: Location) -> str:
        # What nobody gave is asked for in the file.
        return (
            option_of(location)
            if _holds(given, location)
            else f"{path}:{_line(tree, location)}: {_dotted(location)}"
        )

    return validated(_merged(values, given), where)


def _refuse_aliases(text: str, path: Path) -> None:
    """A few lines of them can stand for more than any memory holds."""
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1  # type: ignore[union-attr] # a reader of text marks all
            raise SettingsError(f"{path}:{line}: *{event.anchor}: is an alias; write out what it stands for")


def _merged(values: Mapping[Any, Any], overrides: Mapping[str, Any]) -> dict[Any, Any]:
    """The values of a file with those that go before them; a section whose keys are all commented out is empty."""
    result = {name: {} if value is None and name in _SECTIONS else value for name, value in values.items()}
    for name, value in overrides.items():
        before = result.get(name, {})
        nested = isinstance(value, Mapping) and isinstance(before, Mapping)
        result[name] = {**before, **value} if nested else value
    return result


def _holds(tree: Any, location: Location) -> bool:
    for part in location:
        if not isinstance(tree, Mapping) or part not in tree:
            return False
        tree = tree[part]
    return True


def option_of(location: Location) -> str:
    """The option of the command that gives a setting; what has none is named by its path."""
    name = location[-1] if location == ("out",) else location[1] if len(location) > 1 else None
    return f"--{name}".replace("_", "-") if isinstance(name, str) else _dotted(location)


def validated(values: Mapping[str, Any], where: Callable[[Location], str]) -> Workflow:
    """Make a workflow of plain values, or say everything that is wrong with them.

    Parameters
    ----------
    values
        Nested mapping of settings.
    where
        Gives the text that names the place of a setting.

    Raises
    ------
    SettingsError
        With one line for each problem.
    """
    try:
        return Workflow.model_validate(values)
    except ValidationError as error:
        problems = [f"{where(tuple(e['loc']))}: {_problem(dict(e))}" for e in error.errors()]
        raise SettingsError("\n".join(problems)) from error


def _problem(error: dict[str, Any]) -> str:
    if error["type"] == "missing":
        return "is missing"
    if error["type"] == "extra_forbidden":
        *section, key = map(str, error["loc"])
        known = _known(section)
        nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        return "unknown key; " + (
            f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(known)}"
        )
    given = (
        ""
        if isinstance(error["input"], Mapping)
        else f" (given: {shortened(repr(error['input']), _MOST_SHOWN)})"
    )
    bounds = {"greater_than_equal": ("at least", "ge"), "less_than_equal": ("at most", "le")}
    if error["type"] in bounds:
        words, bound = bounds[error["type"]]
        return f"must be {words} {error['ctx'][bound]:,}{given}"
    return str(error["msg"]).removeprefix("Value error, ") + given


def _dotted(location: Location) -> str:
    return ".".join(map(str, location))


def _known(section: list[str]) -> list[str]:
    model: type[BaseModel] = Workflow
    for name in section:
        model = model.model_fields[name].annotation  # type: ignore[assignment]
    return list(model.model_fields)


def _names(model: type[BaseModel]) -> str:
    return ", ".join(model.model_fields)


def _given_twice(tree: yaml.Node | None) -> yaml.Node | None:
    """The second of two equal keys, of which YAML would take the last without a word."""
    nodes = [tree]
    for node in nodes:
        keys: set[str] = set()
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            if str(key.value) in keys:
                return key  # type: ignore[no-any-return]
            keys.add(str(key.value))
            nodes.append(value)
    return None


def _line(tree: yaml.Node | None, location: Location) -> int:
    """Line of the setting at `location`, from 1: of its key where it has one, else of what should hold it."""
    node, line = tree, 1
    for part in location:
        entry = _child(node, part)
        if entry is None:
            break
        line, node = entry[0].start_mark.line + 1, entry[1]
    return line


def _child(node: yaml.Node | None, part: Any) -> tuple[yaml.Node, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        return next(((key, value) for key, value in node.value if key.value == str(part)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part]
    return None
