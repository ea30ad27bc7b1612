"""Credentials are taken out of what people are shown, and nothing else is. All of them here are made up."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rz_api.conditions import set_condition
from rz_api.redact import REMOVED, redact
from rz_api.status import RetryState, RunStatus

MADE_UP = "Made0Up1Secret2Of3Nobody4"

FORMS: dict[str, str] = {
    "a presigned URL of S3": "https://b.s3.amazonaws.com/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature={}&v=1",
    "who signed it": "https://b.s3.amazonaws.com/k?X-Amz-Credential={}%2F20260101%2Fs3&X-Amz-Date=20260101T000000Z",
    "its session": "https://b.s3.amazonaws.com/k?x-amz-security-token={}",
    "a signature of the old kind": "https://b.s3.amazonaws.com/k?AWSAccessKeyId=x&Signature={}&Expires=1",
    "a SAS of Azure": "https://a.blob.core.windows.net/c/k?sv=2024-01-01&sr=b&sig={}%3D&se=2026",
    "a signed URL of Google": "https://storage.googleapis.com/b/k?X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Signature={}",
    "a connection string of Azure": "DefaultEndpointsProtocol=https;AccountName=a;AccountKey={}==;EndpointSuffix=core",
    "a bearer token in its header": "curl -H 'Authorization: Bearer {}' https://hub.example.com",
    "a header in JSON": '{{"Authorization": "Bearer {}", "Accept": "*/*"}}',
    "a header of another scheme": "Authorization: Basic {}",
    "a bearer token alone": "401 for Bearer {} of the hub",
    "a header of S3": "X-Amz-Security-Token: {}",
    "a user with a password": "cannot reach s3://minio:{}@minio.example.com:9000/bucket",
    "a password alone": "redis://:{}@cache.example.com:6379/0",
    "a token in place of a user": "git clone https://{}@git.example.com/team/repo",
    "a query": "GET /models?revision=main&token={}&x=1",
    "a password of a query": "postgres://db.example.com/x?user=me&password={}",
    "a secret of a query": "POST /oauth?client_id=me&client_secret={}",
    "a setting": "aws_secret_access_key = {}",
    "a variable": "HF_TOKEN={} python train.py",
    "a variable of one's own": "export MY_CLUSTER_API_KEY='{}'",
    "a field of JSON": '{{"user": "me", "password": "{}"}}',
    "a field of Python": "{{'SecretAccessKey': '{}', 'Expiration': 1}}",
    "a token of the hub": "invalid token hf_{}",
    "a token of GitHub": "bad credentials: ghp_{}",
    "a key of AWS": "the key AKIAMADEUP{} does not exist",
    "a token of the API server": "unauthorized: eyJhbGciOiJSUzI1NiJ9.{}.{}",
    "a private key": "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
    "half of a private key": "found -----BEGIN RSA PRIVATE KEY-----\n{}",
}
"""Where a secret may stand; ``{}`` is the secret."""


def written(form: str, secret: str) -> str:
    """A key of AWS has capitals only."""
    return (
        FORMS[form]
        .replace("{{", "{")
        .replace("}}", "}")
        .replace("{}", secret.upper() if "AKIA" in FORMS[form] else secret)
    )


@pytest.mark.parametrize("form", FORMS)
def test_the_secret_is_gone_and_what_is_around_it_stays(form: str) -> None:
    before = written(form, MADE_UP)
    after = redact(before)
    assert MADE_UP.lower() not in after.lower()
    assert REMOVED in after
    assert redact(after) == after
    kept = re.findall(r"https?://[\w.]*example\.com|X-Amz-Date=\w+|v=1|revision=main|x=1|Accept|Expiration|END", before)
    assert [words for words in kept if words not in after] == []


UNTOUCHED = [
    "found s3://bucket/run, which another run uses; a folder of its own is required: change storage.uri",
    "spec.storage.secretName: found 'bucket', no such Secret: create it",
    "exceeded quota: gpus, requested: requests.nvidia.com/gpu=8, used: requests.nvidia.com/gpu=8, limited: 8",
    "the bearer token is missing or not this run's",
    "tokenizer with eos_token='<|endoftext|>' pad_token=None max_tokens=8000 and token 1234",
    "abfss://container@account.dfs.core.windows.net/run is not there",
    "git@git.example.com:team/repo.git, mail to someone@example.com",
    "http://small-trainer-i1-0.small-trainer.team.svc:29500/a?b=c&version=3",
    "Secret/small-token-1a2b3c4d was refused: secrets is forbidden",
    "CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 79.15 GiB total capacity)",
    "signature of the function changed; the password field, the secret and a token: three words",
    "hf://datasets/org/name@main/train.jsonl, hf_transfer is not installed, hf_hub_download failed",
    "image registry.example.com/worker@sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a",
    "task-sk-learn, disk-based, the Basic plan, Bearer authentication",
    "",
]


@pytest.mark.parametrize("text", UNTOUCHED)
def test_other_text_is_as_it_was(text: str) -> None:
    assert redact(text) == text


ALPHANUMERIC = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ0123456789"
SECRETS = st.text(ALPHANUMERIC, min_size=20, max_size=60).filter(lambda text: any(c.isdigit() for c in text))
AROUND = st.text(st.characters(codec="utf-8", exclude_characters="-"), max_size=19)


@given(st.sampled_from(sorted(FORMS)), SECRETS, AROUND, AROUND)
def test_no_secret_survives_whatever_is_around_it(form: str, secret: str, before: str, after: str) -> None:
    text = f"{before} {written(form, secret)} {after}"
    once = redact(text)
    assert secret.lower() not in once.lower()
    assert redact(once) == once


@given(st.text(max_size=200))
def test_twice_is_once(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@given(st.lists(st.sampled_from(UNTOUCHED)))
def test_sentences_one_after_another_are_as_they_were(sentences: list[str]) -> None:
    text = "\n".join(sentences)
    assert redact(text) == text


# ------------------------------------------------------------------------------------------ where statuses are written

LEAK = f"https://b.s3/k?X-Amz-Signature={MADE_UP}"
CLEAN = f"https://b.s3/k?X-Amz-Signature={REMOVED}"


def test_conditions_have_none() -> None:
    (condition,) = set_condition((), "Failed", True, reason="UserError", message=LEAK, now=0)
    assert condition.message == CLEAN


def test_nothing_of_a_status_has_any() -> None:
    (condition,) = set_condition((), "Failed", True, reason="UserError", now=0)
    status = RunStatus(
        message=LEAK,
        retries={"Pod/a": RetryState(message=LEAK)},
        conditions=(condition.model_copy(update={"message": LEAK}),),
    )

    def texts(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [text for item in value.values() for text in texts(item)]
        if isinstance(value, list):
            return [text for item in value for text in texts(item)]
        return [value] if isinstance(value, str) else []

    found = texts(status.to_dict())
    assert found.count(CLEAN) == 3
    assert not [text for text in found if MADE_UP in text]
