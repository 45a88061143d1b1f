"""Clusters with TLS and real certificates: who has one of the right signer takes part, nobody else."""

from __future__ import annotations

import datetime
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed import LocalCluster
from helpers import ROOT, Cli

from noveltyflow.config import ClusterSettings
from noveltyflow.errors import ResourceError, SettingsError
from noveltyflow.runtime.cluster import DASK_CONFIG, connect, local_cluster_options
from noveltyflow.runtime.seats import workers_of
from noveltyflow.runtime.tls import security
from noveltyflow.testing.runs import assert_same_content

Files = dict[str, str]


def certificate(folder: Path) -> Files:
    """A key and a certificate that it signed itself, which is its own signer."""
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cluster")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    signed = builder.add_extension(x509.BasicConstraints(True, None), critical=True).sign(
        key, hashes.SHA256()
    )
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    cert = str(folder / "cert.pem")
    return {"tls_ca": cert, "tls_cert": cert, "tls_key": str(folder / "key.pem")}


def options(files: Files) -> list[str]:
    return [word for name, path in files.items() for word in (f"--{name.replace('_', '-')}", path)]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return certificate(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return certificate(tmp_path_factory.mktemp("tls") / "theirs")


@pytest.fixture(scope="module")
def secured(ours: Files) -> Iterator[str]:
    settings = ClusterSettings(workers=1, memory_limit="1GiB", dashboard_address="127.0.0.1:0", **ours)
    with dask.config.set(DASK_CONFIG), LocalCluster(**local_cluster_options(settings)) as cluster:
        yield cluster.scheduler_address


def test_run_on_a_secured_cluster(
    secured: str, ours: Files, cli: Cli, url_list: Path, small_run: str, tmp_path: Path
) -> None:
    assert secured.startswith("tls://127.0.0.1:")
    out = tmp_path / "run.zarr"
    done = cli("run", url_list, "--out", out, "--scheduler", secured, *options(ours))
    assert done.returncode == 0, done.stderr
    assert_same_content(str(out), small_run)


@pytest.mark.parametrize("who", ["nobody", "theirs"])
def test_strangers_are_refused(
    who: str, secured: str, theirs: Files, cli: Cli, url_list: Path, tmp_path: Path
) -> None:
    files = options(theirs) if who == "theirs" else []
    done = cli("run", url_list, "--out", tmp_path / "run.zarr", "--scheduler", secured, *files)
    assert done.returncode == 2, done.stderr
    assert "no Dask scheduler answers" in done.stderr
    assert "--tls-ca" in done.stderr
    if who == "nobody":
        remedy = f"{secured} without certificates; give --tls-ca, --tls-cert and --tls-key"
        assert done.stderr == f"noveltyflow: no Dask scheduler answers at {remedy}\n"


def test_who_forgets_tls_is_told_the_right_address(secured: str) -> None:
    plain = secured.replace("tls://", "tcp://")
    said = (
        f"answers at {plain}: .*; if it speaks TLS, give {secured} with --tls-ca, --tls-cert and --tls-key$"
    )
    with pytest.raises(ResourceError, match=said), connect(ClusterSettings(scheduler=plain)):
        pass


def test_embedded_cluster_is_secured(ours: Files) -> None:
    settings = ClusterSettings(workers=1, memory_limit="1GiB", dashboard_address="127.0.0.1:0", **ours)
    with connect(settings) as client:
        addresses = [client.scheduler.address, *workers_of(client)]
        assert client.submit(sum, [1, 2]).result() == 3
    assert len(addresses) == 2
    assert all(address.startswith("tls://127.0.0.1:") for address in addresses)


def test_bad_files_are_named(ours: Files, theirs: Files, tmp_path: Path) -> None:
    for wrong, message in (
        ({"tls_ca": str(tmp_path / "nothing.pem")}, "tls_ca: .*nothing.pem: no such file"),
        ({"tls_key": theirs["tls_key"]}, "cannot be used"),
        ({"tls_cert": ours["tls_key"]}, "cannot be used"),
    ):
        with pytest.raises(SettingsError, match=message):
            security(ClusterSettings(**{**ours, **wrong}))
    with pytest.raises(ValueError, match="tls_key must be given too"):
        ClusterSettings(tls_ca=ours["tls_ca"], tls_cert=ours["tls_cert"])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the command openssl")
def test_the_recipe_of_the_cluster_makes_certificates_that_work(tmp_path: Path) -> None:
    recipe = (ROOT / "cluster/README.md").read_text().split("## TLS")[1].split("```sh")[1].split("```")[0]
    done = subprocess.run(
        ["sh", "-e"], input=recipe, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    files = {f"tls_{part}": str(tmp_path / f"tls/{part}.pem") for part in ("ca", "cert", "key")}
    settings = ClusterSettings(workers=1, memory_limit="1GiB", dashboard_address="127.0.0.1:0", **files)
    with connect(settings) as client:
        assert client.scheduler.address.startswith("tls://")
        assert client.submit(sum, [1, 2]).result() == 3


def test_without_certificates_nothing_is_secured() -> None:
    assert security(ClusterSettings()) is None
