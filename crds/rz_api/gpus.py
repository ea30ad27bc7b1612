"""A GPU without figures is an error, never taken for the nearest one: GPUs by the names that people, drivers and node
labels give them, and what their data sheets say. Pure.

Called by ``rz_api.estimate`` and ``rz plan`` (``--gpu``), and by the trainer for the peak that its MFU is a share of.

Figures are those of NVIDIA's data sheets; of GeForce and RTX cards those of the architecture's white paper (tensor
cores, accumulating in fp32); of A10G, A800, H800 and H20, which are sold by one cloud or in one country only, those
of the data sheets that their sellers publish. Operations are dense: where a sheet gives them "with sparsity", half.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["GB", "GPUS", "Found", "Gpu", "UnknownGpuError", "find"]

GB = 1_000_000_000


class UnknownGpuError(ValueError):
    """A name of which there are no figures. The message says what was found, what is close, and what to give."""


@dataclass(frozen=True)
class Gpu:
    """What the data sheet says of one GPU."""

    name: str
    """As it is shown; unlike a driver's name it means this card alone."""
    model: str
    form: str
    """SXM, PCIe or NVL; empty where there is one form, or all have these figures."""
    memory_kind: str
    memory: float
    """Bytes."""
    flops: float
    """Dense bfloat16 operations a second."""
    bandwidth: float
    """Bytes of its memory that can be read in a second."""


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100-40GB", "A100", "", "HBM2", 40 * GB, 312e12, 1.55e12),
        Gpu("A100-80GB", "A100", "SXM", "HBM2e", 80 * GB, 312e12, 2.04e12),
        Gpu("A100-PCIe-80GB", "A100", "PCIe", "HBM2e", 80 * GB, 312e12, 1.94e12),
        Gpu("H100-80GB", "H100", "SXM", "HBM3", 80 * GB, 989e12, 3.35e12),
        Gpu("H100-PCIe-80GB", "H100", "PCIe", "HBM2e", 80 * GB, 756e12, 2.0e12),
        Gpu("H100-NVL-94GB", "H100", "NVL", "HBM3", 94 * GB, 835e12, 3.9e12),
        Gpu("H200-141GB", "H200", "SXM", "HBM3e", 141 * GB, 989e12, 4.8e12),
        Gpu("H200-NVL-141GB", "H200", "NVL", "HBM3e", 141 * GB, 835e12, 4.8e12),
        Gpu("GH200-96GB", "GH200", "", "HBM3", 96 * GB, 989e12, 4.0e12),
        Gpu("GH200-144GB", "GH200", "", "HBM3e", 144 * GB, 989e12, 4.9e12),
        Gpu("B200-180GB", "B200", "SXM", "HBM3e", 180 * GB, 2250e12, 7.7e12),
        Gpu("GB200-186GB", "GB200", "", "HBM3e", 186 * GB, 2500e12, 8.0e12),
        Gpu("A800-80GB", "A800", "SXM", "HBM2e", 80 * GB, 312e12, 2.04e12),
        Gpu("A800-PCIe-80GB", "A800", "PCIe", "HBM2e", 80 * GB, 312e12, 1.94e12),
        Gpu("H800-80GB", "H800", "SXM", "HBM3", 80 * GB, 989e12, 3.35e12),
        Gpu("H800-PCIe-80GB", "H800", "PCIe", "HBM2e", 80 * GB, 756e12, 2.0e12),
        Gpu("H20-96GB", "H20", "SXM", "HBM3", 96 * GB, 148e12, 4.0e12),
        Gpu("A10", "A10", "PCIe", "GDDR6", 24 * GB, 125e12, 0.6e12),
        Gpu("A10G", "A10G", "PCIe", "GDDR6", 24 * GB, 70e12, 0.6e12),
        Gpu("A30", "A30", "PCIe", "HBM2", 24 * GB, 165e12, 0.93e12),
        Gpu("A40", "A40", "PCIe", "GDDR6", 48 * GB, 150e12, 0.7e12),
        Gpu("L4", "L4", "PCIe", "GDDR6", 24 * GB, 121e12, 0.3e12),
        Gpu("L40", "L40", "PCIe", "GDDR6", 48 * GB, 181e12, 0.86e12),
        Gpu("L40S", "L40S", "PCIe", "GDDR6", 48 * GB, 362e12, 0.86e12),
        Gpu("RTX-A6000", "RTX A6000", "PCIe", "GDDR6", 48 * GB, 155e12, 0.77e12),
        Gpu("RTX-6000-Ada", "RTX 6000 Ada", "PCIe", "GDDR6", 48 * GB, 364e12, 0.96e12),
        Gpu("RTX-3090", "RTX 3090", "PCIe", "GDDR6X", 24 * GB, 71e12, 0.94e12),
        Gpu("RTX-4090", "RTX 4090", "PCIe", "GDDR6X", 24 * GB, 165e12, 1.01e12),
        Gpu("RTX-5090", "RTX 5090", "PCIe", "GDDR7", 32 * GB, 210e12, 1.79e12),
    )
}
"""By name. Of several cards that a name may mean the first is taken: the one with the least memory, so that what fits
is no promise of a larger card; of equal ones the SXM module, which servers with eight GPUs have."""

NO_BFLOAT16 = ("P100", "V100", "V100S", "T4")
"""Models from before Ampere that clouds still rent: no bfloat16, which passes and published weights are in."""


@dataclass(frozen=True)
class Found:
    """The card that a name was taken for."""

    gpu: Gpu
    others: tuple[Gpu, ...]
    """Other cards that the name may mean."""
    shared: bool
    """Whether the name is a node's whose GPUs are given to several pods at once (time slicing, MPS)."""


def find(name: str) -> Found:
    """The card that ``name`` means: one of ``GPUS``, a model with or without its form and memory (``h100 pcie``,
    ``A100_80GB``), what nvidia-smi prints (``NVIDIA H100 80GB HBM3``), or the node label ``nvidia.com/gpu.product``
    (``NVIDIA-A100-SXM4-80GB-SHARED``). Letter case, blanks, dashes and underscores make no difference.

    Raises UnknownGpuError where there are no figures: of an unknown card, of one without bfloat16, of a MIG slice.
    """
    words = _words(name)
    if cut := _SLICE.search(words):
        raise UnknownGpuError(_slice_message(name, words[: cut.start()].strip()))
    if _read(words, NO_BFLOAT16) is not None:
        raise UnknownGpuError(
            f"found the GPU {name!r}, which has no bfloat16; one that has it is required, Ampere or newer, such as "
            "A10, A100-40GB or H100-80GB"
        )
    cards = _cards(words)
    if not cards:
        raise UnknownGpuError(_unknown_message(name, words))
    return Found(cards[0], tuple(cards[1:]), shared="shared" in words.split())


# --------------------------------------------------------------------------------------------------- reading a name

_BRAND = re.compile(r"(?:(?:nvidia|geforce|tesla) ?)*")
_PART = re.compile(
    r" ?(?:(?P<form>sxm|pcie|nvl)[2-6]?|(?P<memory>\d+) ?(?:gb?|gib)?|(?P<kind>hbm[23]e?|gddr[67]x?)|"
    r"shared|mega|gpu|tensor ?core|generation)"
)
"""What follows the model: its form, its memory in GB, the kind of that, or a word that says nothing of the card."""
_SLICE = re.compile(r"\bmig\b|\b\d+g\.\d+gb\b")
"""``MIG 3g.40gb``: a part of a GPU as the driver cut it."""


def _words(name: str) -> str:
    """``NVIDIA A100-SXM4-80GB`` is ``a100 sxm4 80gb``."""
    words = re.sub(r"[\s_-]+", " ", name).strip().lower()
    # At the start alone: what follows begins with the model.
    words = _BRAND.sub("", words, count=1)
    # The driver names a Grace Hopper by the memory of its CPU.
    return re.sub(r"^gh200 (120|480) ?gb\b", "gh200 96gb", words)


def _read(words: str, models: Iterable[str]) -> dict[str, str] | None:
    """The model, and the form, memory and kind of memory as far as they are said; None where anything else is."""
    for model in sorted(models, key=len, reverse=True):  # L40S before L40
        # RTX 4090 is also written RTX4090 and 4090.
        found = re.match(model.lower().replace("rtx ", "(?:rtx ?)?").replace(" ", " ?"), words)
        if found is not None:
            break
    else:
        return None
    read, at = {"model": model}, found.end()
    while at < len(words):
        part = _PART.match(words, at)
        if part is None:
            return None
        read |= {name: text for name, text in part.groupdict().items() if text is not None}
        at = part.end()
    return read


def _cards(words: str) -> list[Gpu]:
    """Those that ``words`` may mean, in the order of ``GPUS``."""
    read = _read(words, {gpu.model for gpu in GPUS.values()})
    if read is None:
        return []
    return [
        gpu
        for gpu in GPUS.values()
        if gpu.model == read["model"]
        # A card without a form fits any: there is one form, or all have its figures.
        and ("form" not in read or gpu.form.lower() in ("", read["form"]))
        and ("memory" not in read or gpu.memory == int(read["memory"]) * GB)
        and ("kind" not in read or gpu.memory_kind.lower() == read["kind"])
    ]


# ---------------------------------------------------------------------------------------------------------- messages


def _slice_message(name: str, whole: str) -> str:
    cards = _cards(whole)
    example = f": give {cards[0].name} for the whole card" if cards else ""
    return f"found {name!r}, a slice of a GPU (MIG); there are figures of whole GPUs only, and one is required{example}"


def _unknown_message(name: str, words: str) -> str:
    near = _closest(words)
    closest = f"; the closest known: {', '.join(near)}" if near else ""
    return (
        f"found the GPU {name!r}, of which there are no figures{closest}. One of {', '.join(GPUS)} is required, or its "
        "name as nvidia-smi or the node label nvidia.com/gpu.product has it; for another card give a known one that "
        "has as much memory"
    )


def _closest(words: str) -> list[str]:
    """Names of up to three cards whose name or model looks like ``words``, the nearest first."""
    # Reversed: of cards of one model the first of the table wins.
    spelled = {_words(gpu.model): gpu.name for gpu in reversed(GPUS.values())}
    spelled |= {_words(gpu.name): gpu.name for gpu in GPUS.values()}
    near = difflib.get_close_matches(words, spelled, n=6, cutoff=0.5)
    return list(dict.fromkeys(spelled[each] for each in near))[:3]
