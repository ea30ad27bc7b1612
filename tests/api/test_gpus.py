"""Names of GPUs: what people write, what drivers print, what node labels hold; and what has no figures."""

from __future__ import annotations

import pytest

from rz_api.gpus import GB, GPUS, UnknownGpuError, find

NAMES = [
    # what people write
    ("H100", "H100-80GB"),
    ("h100", "H100-80GB"),
    ("H100-80", "H100-80GB"),
    ("H100-80GB", "H100-80GB"),
    ("H100_80gb", "H100-80GB"),
    ("H100 80 GB", "H100-80GB"),
    ("H100SXM5", "H100-80GB"),
    ("H100 PCIe", "H100-PCIe-80GB"),
    ("h100-nvl", "H100-NVL-94GB"),
    ("H200", "H200-141GB"),
    ("H200 NVL", "H200-NVL-141GB"),
    ("A100", "A100-40GB"),
    ("A100-40", "A100-40GB"),
    ("A100-40GB", "A100-40GB"),
    ("A100-80GB", "A100-80GB"),
    ("a100 sxm 80gb", "A100-80GB"),
    ("B200", "B200-180GB"),
    ("GB200", "GB200-186GB"),
    ("GH200", "GH200-96GB"),
    ("H20", "H20-96GB"),
    ("H800", "H800-80GB"),
    ("A800", "A800-80GB"),
    ("A10", "A10"),
    ("A10G", "A10G"),
    ("L4", "L4"),
    ("L40", "L40"),
    ("L40S", "L40S"),
    ("RTX 4090", "RTX-4090"),
    ("rtx4090", "RTX-4090"),
    ("4090", "RTX-4090"),
    ("A6000", "RTX-A6000"),
    # what nvidia-smi prints
    ("NVIDIA H100 80GB HBM3", "H100-80GB"),
    ("NVIDIA H100 PCIe", "H100-PCIe-80GB"),
    ("NVIDIA H100 NVL", "H100-NVL-94GB"),
    ("NVIDIA H200", "H200-141GB"),
    ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
    ("NVIDIA A100-PCIE-40GB", "A100-40GB"),
    ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
    ("NVIDIA A100 80GB PCIe", "A100-PCIe-80GB"),
    ("NVIDIA A800-SXM4-80GB", "A800-80GB"),
    ("NVIDIA H800", "H800-80GB"),
    ("NVIDIA H800 PCIe", "H800-PCIe-80GB"),
    ("NVIDIA L40S", "L40S"),
    ("NVIDIA GeForce RTX 4090", "RTX-4090"),
    ("NVIDIA RTX 6000 Ada Generation", "RTX-6000-Ada"),
    ("NVIDIA GH200 480GB", "GH200-96GB"),  # 480 GB are the CPU's
    ("NVIDIA GH200 144G HBM3e", "GH200-144GB"),
    # what node labels hold
    ("NVIDIA-H100-80GB-HBM3", "H100-80GB"),
    ("NVIDIA-A100-SXM4-80GB", "A100-80GB"),
    ("NVIDIA-A100-SXM4-80GB-SHARED", "A100-80GB"),
    ("NVIDIA-L40-SHARED", "L40"),
    ("nvidia-tesla-a100", "A100-40GB"),  # GKE's
    ("nvidia-h100-mega-80gb", "H100-80GB"),
]


@pytest.mark.parametrize(("name", "want"), NAMES, ids=[name for name, _ in NAMES])
def test_a_name_means_a_card(name: str, want: str) -> None:
    assert find(name).gpu.name == want


@pytest.mark.parametrize("name", GPUS)
def test_the_name_of_a_card_means_that_card_first(name: str) -> None:
    assert find(name).gpu == GPUS[name]


@pytest.mark.parametrize(
    ("name", "others"),
    [
        pytest.param("H100", ["H100-PCIe-80GB", "H100-NVL-94GB"], id="a model of three cards"),
        pytest.param("H100-80GB", ["H100-PCIe-80GB"], id="a memory that two of them have"),
        pytest.param("A100", ["A100-80GB", "A100-PCIe-80GB"], id="two memories: the least is taken"),
        pytest.param("NVIDIA H100 80GB HBM3", [], id="a kind of memory that one of them has"),
        pytest.param("H100 PCIe", [], id="a form"),
        pytest.param("L4", [], id="a model of one card, though L40 begins like it"),
    ],
)
def test_a_name_of_several_cards_says_which_others_it_may_mean(name: str, others: list[str]) -> None:
    assert [gpu.name for gpu in find(name).others] == others


def test_a_node_whose_gpus_are_shared_says_so() -> None:
    assert find("NVIDIA-H100-80GB-HBM3-SHARED").shared
    assert not find("NVIDIA-H100-80GB-HBM3").shared


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("H9000", "found the GPU 'H9000', of which there are no figures; the closest known: H", id="typo"),
        pytest.param("H1O0", "the closest known: H100-80GB", id="a letter for a digit"),
        pytest.param("A100 64GB", "the closest known: A100-40GB, A100-80GB", id="a memory that the model has not"),
        pytest.param("B300", "the closest known: B200-180GB", id="a newer one"),
        pytest.param("NVIDIA GeForce RTX 4090 Laptop GPU", "the closest known: RTX-4090", id="a laptop's"),
        pytest.param("A100-40C", "of which there are no figures", id="a virtual GPU"),
        pytest.param("MI300X", "of which there are no figures. One of A100-40GB, A100-80GB,", id="another vendor's"),
        pytest.param("", "found the GPU '', of which there are no figures. One of", id="nothing"),
        pytest.param("V100", "has no bfloat16; one that has it is required", id="V100"),
        pytest.param("Tesla V100-SXM2-32GB", "has no bfloat16", id="V100 as its driver has it"),
        pytest.param("NVIDIA-T4", "has no bfloat16", id="T4"),
        pytest.param(
            "NVIDIA-H100-80GB-HBM3-MIG-3g.40gb", "a slice of a GPU (MIG); there are figures of whole GPUs only, and "
            "one is required: give H100-80GB for the whole card", id="a slice by its node label",
        ),
        pytest.param("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "give A100-40GB for the whole", id="a slice by its driver"),
        pytest.param("h100 1g.10gb", "a slice of a GPU (MIG)", id="a slice without the word"),
    ],
)  # fmt: skip
def test_what_has_no_figures_is_refused_with_what_to_give(name: str, words: str) -> None:
    with pytest.raises(UnknownGpuError) as caught:
        find(name)
    assert words in str(caught.value)


def test_a_name_that_is_endless_is_refused_at_once() -> None:
    with pytest.raises(UnknownGpuError):
        find("H100 " + "sxm4 80 gb " * 1000 + "x")


@pytest.mark.parametrize(
    ("name", "memory", "flops", "bandwidth"),
    [
        ("A100-40GB", 40, 312, 1.55),
        ("A100-80GB", 80, 312, 2.04),
        ("L40S", 48, 362, 0.86),
        ("H100-80GB", 80, 989, 3.35),
        ("H100-PCIe-80GB", 80, 756, 2.0),
        ("H200-141GB", 141, 989, 4.8),
        ("B200-180GB", 180, 2250, 7.7),
    ],
)
def test_figures_are_the_data_sheets(name: str, memory: int, flops: int, bandwidth: float) -> None:
    gpu = GPUS[name]
    assert (gpu.memory, gpu.flops, gpu.bandwidth) == (memory * GB, flops * 1e12, bandwidth * 1e12)
