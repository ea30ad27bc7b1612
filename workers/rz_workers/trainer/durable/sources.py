"""What comes out is something that ``from_pretrained`` takes, wherever the model comes from: a local folder, a bucket,
or the hub.
"""

from __future__ import annotations

from pathlib import Path

from rz_workers.runtime import UserError
from rz_workers.storage.objects import ObjectStore


def local_source(name: str, scratch: Path, secret_name: str | None = None, field: str = "model.name") -> str:
    """``name`` itself for a local folder or a hub id; a copy under ``scratch`` for a URL, which
    ``secret_name`` gives access to.

    Raises UserError, naming ``field`` of the spec, for a path that does not exist, or a URL under which there is
    nothing.
    """
    if "://" in name:
        store = ObjectStore(name, secret_name)
        keys = store.list("")
        if not keys:
            raise UserError(
                f"found nothing at {name}; the folder of a Hugging Face checkpoint is required: check {field}"
            )
        # One folder a URL: model, tokenizer and initFrom may come from three.
        target = scratch / "source" / name.split("://", 1)[1].strip("/").replace("/", "--")
        for key in keys:
            store.download(key, target / key)
        return str(target)
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(
                f"the folder {name} has no config.json; a Hugging Face checkpoint is required: check {field}"
            )
        return name
    # owner/name is also a relative path: where its first part is a folder here, a path was meant.
    first = path.parts[0] if path.parts else ""
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1 or Path(first).exists():
        raise UserError(
            f"found no folder {name}, and it is no hub id (owner/name): check {field} (relative paths "
            "start at the folder in "
            f"which the run was started)"
        )
    return name
