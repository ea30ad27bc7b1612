"""Two URIs that may name the same objects are found to overlap; whether they do is known to the bucket alone. Pure.

The operator compares the storage of a namespace's runs (``storage_claims``); the workers choose credentials by the same
table of schemes. A client library is asked nothing and a URI is never rewritten: what is opened is what was written.
"""

from __future__ import annotations

from dataclasses import dataclass

BUCKET_SCHEMES = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az", "abfss": "az"}
"""Scheme of a URL -> kind of storage, for those that have several."""
LOCAL_SCHEMES = ("file", "local")
"""Schemes of files; a URI without one is a path too."""

_AZURE_HOST = ".core."
"""``ACCOUNT.dfs.core.windows.net``, and the same of other clouds."""


@dataclass(frozen=True)
class Place:
    """A folder of storage, as two URIs of it agree on it."""

    service: str
    """``s3``, ``gs``, ``az``, ``file``, or any other scheme."""
    account: str
    """Of Azure, where the URI names one; else empty."""
    bucket: str
    """Bucket or container. Of a path: empty, or a dot where it is relative."""
    folders: tuple[str, ...]
    """From the bucket, or the root, down."""

    def overlaps(self, other: Place) -> bool:
        """Whether one of the two may be the other, or may lie inside of it.

        Two services behind one scheme (two MinIOs, say) can't be told apart by their URIs and are taken for one.
        """
        if (self.service, self.bucket) != (other.service, other.bucket):
            return False
        # Without a name the account is that of the credentials, which may be either.
        if self.account and other.account and self.account != other.account:
            return False
        depth = min(len(self.folders), len(other.folders))
        return self.folders[:depth] == other.folders[:depth]


def place_of(uri: str) -> Place:
    """The folder that ``uri`` names, in canonical form; any text is some place.

    Alike are ``s3`` and ``s3a``, ``gs`` and ``gcs``, ``az``, ``abfs`` and ``abfss``, a path and its ``file://``; a
    bucket in capitals (no service has two that differ by case alone); double slashes, a slash at the end, ``.`` and
    ``..``. These are names of their own to S3, but file systems, proxies and HTTP clients resolve them. Percent signs
    stand for themselves, as the client libraries have it.

    Examples: ``s3a://Bucket//runs/./orz/`` and ``s3://bucket/runs/orz``;
    ``abfss://data@account.dfs.core.windows.net/orz`` and ``az://data/orz``.
    """
    scheme, separator, rest = uri.partition("://")
    scheme = scheme.lower() if separator else "file"
    rest = rest if separator else uri
    if scheme in LOCAL_SCHEMES:
        return Place("file", "", "" if rest.startswith("/") else ".", _folders(rest))
    service = BUCKET_SCHEMES.get(scheme, scheme)
    bucket, _, path = rest.lstrip("/").partition("/")
    account = ""
    if service == "az":
        account, bucket, path = _azure(bucket, path)
    return Place(service, account, bucket.lower() if scheme in BUCKET_SCHEMES else bucket, _folders(path))


def is_local(uri: str) -> bool:
    """Whether ``uri`` names files: of this machine, or of a volume that is mounted."""
    return "://" not in uri or uri.partition("://")[0].lower() in LOCAL_SCHEMES


def _azure(host: str, path: str) -> tuple[str, str, str]:
    """Account, container and path: ``container@account.dfs.core.windows.net``, the account's host with the container
    as first folder, or the container alone."""
    container, at, account = host.rpartition("@")
    if not at and _AZURE_HOST not in host.lower():
        return "", host, path
    if not at:
        container, _, path = path.lstrip("/").partition("/")
    return account.partition(".")[0].lower(), container, path


def _folders(path: str) -> tuple[str, ...]:
    folders: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del folders[-1:]
        elif part not in ("", "."):
            folders.append(part)
    return tuple(folders)
