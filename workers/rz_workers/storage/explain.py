"""A storage that a run can't start on is told with what was found, what is required and what to change. Pure.

The words of ``ObjectStore.check_writable``.
"""

from __future__ import annotations

import errno

from rz_api.storage_uri import is_local, place_of

_CONDITIONS = {
    "s3": "an S3 server must refuse a PUT with `If-None-Match: *` there, and whatever stands before it must pass that "
    "header on: upgrade or configure the server behind AWS_ENDPOINT_URL, or point storage.uri at another one",
    "gs": "Google's storage must refuse an upload with ifGenerationMatch=0 there: use a standard bucket, not a zonal "
    "one or a server that only speaks like Google's",
    "az": "Azure's storage must refuse a PUT with `If-None-Match: *` there: use a container of Azure itself, not of a "
    "server that only speaks like it",
    "file": "a file system must refuse to link a file to a name that is taken: point storage.uri at a local disk or "
    "NFS, and name a bucket by its own URL (s3://, gs://, az://) instead of mounting it",
}
_OTHER = "use files, s3://, gs:// or az://"


def unwritable(uri: str, error: Exception) -> str:
    """``error``: what the first creation ended in, as ``ObjectStore`` raised it."""
    cause = error.__cause__
    if isinstance(cause, OSError) and _knows_no_condition(uri, cause):
        return (
            f"the storage {uri} can't create an object on the condition that there is none yet: {words(cause)}. "
            f"{_required(uri)}"
        )
    reason = words(cause) if cause is not None else str(error)
    change = (
        "point storage.uri at a folder that this user may create or write to"
        if is_local(uri)
        else "create the bucket, check storage.secretName or the workload identity, and grant it read, write, list and "
        "delete below this URL"
    )
    return f"the storage folder {uri} cannot be written: {reason}. A run must be able to create files there; {change}."


def not_exclusive(uri: str) -> str:
    """The same key could be created twice."""
    return (
        f"the storage {uri} replaces objects that it is asked to create only where there are none: it took a second "
        f"creation of one key. {_required(uri)}"
    )


def words(error: BaseException) -> str:
    """``PermissionError: Access Denied``"""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _required(uri: str) -> str:
    condition = _CONDITIONS.get(place_of(uri).service, _OTHER)
    return (
        "Of many writers of one key exactly one must succeed, or two trainer gangs, or two runs, would both believe "
        f"that the folder is theirs; {condition}."
    )


def _knows_no_condition(uri: str, error: OSError) -> bool:
    """Whether storage does not know the request: HTTP's 501, or a file system without hard links."""
    if not is_local(uri):
        return error.errno == errno.ENOSYS
    # Only ``link`` speaks of two files.
    return error.filename2 is not None and not isinstance(error, FileExistsError)
