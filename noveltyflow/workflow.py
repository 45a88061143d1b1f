"""A workflow: what is run, from a YAML file or from the command line, validated as one model."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError

from noveltyflow.config import ClusterSettings, ScoringSettings
from noveltyflow.errors import SettingsError


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


def load_workflow(path: Path) -> Workflow:
    """Read a workflow file; relative paths in it are relative to the current folder.

    Raises
    ------
    SettingsError
        Naming the file, the line, what is wrong there, and for an unknown key the nearest right one.
    """
    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: a workflow is a mapping with the keys {_names(Workflow)}")
    return validated(values, lambda location: f"{path}:{_line(tree, location)}")


def validated(values: Mapping[str, Any], where: Any = None) -> Workflow:
    """Make a workflow of plain values, or say everything that is wrong with them.

    Parameters
    ----------
    values
        Nested mapping of settings.
    where
        Function from the path of a setting to the text that names its place; by default its dotted name.
    """
    try:
        return Workflow.model_validate(values)
    except ValidationError as error:
        place = where or (lambda location: ".".join(str(part) for part in location))
        problems = [f"{place(tuple(e['loc']))}: {_problem(dict(e))}" for e in error.errors()]
        raise SettingsError("\n".join(problems)) from error


def _problem(error: dict[str, Any]) -> str:
    location = [str(part) for part in error["loc"]]
    name = ".".join(location)
    if error["type"] == "extra_forbidden":
        known = _known(location[:-1])
        nearest = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known keys: {', '.join(known)}"
        return f"unknown key {name!r}; {hint}"
    if error["type"] == "missing":
        return f"the key {name!r} is missing"
    return f"{name}: {error['msg'].removeprefix('Value error, ')} (given: {error['input']!r})"


def _known(location: list[str]) -> list[str]:
    model: type[BaseModel] = Workflow
    for name in location:
        model = model.model_fields[name].annotation  # type: ignore[assignment]
    return list(model.model_fields)


def _names(model: type[BaseModel]) -> str:
    return ", ".join(model.model_fields)


def _line(tree: yaml.Node | None, location: tuple[Any, ...]) -> int:
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
