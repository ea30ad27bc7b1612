"""A URI that names a Secret is opened with that Secret's keys, whatever the environment has (DESIGN.md 6).

In a pod each Secret is a folder of files, one for each key, below ``RZ_SECRETS_DIR``. Its keys are in the environment
too, but an environment holds one value of each name, and a run may have several buckets; so the files count where a URI
has a ``secretName``. Without the variable (``rz run``) or without a ``secretName`` the environment or the workload
identity serves. ``ObjectStore`` calls this when it opens a URI, and again when a request is refused, because the
kubelet renews the files when the Secret changes.

=====================  =============================================================================================
URI                    keys of the Secret
=====================  =============================================================================================
``s3://``, ``s3a://``  AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY; if need be AWS_SESSION_TOKEN, AWS_ENDPOINT_URL_S3 or
                       AWS_ENDPOINT_URL, AWS_REGION or AWS_DEFAULT_REGION
``gs://``, ``gcs://``  a service account's key file (JSON), under any name; if need be GOOGLE_CLOUD_PROJECT
``az://``, ``abfs://`` AZURE_STORAGE_CONNECTION_STRING; or AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY,
                       AZURE_STORAGE_SAS_TOKEN, or AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET
the hub, ``hf://``     HF_TOKEN
=====================  =============================================================================================

An endpoint or region that a Secret leaves out is the environment's. Messages name keys and never values.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rz_api.storage_uri import BUCKET_SCHEMES
from rz_workers.runtime import UserError

SECRETS_DIR = "RZ_SECRETS_DIR"
HUB_TOKEN = "HF_TOKEN"

_S3 = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_REQUIRED = {
    "s3": " and ".join(_S3),
    "gs": "the key file of a service account (JSON)",
    "az": "AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, "
    "AZURE_STORAGE_SAS_TOKEN, or AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET",
    "hf": HUB_TOKEN,
}
_KINDS = {**BUCKET_SCHEMES, "hf": "hf"}
"""Protocol of a URL -> kind of storage. Others (http, memory) take no credentials."""


def read_options(uri: str, secret_name: str | None, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """fsspec's storage options for ``uri``; none where environment or workload identity serve.

    Raises UserError when the Secret's folder is not there or lacks a key.
    """
    folder = (os.environ if env is None else env).get(SECRETS_DIR)
    protocol = uri.partition("://")[0]
    if not secret_name or not folder or protocol not in _KINDS:
        return {}
    found = options(protocol, read_secret(Path(folder), secret_name, uri))
    if found is None:
        raise _lacking(Path(folder), secret_name, uri, _KINDS[protocol])
    return found


def read_hub_token(model: str, secret_name: str | None, env: Mapping[str, str] | None = None) -> str | None:
    """The hub's token for ``model``; None where the environment serves. Raises UserError as ``read_options`` does."""
    folder = (os.environ if env is None else env).get(SECRETS_DIR)
    if not secret_name or not folder:
        return None
    token = read_secret(Path(folder), secret_name, model).get(HUB_TOKEN)
    if not token:
        raise _lacking(Path(folder), secret_name, model, "hf")
    return token


def options(protocol: str, secret: Mapping[str, str]) -> dict[str, Any] | None:
    """fsspec's storage options from a Secret's keys and values; None when a key that is required is missing."""
    match _KINDS.get(protocol):
        case "s3":
            return _s3(secret)
        case "gs":
            return _gs(secret)
        case "az":
            return _az(secret)
        case "hf":
            return {"token": secret[HUB_TOKEN]} if secret.get(HUB_TOKEN) else None
    return {}


def read_secret(folder: Path, secret_name: str, uri: str) -> dict[str, str]:
    """Key -> value of a mounted Secret, without surrounding space. Raises UserError when it is not mounted."""
    place = folder / secret_name
    try:
        return {
            # Stripped: `kubectl create secret --from-file` keeps a file's last line break.
            file.name: file.read_text(errors="replace").strip()
            for file in sorted(place.iterdir())
            if not file.name.startswith("..") and file.is_file()  # ..data and the like are the kubelet's
        }
    except OSError as error:
        raise UserError(
            f"{uri}: its secretName is {secret_name!r}, but the files of that Secret cannot be read at {place} "
            f"({error.strerror}). Create the Secret {secret_name!r} in the run's namespace, or correct secretName"
        ) from None


def _s3(secret: Mapping[str, str]) -> dict[str, Any] | None:
    key, value = (secret.get(name) for name in _S3)
    if not key or not value:
        return None
    found: dict[str, Any] = {"key": key, "secret": value}
    if token := secret.get("AWS_SESSION_TOKEN"):
        found["token"] = token
    # The service's own variable first, as AWS's SDKs have it.
    if endpoint := secret.get("AWS_ENDPOINT_URL_S3") or secret.get("AWS_ENDPOINT_URL"):
        found["endpoint_url"] = endpoint
    if region := secret.get("AWS_REGION") or secret.get("AWS_DEFAULT_REGION"):
        found["client_kwargs"] = {"region_name": region}
    return found


def _gs(secret: Mapping[str, str]) -> dict[str, Any] | None:
    for text in secret.values():
        try:
            key = json.loads(text)
        except ValueError:
            continue
        if isinstance(key, dict) and key.get("type") == "service_account":
            project = secret.get("GOOGLE_CLOUD_PROJECT")
            return {"token": key} | ({"project": project} if project else {})
    return None


def _az(secret: Mapping[str, str]) -> dict[str, Any] | None:
    if connection := secret.get("AZURE_STORAGE_CONNECTION_STRING"):
        return {"connection_string": connection}
    ways = (
        {"account_key": "AZURE_STORAGE_ACCOUNT_KEY"},
        {"sas_token": "AZURE_STORAGE_SAS_TOKEN"},
        {"tenant_id": "AZURE_TENANT_ID", "client_id": "AZURE_CLIENT_ID", "client_secret": "AZURE_CLIENT_SECRET"},
    )
    account = secret.get("AZURE_STORAGE_ACCOUNT_NAME")
    for way in ways:
        if account and all(secret.get(name) for name in way.values()):
            return {"account_name": account} | {option: secret[name] for option, name in way.items()}
    return None


def _lacking(folder: Path, secret_name: str, uri: str, kind: str) -> UserError:
    keys = ", ".join(read_secret(folder, secret_name, uri)) or "none"
    return UserError(
        f"{uri}: the Secret {secret_name!r} has the keys {keys}; required is {_REQUIRED[kind]}. Add what is missing, "
        "or correct secretName"
    )
