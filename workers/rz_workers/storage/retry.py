"""What is missing, taken, forbidden or wrong is never tried again; what may pass by itself is.

Which storage failures are which, and how long to wait. Pure; ``ObjectStore`` calls it.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

_PERMANENT_ERRNOS = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EINVAL,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.ENOSYS,
        errno.ENOTSUP,
        errno.EXDEV,
        errno.EFBIG,
        errno.EMSGSIZE,
    }
)
_CLIENT_LIBRARIES = ("botocore", "aiobotocore", "aiohttp", "urllib3", "requests", "gcsfs", "google", "azure", "fsspec")
_CONFIGURATION_ERRORS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "ProfileNotFound",
    "NoRegionError",
    "ParamValidationError",
    "InvalidURL",
    "DefaultCredentialsError",
)
"""By name, so that none of the client libraries has to be installed."""
_REFUSALS = ("ClientAuthenticationError", "RefreshError", "NoCredentialsError", "DefaultCredentialsError")


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential back-off with jitter. The default waits 5 minutes in all: 0.2 s, 0.4 s, ... 30 s, 30 s."""

    attempts: int = 17
    first_seconds: float = 0.2
    longest_seconds: float = 30.0

    def delay(self, attempt: int, jitter: float) -> float:
        """Seconds to wait after failure number ``attempt`` (1, 2, ...); ``jitter`` in [0, 1) scales it to 50-100%, so
        that many workers that failed together do not come back together."""
        # The bound of 60: 2.0 ** 1024 is an OverflowError, and a rollout tries without end.
        full = min(self.first_seconds * 2.0 ** min(attempt - 1, 60), self.longest_seconds)
        return full * (0.5 + 0.5 * jitter)


def is_storage_failure(error: Exception) -> bool:
    """Whether an exception speaks of storage at all (the OSError family, a client library's) and not of a mistake in
    our code."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _CLIENT_LIBRARIES


def http_status(error: BaseException) -> int | None:
    """The HTTP status that a client library's exception tells; None where it tells none."""
    # By those names aiohttp, azure-core and gcsfs tell it.
    status = next((value for name in ("status", "status_code", "code") if (value := getattr(error, name, None))), None)
    return status if isinstance(status, int) else None


def is_refusal(error: BaseException) -> bool:
    """Whether storage knew who asked and said no, or did not know: other credentials may help."""
    if isinstance(error, PermissionError) or type(error).__name__ in _REFUSALS:
        return True
    # gcsfs makes of a 403 an OSError without a number (``gcsfs.retry.validate_response``, 2026.10).
    is_gcs = type(error) is OSError and error.errno is None and str(error).startswith("Forbidden: ")
    return is_gcs or http_status(error) in (401, 403)


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later: outages, time limits, throttling, full disks; not what is missing,
    taken, forbidden or wrong."""
    if type(error).__name__ in _CONFIGURATION_ERRORS:
        return False
    if isinstance(
        error, FileNotFoundError | FileExistsError | PermissionError | IsADirectoryError | NotADirectoryError
    ):
        return False
    if isinstance(error, OSError):
        # Also one without an errno, as asyncio's TimeoutError is.
        return error.errno not in _PERMANENT_ERRNOS
    return isinstance(error, Exception) and is_storage_failure(error)
