"""`docker-compose.yml` and the images, as far as they can be checked where no container engine runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dask.utils import parse_bytes
from deploy.hand_cluster import ROOT, Launch
from distributed.cli.dask_scheduler import main as dask_scheduler
from distributed.cli.dask_worker import main as dask_worker

from noveltyflow.runtime.seats import CPU_RESOURCE

COMPOSE = ROOT / "docker-compose.yml"
IMAGES = ["cluster/Dockerfile", "cluster/Dockerfile.gpu"]
NANNY_BYTES = 256 << 20


def services() -> dict[str, Any]:
    """The services, every `${NAME:-default}` being its default."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", COMPOSE.read_text())
    return dict(yaml.safe_load(text)["services"])


def check_schema(path: Path) -> subprocess.CompletedProcess[str]:
    tool = Path(sys.executable).with_name("check-jsonschema")
    command = [str(tool), "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def launched(launch: Launch, service: dict[str, Any]) -> list[str]:
    """What a service runs, the name of the scheduler's container being that of this machine."""
    script, *arguments = (part.replace("//scheduler:", "//127.0.0.1:") for part in service["command"])
    return launch(script, *arguments).stdout.splitlines()[1:]


def option(service: dict[str, Any], name: str) -> str:
    command: list[str] = service["command"]
    return command[command.index(name) + 1]


def test_the_file_follows_the_compose_specification() -> None:
    result = check_schema(COMPOSE)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_misspelt_key_is_refused(tmp_path: Path) -> None:
    misspelt = tmp_path / "docker-compose.yml"
    misspelt.write_text(COMPOSE.read_text().replace("healthcheck:", "healthchek:"))
    result = check_schema(misspelt)
    assert result.returncode != 0
    assert "'healthchek' was unexpected" in result.stdout + result.stderr


def test_the_scheduler_starts_as_by_hand(launch: Launch) -> None:
    command = launched(launch, services()["scheduler"])
    options = dask_scheduler.make_context("scheduler", command[1:]).params
    assert (command[0], options["host"], options["port"]) == ("scheduler", "0.0.0.0", "8786")
    assert options["dashboard_address"] == "0.0.0.0:8787"


def test_a_worker_starts_as_by_hand_with_its_resource_and_memory(launch: Launch) -> None:
    service = services()["worker"]
    command = launched(launch, service)
    options = dask_worker.make_context("worker", command[1:]).params
    assert (command[0], options["resources"]) == ("worker", f"{CPU_RESOURCE}=1")
    assert (options["n_workers"], options["memory_limit"]) == ("1", option(service, "--memory-limit"))
    assert service["deploy"]["replicas"] == 2


def test_a_gpu_worker_is_a_profile_and_reserves_its_device(launch: Launch) -> None:
    service = services()["gpu-worker"]
    command = launched(launch, service)
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert service["profiles"] == ["gpu"]
    assert (device["driver"], device["capabilities"], device["count"]) == ("nvidia", ["gpu"], 1)
    assert command[:2] == ["cuda", "worker"]
    assert command[command.index("--resources") + 1] == "GPU=1"


@pytest.mark.parametrize("name", ["worker", "gpu-worker"])
def test_a_container_leaves_room_beside_its_worker(name: str) -> None:
    service = services()[name]
    container = parse_bytes(service["deploy"]["resources"]["limits"]["memory"])
    assert container - parse_bytes(option(service, "--memory-limit")) >= NANNY_BYTES


def test_ports_are_published_to_this_machine_only() -> None:
    published = [port for service in services().values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:8786:8786", "127.0.0.1:8787:8787"]


def test_all_who_touch_a_run_see_it_under_one_path() -> None:
    volumes = [services()[name]["volumes"] for name in ("worker", "gpu-worker", "noveltyflow")]
    assert "runs:/runs" in volumes[0]
    assert volumes == [volumes[0]] * 3


def test_everyone_waits_for_a_healthy_scheduler() -> None:
    found = services()
    assert "healthcheck" in found["scheduler"]
    for name in found.keys() - {"scheduler"}:
        assert found[name]["depends_on"] == {"scheduler": {"condition": "service_healthy"}}, name


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_built_of_what_the_build_may_see(image: str) -> None:
    admitted = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = [line.split()[1:-1] for line in (ROOT / image).read_text().splitlines() if line[:5] == "COPY "]
    sources = {source for sources in copied for source in sources}
    assert sources == admitted
    assert all((ROOT / source).exists() for source in sources)


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_pinned_packages_and_an_ordinary_user(image: str) -> None:
    lines = (ROOT / image).read_text().splitlines()
    installs = [line for line in lines if "pip install" in line]
    assert installs
    assert all("--constraint constraints.txt" in line for line in installs)
    (user,) = (line.split()[1] for line in lines if line.startswith("USER "))
    assert any(f"useradd --uid 1000 --create-home {user} " in line for line in lines)


def test_services_use_the_images_of_this_checkout() -> None:
    used = {service["build"]["dockerfile"] for service in services().values()}
    assert used == set(IMAGES)
