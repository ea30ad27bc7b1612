"""Memory for hundreds of megabytes at a time, asked for in large pages. Called by ``weights`` and
``rz_workers.transfer``: with pages of 4 kB, the page faults of such a buffer take longer than filling it."""

from __future__ import annotations

import contextlib
import mmap

__all__ = ["map_memory"]


def map_memory(nbytes: int) -> mmap.mmap:
    """Private memory, zero, given back when nobody refers to it any more."""
    memory = mmap.mmap(-1, max(nbytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without large pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
