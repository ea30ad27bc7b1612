"""Which storage URIs name one folder, or one inside the other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rz_api.storage_uri import is_local, place_of

SAME = {
    "s3 and s3a": ("s3://bucket/runs/orz", "s3a://bucket/runs/orz"),
    "gs and gcs": ("gs://bucket/orz", "gcs://bucket/orz"),
    "the schemes of Azure": ("az://data/orz", "abfs://data/orz"),
    "with and without encryption": ("abfss://data/orz", "abfs://data/orz"),
    "a scheme in capitals": ("S3://bucket/orz", "s3://bucket/orz"),
    "a bucket in capitals": ("s3://Bucket/orz", "s3://bucket/orz"),
    "a slash at the end": ("s3://bucket/orz/", "s3://bucket/orz"),
    "double slashes": ("s3://bucket//runs//orz", "s3://bucket/runs/orz"),
    "a bucket behind a third slash": ("gs:///bucket/orz", "gs://bucket/orz"),
    "a dot": ("s3://bucket/./runs/./orz/.", "s3://bucket/runs/orz"),
    "two dots": ("s3://bucket/runs/x/../orz", "s3://bucket/runs/orz"),
    "two dots at the top": ("s3://bucket/../orz", "s3://bucket/orz"),
    "a path and its URL": ("/mnt/runs/orz", "file:///mnt/runs//orz/"),
    "fsspec's other name for files": ("local:///mnt/orz", "/mnt/orz"),
    "a relative path": ("runs/orz", "./runs/orz/"),
    "Azure's account in the host": (
        "abfss://data@account.dfs.core.windows.net/orz",
        "az://data@ACCOUNT.dfs.core.windows.net/orz",
    ),
    "Azure's container behind the host": (
        "abfs://account.dfs.core.windows.net/data/orz",
        "abfs://data@account.dfs.core.windows.net/orz",
    ),
    "the whole bucket": ("s3://bucket", "s3://bucket/"),
}
INSIDE = {
    "a folder of a folder": ("s3://bucket/runs", "s3://bucket/runs/x"),
    "far below": ("s3a://bucket/", "s3://bucket/a/b/c/d"),
    "a path": ("/mnt", "file:///mnt/runs/orz"),
    "an account that one of the two leaves to its credentials": (
        "az://data/orz",
        "abfss://data@account.dfs.core.windows.net/orz/x",
    ),
}
APART = {
    "neighbours": ("s3://bucket/orz-7b", "s3://bucket/orz"),
    "a name that begins like another": ("s3://bucket/runs-2/x", "s3://bucket/runs"),
    "other buckets": ("s3://bucket/orz", "s3://bucket-2/orz"),
    "other services": ("s3://bucket/orz", "gs://bucket/orz"),
    "folders in capitals": ("s3://bucket/ORZ", "s3://bucket/orz"),
    "percent signs stand for themselves": ("s3://bucket/a%20b", "s3://bucket/a b"),
    "other accounts of Azure": (
        "abfs://data@one.dfs.core.windows.net/orz",
        "abfs://data@other.dfs.core.windows.net/orz",
    ),
    "a path from the root and one from here": ("/runs/orz", "runs/orz"),
    "memory is no bucket": ("memory://Bucket/orz", "memory://bucket/orz"),
}


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME)
def test_one_folder_has_one_canonical_form(one: str, other: str) -> None:
    assert place_of(one) == place_of(other)
    assert place_of(one).overlaps(place_of(other))


@pytest.mark.parametrize(("outer", "inner"), INSIDE.values(), ids=INSIDE)
def test_a_folder_inside_another_one_overlaps_with_it(outer: str, inner: str) -> None:
    assert place_of(outer).overlaps(place_of(inner))
    assert place_of(inner).overlaps(place_of(outer))
    assert place_of(inner) != place_of(outer)


@pytest.mark.parametrize(("one", "other"), APART.values(), ids=APART)
def test_folders_beside_each_other_do_not_overlap(one: str, other: str) -> None:
    assert not place_of(one).overlaps(place_of(other))
    assert not place_of(other).overlaps(place_of(one))


@given(st.text(), st.text())
def test_any_text_is_some_place(one: str, other: str) -> None:
    assert place_of(one).overlaps(place_of(one))
    assert place_of(one).overlaps(place_of(other)) == place_of(other).overlaps(place_of(one))


NAMES = st.lists(st.text("abAB01-_ %@:é", min_size=1, max_size=6), min_size=1, max_size=5)
NOISE = st.sampled_from(["/", "//", "/./", "/x/../", "///./"])


@given(st.sampled_from(["s3://bucket", "gs://bucket", "az://data", "file://", "memory://x"]), NAMES, st.data())
def test_noise_between_folders_is_no_other_place(root: str, folders: list[str], data: st.DataObject) -> None:
    clean = "/".join([root, *folders])
    noisy = (
        root + "".join(data.draw(NOISE) + folder for folder in folders) + data.draw(st.sampled_from(["", "/", "/."]))
    )
    assert place_of(noisy) == place_of(clean)
    assert place_of(noisy).folders == tuple(folders)
    assert place_of(f"{noisy}/more").overlaps(place_of(clean))


@pytest.mark.parametrize(
    ("uri", "local"),
    [("runs/x", True), ("/runs/x", True), ("file:///x", True), ("local:///x", True), ("s3://b/x", False)],
)
def test_what_is_a_file(uri: str, local: bool) -> None:
    assert is_local(uri) is local
