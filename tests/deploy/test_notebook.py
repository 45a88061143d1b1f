"""`notebooks/ask_a_run.ipynb`, executed against a small run."""

from __future__ import annotations

import os
import re
from typing import Any

import nbformat
import pytest
from deploy.hand_cluster import ROOT
from nbclient import NotebookClient

import noveltyflow

NOTEBOOK = ROOT / "notebooks/ask_a_run.ipynb"


@pytest.fixture(scope="module")
def executed(small_run: str) -> Any:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    here = os.environ | {"NOVELTYFLOW_RUN": small_run, "PYTHONPATH": str(ROOT)}
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}})
    return client.execute(env=here)


def output_of(notebook: Any, line: str) -> Any:
    """The one result of the cell that ends with `line`, by MIME type."""
    (cell,) = [cell for cell in notebook.cells if cell.source.endswith(line)]
    (result,) = [output.data for output in cell.outputs if output.output_type == "execute_result"]
    return result


def test_it_is_committed_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) > 5
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


def test_every_cell_shows_something_and_complains_about_nothing(executed: Any) -> None:
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"] == []
    silent = [cell.source for cell in executed.cells if cell.cell_type == "code" and not cell.outputs]
    assert [source.splitlines()[0] for source in silent] == ["import os"]


def test_it_shows_the_top_of_the_run_and_the_neighbors_of_the_first(executed: Any, small_run: str) -> None:
    run = noveltyflow.open_run(small_run)
    top = run.top(10)
    table = output_of(executed, 'top[["novelty", "percentile", "count", "url", "nearest_url"]]')["text/html"]
    assert [url for url in top["url"] if url not in table] == []
    first = str(top["url"].iloc[0])
    neighbors = output_of(executed, 'run.neighbors(top["url"].iloc[0])')["text/html"]
    assert [url for url in run.neighbors(first)["url"] if url not in neighbors] == []


def test_its_scores_are_lazy_and_its_answers_right(executed: Any, small_run: str) -> None:
    run = noveltyflow.open_run(small_run)
    assert output_of(executed, "\nscores")["text/plain"].startswith("dask.array<score_nearest")
    frame = run.frame().compute()
    most = int((frame["percentile"] >= 99).sum())
    assert output_of(executed, "(percentiles >= 99).sum().compute())")["text/plain"] == str(most)
    filtered = output_of(executed, '[["url", "novelty", "percentile"]].compute()')["text/plain"]
    assert filtered.count("https://") == most
    hosts = frame["url"].str.split("/", n=3).str[2]
    host = frame["novelty"].groupby(hosts).mean().idxmax()
    assert host in output_of(executed, "by_host.compute()")["text/plain"].splitlines()[2]


def test_its_plot_is_drawn_without_a_network(executed: Any) -> None:
    (cell,) = [cell for cell in executed.cells if cell.source.endswith("show(plot)")]
    drawn = [output.data for output in cell.outputs if output.output_type == "display_data"]
    assert any("application/vnd.bokehjs_exec.v0+json" in data for data in drawn)
    (setup,) = [cell for cell in executed.cells if "output_notebook(" in cell.source]
    loader = setup.outputs[0].data["application/javascript"]
    assert set(re.findall(r"js_urls = (.*?);", loader)) == {"[]"}
