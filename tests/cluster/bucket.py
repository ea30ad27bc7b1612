"""The S3 service of these tests, as fsspec and as a run's Secret name it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

REGION = "us-east-1"


@dataclass(frozen=True)
class Bucket:
    """An S3 service that pods reach, with one bucket."""

    endpoint: str

    @property
    def options(self) -> dict[str, Any]:
        """For fsspec."""
        return {
            "key": "test",
            "secret": "test",
            "endpoint_url": self.endpoint,
            "client_kwargs": {"region_name": "us-east-1"},
        }

    @property
    def secret(self) -> dict[str, str]:
        """Keys of the Secret that a run names."""
        return {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_REGION": REGION,
        }
