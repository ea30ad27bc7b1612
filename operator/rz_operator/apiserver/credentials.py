"""A token that was replaced in its file is used at the latest when the old one is refused.

A ServiceAccount's token lives for an hour, and its file has the next one long before. ``cluster`` reads the credentials
at its start, once a minute, and when it is answered 401.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FRESH_SECONDS = 60.0
"""After which a ServiceAccount's token is read again without having been refused."""


class NoCredentialsError(Exception):
    """None of the sources has credentials that can be used; says which one was read and what to set."""


class Credentials:
    """Fills the ``configuration`` of kubernetes.aio: from the given kubeconfig, $KUBECONFIG, the folder of the pod's
    ServiceAccount, or ~/.kube/config, in this order."""

    def __init__(
        self,
        configuration: Any,
        kubeconfig: str | None,
        context: str | None,
        service_account: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._configuration, self._kubeconfig, self._context = configuration, kubeconfig, context
        explicit = kubeconfig or os.environ.get("KUBECONFIG") or context
        token = service_account / "token"
        self._folder = service_account if not explicit and token.exists() else None
        self._clock = clock
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def read(self) -> None:
        """Read them now. Raises NoCredentialsError; the configuration keeps what it has then."""
        from kubernetes.aio import config
        from kubernetes.aio.config.incluster_config import InClusterConfigLoader
        from yaml import YAMLError

        try:
            if self._folder is not None:
                files = str(self._folder / "token"), str(self._folder / "ca.crt")
                InClusterConfigLoader(*files, try_refresh_token=False).load_and_set(self._configuration)
            else:
                await config.load_kube_config(
                    config_file=self._kubeconfig,
                    context=self._context,
                    client_configuration=self._configuration,
                    persist_config=False,  # a refreshed token is not ours to write into the user's file
                )
        except (config.ConfigException, YAMLError, OSError, ValueError, TypeError) as error:
            raise NoCredentialsError(
                f"found no usable kubeconfig ({error}); set --kubeconfig or KUBECONFIG to one, or run in a pod with a "
                "ServiceAccount"
            ) from error
        self._read_at = self._clock()

    async def header(self) -> str:
        """For ``Authorization``; empty where there is no token."""
        if self._folder is not None and self._clock() >= self._read_at + FRESH_SECONDS:
            with contextlib.suppress(NoCredentialsError):  # the old one may still be good, and a 401 will tell
                await self.read()
        return str(await self._configuration.get_api_key_with_prefix("BearerToken") or "")

    async def renew(self, refused: str) -> bool:
        """``refused`` was answered with 401: whether there is another header now. Requests that are refused together
        read once."""
        async with self._reading:
            if await self.header() == refused:
                with contextlib.suppress(NoCredentialsError):
                    await self.read()
            return await self.header() != refused
