"""The `noveltyflow` command: data on standard output, everything else on standard error."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from noveltyflow.errors import (
    FREE_SPACE,
    DamageError,
    NoveltyflowError,
    SettingsError,
    is_disk_full,
)
from noveltyflow.inert import printable, printable_lines, shell_line
from noveltyflow.interrupts import Interrupts
from noveltyflow.manners import (
    for_readers,
    log,
    log_level,
    of_run,
    open_closed_streams,
    typed_again,
    with_command,
    write_to_nobody,
)
from noveltyflow.options import command_of, given_settings, setting_options

if TYPE_CHECKING:
    from noveltyflow.run import Run
    from noveltyflow.workflow import Workflow

INTERRUPTED = 130
_SCORES = click.Choice(["nearest", "kth", "mean", "median"])
_SHOWN = ("novelty", "percentile", "count", "url", "nearest_url")
"""What `top` prints of a row in a terminal."""


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit status: 0 done; 1 failed half-way, what was finished is kept; 2 refused: options, settings, inputs "
    "or cluster must be mended first; 130 interrupted.",
)
@click.version_option(package_name="noveltyflow")
@log_level
def cli() -> None:
    """Find what is new in a very large list of URLs."""


@cli.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--out", help="The run folder, such as urls.zarr.")
@click.option("--overwrite", is_flag=True, help="Replace a run that is already there.")
@click.option(
    "--repair", is_flag=True, help="Check what an earlier command stored, and compute again what is damaged."
)
@click.option("--quiet", is_flag=True, help="Show nothing but errors.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print what `noveltyflow info --json` prints, when done."
)
@setting_options
@log_level
def run(
    inputs: tuple[str, ...],
    out: str | None,
    overwrite: bool,
    repair: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Score the URLs of INPUT... into a run folder, or continue a run that was interrupted.

    INPUT is a file, a glob, a directory, an address such as s3://bucket/key, or - for standard input: text, CSV,
    TSV, JSON lines or Parquet, plain or compressed. A single INPUT that ends in .yaml is a workflow file; options
    then override what it says.
    """
    interrupts = Interrupts()
    try:
        # Before the imports: what is wrong with it is said at once.
        workflow = _workflow(inputs, out, options)
        from noveltyflow.runtime.submit import run_workflow
        from noveltyflow.terminal import TerminalReporter

        with TerminalReporter(quiet=quiet, pulse=interrupts.raise_lost) as reporter:
            run_workflow(workflow, reporter, overwrite=overwrite, repair=repair)
        reporter.summarize()
    except KeyboardInterrupt:
        click.echo("interrupted; everything finished is kept. Continue with:", err=True)
        click.echo(f"  {typed_again()}", err=True)
        sys.exit(INTERRUPTED)
    except DamageError as error:
        raise with_command(error, typed_again("--repair")) from error
    if as_json:
        _echo_json(_open(workflow.out).info())
    elif not quiet:
        _say_done(workflow.out)


def _say_done(path: str) -> None:
    """What became of the lines, and what to ask next."""
    store, name = _open(path).store, shell_line([path])
    counts = store.figures("urls")
    commands = [f"noveltyflow top {name}", f"noveltyflow export {name} novelty.csv"]
    commands += [f"noveltyflow rejects {name}"] if counts["lines_rejected"] else []
    click.echo(
        f"done: {counts['rows']:,} rows of {counts['lines_read']:,} lines, {counts['lines_blank']:,} of them blank, "
        f"{counts['lines_rejected']:,} rejected; now try:",
        err=True,
    )
    for command in commands:
        click.echo(f"  {command}", err=True)


def _workflow(inputs: tuple[str, ...], out: str | None, options: dict[str, Any]) -> Workflow:
    from noveltyflow.workflow import load_workflow, option_of, validated

    values = given_settings(options) | ({} if out is None else {"out": out})
    if len(inputs) == 1 and inputs[0].endswith((".yaml", ".yml")):
        return load_workflow(Path(inputs[0]), values)
    if out is None:
        raise click.UsageError(
            "Missing option '--out': where shall the run be stored, such as --out urls.zarr?"
        )
    return validated({"inputs": list(inputs), **values}, option_of)


@cli.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--out", default="run.zarr", help="As for run; nothing is stored.")
@click.option("--rows", type=click.IntRange(min=1), help="Plan for so many rows of the same kind.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; sizes are in bytes.")
@setting_options
@log_level
@for_readers
def plan(inputs: tuple[str, ...], out: str, rows: int | None, as_json: bool, **options: Any) -> None:
    """Print what `run` with the same INPUT... and options will take: rows, tasks, memory, disk, time.

    A sample of the input is read and computed; nothing is stored. Exit status 2 when it does not fit.
    """
    workflow = _workflow(inputs, out, options)
    from noveltyflow.runtime.submit import plan_workflow
    from noveltyflow.terminal import TerminalReporter, print_forecast

    facts = dataclasses.asdict(plan_workflow(workflow, TerminalReporter(), rows=rows))
    del facts["least_disk"]  # only what is refused depends on it
    if as_json:
        _echo_json(facts)
    else:
        print_forecast(facts)


def _open(path: str) -> Run:
    from noveltyflow.run import open_run

    return open_run(path)


def _echo_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


_number = click.option(
    "-n", "--number", default=20, show_default=True, type=click.IntRange(min=1), help="How many are printed."
)
_form = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "jsonl"]),
    default="table",
    show_default=True,
    help="How they are printed.",
)
_defuse = click.option(
    "--defuse/--no-defuse",
    default=True,
    help="Put ' before CSV cells a spreadsheet would run, and escape what is not printable. [default: on]",
)


@cli.command()
@of_run
@_number
@click.option("--score", type=_SCORES, default="nearest", show_default=True, help="What to rank by.")
@_form
@_defuse
@log_level
@for_readers
def top(path: str, number: int, score: str, form: str, defuse: bool) -> None:
    """Print the most novel URLs of RUN, most novel first."""
    run = _open(path)
    if form == "table":
        from noveltyflow.terminal import print_table

        columns = run.top_columns(number, score)
        print_table({name: columns[name] for name in _SHOWN})
        return
    from noveltyflow.export import table_to_csv, table_to_jsonl

    frame = run.top(number, score)
    if form == "csv":
        table_to_csv(frame, sys.stdout, defuse=defuse)
    else:
        table_to_jsonl(frame, sys.stdout)


@cli.command()
@of_run
@click.argument("url")
@_number
@log_level
@for_readers
def neighbors(path: str, url: str, number: int) -> None:
    """Print what URL, a row of RUN, is most like there, nearest first; RUN keeps --n-neighbors of them."""
    from noveltyflow.terminal import print_table

    try:
        columns = _open(path).neighbors_columns(url)
    except KeyError as error:
        raise SettingsError(str(error.args[0])) from error
    print_table({name: columns[name][:number] for name in ("similarity", "row", "url")})
    if (there := len(columns["row"])) > number:
        click.echo(f"{number:,} of {there:,} neighbours; -n {there} prints all", err=True)


@cli.command()
@of_run
@_number
@_form
@_defuse
@log_level
@for_readers
def rejects(path: str, number: int, form: str, defuse: bool) -> None:
    """Print the lines of the input that are no rows of RUN, in input order, each with its reason."""
    from noveltyflow.terminal import print_table

    run = _open(path)
    for place, columns in enumerate(run.iter_rejects(number)):
        if form == "table":
            print_table(columns)
            continue
        import pandas as pd

        from noveltyflow.export import table_to_csv, table_to_jsonl

        if form == "csv":
            table_to_csv(pd.DataFrame(columns), sys.stdout, defuse=defuse, header=place == 0)
        else:
            table_to_jsonl(pd.DataFrame(columns), sys.stdout)
    if run.n_rejects > number:
        click.echo(f"{number:,} of {run.n_rejects:,} rejected lines; -n {run.n_rejects} prints all", err=True)


@cli.command()
@of_run
@click.argument("file")
@click.option("--score", type=_SCORES, default="nearest", show_default=True, help="What `novelty` is.")
@_defuse
@click.option("--quiet", is_flag=True, help="Show nothing but errors.")
@log_level
def export(path: str, file: str, score: str, defuse: bool, quiet: bool) -> None:
    """Write RUN to FILE: a table (.csv, .csv.gz, .jsonl, .parquet) or the neighbour graph (.npz)."""
    from noveltyflow.export import export as write
    from noveltyflow.terminal import TerminalReporter

    run, replaces = _open(path), Path(file).exists()
    with TerminalReporter(quiet=quiet) as reporter:
        reporter.start("export", len(run), "rows")
        rows = write(run, file, score=score, defuse=defuse, progress=reporter.advance)
        reporter.finish(file)
    if not quiet:
        click.echo(printable(f"{rows:,} rows{'; replaced' if replaces else ' in'} {file}"), err=True)


@cli.command()
@of_run
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all settings and inputs.")
@log_level
@for_readers
def info(path: str, as_json: bool) -> None:
    """Print what RUN is made of: lines read, blank and rejected, URLs, rows, settings.

    Of an unfinished RUN, how far it came and the command with which to continue it.
    """
    from noveltyflow.terminal import print_info
    from noveltyflow.unfinished import unfinished_facts

    facts = unfinished_facts(path)
    if facts is None:
        facts = _open(path).info()
    else:
        facts["continue_with"] = command_of(path)
    if as_json:
        _echo_json(facts)
    else:
        print_info(facts)


@cli.command()
@of_run
@click.option(
    "--rows",
    default=1_000,
    show_default=True,
    type=click.IntRange(min=0),
    help="How many rows are computed again by brute force.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", is_flag=True, help="Show nothing but what is wrong.")
@log_level
def verify(path: str, rows: int, as_json: bool, quiet: bool) -> None:
    """Audit RUN: checksums of every file, counts that add up, rows computed again by brute force.

    Exit status 1 when anything is wrong. The result is stored in RUN, and shown by `noveltyflow info`.
    """
    from noveltyflow.terminal import TerminalReporter, audited
    from noveltyflow.verify import verify as audit_run

    with TerminalReporter(quiet=quiet) as reporter:
        audit = audit_run(path, rows=rows, reporter=reporter)
    try:
        if as_json:
            _echo_json(dataclasses.asdict(audit))
        else:
            for problem in audit.problems:
                click.echo(printable(problem))
        sys.stdout.flush()
    except BrokenPipeError:
        # A reader that has seen enough changes nothing about what was found.
        write_to_nobody()
    if not quiet:
        click.echo(audited(dataclasses.asdict(audit)), err=True)
        if audit.problems:
            click.echo(f"to undo damage:\n  {command_of(path)} --repair", err=True)
    if audit.problems:
        sys.exit(1)


class _InertFormatter(logging.Formatter):
    """Lines that cannot steer a terminal, whatever names, URLs and tracebacks hold."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


def main() -> None:
    """Run the command; a user's mistake ends in one message, never in a traceback."""
    open_closed_streams()
    # The package's own logger only: a handler at the root would also print every message of Dask's.
    handler = logging.StreamHandler()
    handler.setFormatter(_InertFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    log.addHandler(handler)
    import noveltyflow.runtime.ending  # noqa: F401 - for this process, as for workers

    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        click.echo(printable_lines(shown.getvalue()), err=True, nl=False)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except NoveltyflowError as error:
        _fail(error, error.exit_code)
    except OSError as error:
        _fail(error, 1, "", f"\n{FREE_SPACE}" if is_disk_full(error) else "")
    except Exception as error:
        _fail(error, 1, f"unexpected {type(error).__name__}: ", "\n(--log-level debug shows where)")


def _fail(error: Exception, code: int, before: str = "", after: str = "") -> None:
    log.debug("traceback", exc_info=error)
    click.echo(printable_lines(f"noveltyflow: {before}{error}{after}"), err=True)
    sys.exit(code)
