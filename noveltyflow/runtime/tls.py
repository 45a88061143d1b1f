"""Encryption between the processes of a cluster, each of which shows a certificate."""

from __future__ import annotations

import ssl
from pathlib import Path

from distributed import Security

from noveltyflow.config import ClusterSettings
from noveltyflow.errors import SettingsError


def security(settings: ClusterSettings) -> Security | None:
    """What Dask takes for TLS; None where no certificates are given.

    Raises
    ------
    SettingsError
        When a file is missing or is no certificate or key, or when the two do not belong together.
    """
    ca, cert, key = settings.tls_ca, settings.tls_cert, settings.tls_key
    if ca is None or cert is None or key is None:
        return None
    for name, path in (("tls_ca", ca), ("tls_cert", cert), ("tls_key", key)):
        if not Path(path).is_file():
            raise SettingsError(f"{name}: {path}: no such file")
    try:
        context = ssl.create_default_context(cafile=ca)
        context.load_cert_chain(cert, key)
    except (ssl.SSLError, OSError) as error:
        raise SettingsError(
            f"tls_ca, tls_cert, tls_key: {ca}, {cert}, {key} cannot be used: {error}"
        ) from error
    files = {
        f"tls_{role}_{part}": path
        for role in ("client", "scheduler", "worker")
        for part, path in (("cert", cert), ("key", key))
    }
    return Security(require_encryption=True, tls_ca_file=ca, **files)
