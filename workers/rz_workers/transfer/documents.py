"""Every field of a document is checked before any is used: what sender and receivers of a broadcast write for each
other, as JSON. ``control`` has who writes which, and when."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeInt

from rz_workers.protocol.messages import Message

__all__ = [
    "Document",
    "Done",
    "FileHandle",
    "Header",
    "IpcBytes",
    "IpcHandle",
    "Notice",
    "Refusal",
    "Result",
    "TensorFields",
    "Trailer",
]


class Document(Message):
    """Base of all documents: unknown fields refused, values frozen."""


class Refusal(Document):
    """In place of what was waited for."""

    refused: str


class Done(Document):
    """``hello``, ``join``, ``ready``, ``taken``: that it is there says it all."""


class TensorFields(Document):
    """``wire.TensorMeta``."""

    name: str
    dtype: str
    shape: tuple[NonNegativeInt, ...]


class FileHandle(Document):
    """Memory that is shared as a file."""

    file: str
    nbytes: NonNegativeInt
    """Of one slot."""


class IpcBytes(Document):
    base64: str


class IpcHandle(Document):
    """Memory of one GPU: for each slot the fields of torch's handle."""

    cuda: tuple[tuple[IpcBytes | bool | int | None, ...], ...]


class Header(Document):
    version: int
    buckets: tuple[Annotated[tuple[TensorFields, ...], Field(min_length=1)], ...]
    shared: FileHandle | IpcHandle | None


class Trailer(Document):
    digest: str
    tensors: dict[str, str]
    """Tensor -> checksum."""


class Result(Document):
    """One of the two."""

    digest: str | None = None
    error: str | None = None


class Notice(Document):
    """A bucket is in a slot of shared memory."""

    slot: NonNegativeInt
    nbytes: NonNegativeInt
