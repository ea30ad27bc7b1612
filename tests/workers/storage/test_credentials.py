"""Credentials of a URI from the files of its Secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rz_workers.runtime import UserError
from rz_workers.storage import objects
from rz_workers.storage.credentials import SECRETS_DIR, options, read_hub_token, read_options
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.retry import RetryPolicy, is_refusal

KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "hidden"}
GOOGLE_KEY = {"type": "service_account", "private_key": "hidden"}
ACCOUNT = {"AZURE_STORAGE_ACCOUNT_NAME": "acc"}
PRINCIPAL = {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "hidden"}


def mount(folder: Path, name: str, secret: dict[str, str]) -> None:
    """As the kubelet does: files are links into a folder that is swapped as a whole."""
    (folder / name / "..data").mkdir(parents=True, exist_ok=True)
    for key, value in secret.items():
        (folder / name / key).write_text(value + "\n")


@pytest.mark.parametrize(
    ("protocol", "secret", "want"),
    [
        pytest.param("s3", KEYS, {"key": "id", "secret": "hidden"}, id="s3 keys"),
        pytest.param(
            "s3a",
            KEYS
            | {
                "AWS_SESSION_TOKEN": "tok",
                "AWS_ENDPOINT_URL": "http://all",
                "AWS_ENDPOINT_URL_S3": "http://s3",
                "AWS_REGION": "r",
            },
            {
                "key": "id",
                "secret": "hidden",
                "token": "tok",
                "endpoint_url": "http://s3",
                "client_kwargs": {"region_name": "r"},
            },
            id="s3 with everything",
        ),
        pytest.param("s3", {"AWS_ACCESS_KEY_ID": "id"}, None, id="s3 without a secret key"),
        pytest.param("gs", {"key.json": json.dumps(GOOGLE_KEY)}, {"token": GOOGLE_KEY}, id="gs key file"),
        pytest.param("gcs", {"key.json": '{"type": "other"}', "x": "no JSON"}, None, id="gs without a key file"),
        pytest.param(
            "az",
            ACCOUNT | {"AZURE_STORAGE_CONNECTION_STRING": "hidden"},
            {"connection_string": "hidden"},
            id="az connection string",
        ),
        pytest.param(
            "abfs",
            ACCOUNT | {"AZURE_STORAGE_ACCOUNT_KEY": "hidden"},
            {"account_name": "acc", "account_key": "hidden"},
            id="az account key",
        ),
        pytest.param(
            "az",
            ACCOUNT | {"AZURE_STORAGE_SAS_TOKEN": "hidden"},
            {"account_name": "acc", "sas_token": "hidden"},
            id="az shared access signature",
        ),
        pytest.param(
            "az",
            ACCOUNT | PRINCIPAL,
            {"account_name": "acc", "tenant_id": "t", "client_id": "c", "client_secret": "hidden"},
            id="az service principal",
        ),
        pytest.param("az", {"AZURE_STORAGE_ACCOUNT_KEY": "hidden"}, None, id="az key without an account"),
        pytest.param("hf", {"HF_TOKEN": "hidden"}, {"token": "hidden"}, id="hub"),
        pytest.param("https", KEYS, {}, id="a protocol without credentials"),
    ],
)
def test_what_a_secret_means_for_a_protocol(protocol: str, secret: dict[str, str], want: dict[str, Any] | None) -> None:
    assert options(protocol, secret) == want


@pytest.mark.parametrize(
    ("uri", "secret_name", "env"),
    [
        pytest.param("s3://b/x", None, {SECRETS_DIR: "/none"}, id="no secretName"),
        pytest.param("s3://b/x", "keys", {}, id="rz run"),
        pytest.param("/data/x", "keys", {SECRETS_DIR: "/none"}, id="a path"),
    ],
)
def test_otherwise_the_environment_serves(uri: str, secret_name: str | None, env: dict[str, str]) -> None:
    assert read_options(uri, secret_name, env) == {}


def test_a_secret_that_is_not_there_or_lacks_a_key_is_named_without_its_values(tmp_path: Path) -> None:
    env = {SECRETS_DIR: str(tmp_path)}
    mount(tmp_path, "half", {"AWS_SECRET_ACCESS_KEY": "hidden"})
    with pytest.raises(UserError, match=r"s3://b: its secretName is 'none', but .*No such file.*Create the Secret"):
        read_options("s3://b", "none", env)
    with pytest.raises(
        UserError, match=r"'half' has the keys AWS_SECRET_ACCESS_KEY; required is AWS_ACCESS_KEY_ID and"
    ):
        read_options("s3://b", "half", env)
    with pytest.raises(UserError, match="required is HF_TOKEN") as error:
        read_hub_token("owner/model", "half", env)
    assert "hidden" not in str(error.value)


def test_the_hubs_token_is_read_from_its_own_secret(tmp_path: Path) -> None:
    mount(tmp_path, "hub", {"HF_TOKEN": "tok"})
    assert read_hub_token("owner/model", "hub", {SECRETS_DIR: str(tmp_path)}) == "tok"
    assert read_hub_token("owner/model", None, {SECRETS_DIR: str(tmp_path)}) is None


def test_two_buckets_of_one_process_have_credentials_of_their_own(
    tmp_path: Path, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """moto lets everyone read everything, so it is the signing client that is looked at."""
    monkeypatch.setenv(SECRETS_DIR, str(tmp_path))
    for name in ("data", "runs"):
        mount(tmp_path, name, {"AWS_ACCESS_KEY_ID": f"id-{name}", "AWS_SECRET_ACCESS_KEY": "x"})
    stores = {name: ObjectStore(f"s3://runs/{name}", name) for name in ("data", "runs")}
    stores["data"].put_new("a", b"1")
    assert stores["data"].get("a") == b"1"
    assert stores["runs"].list("b") == []
    assert {name: _signs_as(store) for name, store in stores.items()} == {"data": "id-data", "runs": "id-runs"}


def _signs_as(store: ObjectStore) -> str:
    backend: Any = store._backend
    return str(backend._fs.s3._request_signer._credentials.access_key)


class Picky:
    """A backend that refuses all but one key."""

    def __init__(self, key: str | None) -> None:
        self.key = key

    def read(self, _key: str) -> bytes:
        if self.key != "new":
            raise PermissionError("The security token included in the request is expired")
        return b"data"


def test_credentials_that_are_refused_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(SECRETS_DIR, str(tmp_path))
    monkeypatch.setattr(objects, "FsspecFiles", lambda _uri, credentials: Picky(credentials["key"]))
    mount(tmp_path, "keys", KEYS | {"AWS_ACCESS_KEY_ID": "old"})
    store = ObjectStore("s3://b", "keys", retry=RetryPolicy(attempts=1))
    with pytest.raises(objects.StorageError, match="expired"):
        store.get("a")
    (tmp_path / "keys" / "AWS_ACCESS_KEY_ID").unlink()  # being changed: not the user's error now
    with pytest.raises(objects.StorageError, match="expired"):
        store.get("a")
    mount(tmp_path, "keys", KEYS | {"AWS_ACCESS_KEY_ID": "new", "AWS_SECRET_ACCESS_KEY": "hidden-too"})
    assert store.get("a") == b"data"
    assert "has new ones" in caplog.text
    assert "hidden" not in caplog.text


def test_refusals_are_told_from_other_failures() -> None:
    http = OSError("forbidden")
    http.status = 403  # type: ignore[attr-defined]
    assert [is_refusal(error) for error in (PermissionError(), http, TimeoutError(), FileNotFoundError())] == [
        True,
        True,
        False,
        False,
    ]
