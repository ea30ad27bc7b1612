"""One run owns a folder, one trainer gang commits in it, and what was frozen stands (DESIGN.md 4).

Called by every role. The promises, each kept by one exclusive create:

* one run owns the folder (``run.json``); another one is refused before it has written anything, and so is one whose
  folder lies inside it or around it (``neighbours``);
* one trainer gang is the newest (``incarnations/…``); an older one that still runs is refused at its next commit, and
  what it wrote in between is ignored by readers, who take the newest incarnation's word on every step;
* the shards of a step are frozen once (``trajectories/step-…/manifest.json``), so that every replay trains on the same
  ones;
* a folder of files counts only when its manifest, written last, names them with sizes and checksums.
"""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from rz_api.run import ResolvedRun, UnreadableRunError, read_stored_run, write_stored_run
from rz_workers.runtime import SupersededError, UserError
from rz_workers.storage import layout
from rz_workers.storage.neighbours import refuse_neighbours
from rz_workers.storage.objects import (
    CorruptObjectError,
    ObjectExistsError,
    ObjectMissingError,
    ObjectStore,
    StorageError,
    file_entry,
)
from rz_workers.storage.records import (
    DataManifest,
    EvalSummary,
    FailedStep,
    FileEntry,
    IncarnationClaim,
    Manifest,
    Record,
    Recovery,
    StepCommit,
    StepManifest,
)

R = TypeVar("R", bound=Record)

_DIFFERENCES_SHOWN = 5


class RunFolder:
    """One run's folder. Make it with ``claim`` (trainer) or ``open`` (everybody else)."""

    def __init__(self, store: ObjectStore, run: ResolvedRun) -> None:
        self.store = store
        self.run = run
        self._documents: dict[str, Record] = {}

    @staticmethod
    def claim(store: ObjectStore, run: ResolvedRun) -> RunFolder:
        """Make the folder this run's, or continue it where it is already.

        Raises UserError, naming the owner and what differs, when another run or another specification owns it and
        ``storage.adopt`` is off, and when the folder lies inside another run's or around it.
        """
        folder = RunFolder(store, run)
        if not store.exists(layout.RUN):
            # Once before, so that whoever is refused has written nothing.
            refuse_neighbours(store, run.uid)
        is_new = folder._create_run()
        if not is_new:
            _check_owner(store, _read_owner(store), run)
        # And once behind: a neighbour that began meanwhile sees this run.json, or this run sees its. Not of a run that
        # goes on: it was there first, and nobody ends it by putting a run.json beside its files.
        if is_new or folder.newest_incarnation() == 0:
            try:
                refuse_neighbours(store, run.uid)
            except UserError:
                if is_new:
                    store.delete([layout.RUN])
                raise
        return folder

    def _create_run(self) -> bool:
        """Whether ``run.json`` is new; else the folder has one."""
        try:
            self.store.put_new(layout.RUN, write_stored_run(self.run).encode())
        except ObjectExistsError:
            return False
        return True

    @staticmethod
    def open(store: ObjectStore, run: ResolvedRun | None = None) -> RunFolder | None:
        """The folder as its trainer claimed it; None while there is no ``run.json``.

        With ``run`` given, UserError unless the folder is that run's (as in ``claim``), so that a role that starts
        before the trainer never works on another run's folder.
        """
        if not store.exists(layout.RUN):
            return None
        owner = _read_owner(store)
        if run is not None:
            _check_owner(store, owner, run)
        return RunFolder(store, run or owner)

    # ---------------------------------------------------------------------------------------------- incarnations

    def newest_incarnation(self) -> int:
        """The newest trainer gang that has claimed the folder; 0 if none has."""
        numbers = (layout.parse_incarnation(key) for key in self.store.list(layout.INCARNATIONS))
        return max((number for number in numbers if number is not None), default=0)

    def claim_incarnation(self, incarnation: int) -> None:
        """Become trainer gang ``incarnation`` (1, 2, ...). Raises SupersededError when that number is taken or
        passed."""
        self._refuse_if_newer(incarnation - 1, incarnation)
        claimant = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}"
        claim = IncarnationClaim(incarnation=incarnation, claimant=claimant).model_dump_json().encode()
        try:
            self.store.put_new(layout.incarnation_key(incarnation), claim)
        except ObjectExistsError as error:
            # The clients of Google and Azure repeat a request whose answer was lost, and then find their own object.
            if self.store.get(layout.incarnation_key(incarnation)) != claim:
                raise SupersededError(
                    f"{self.store.uri}: trainer incarnation {incarnation} is claimed already, so this gang may not "
                    "write"
                ) from error
        # Once more: a gang with a higher number may have claimed between the look and the create.
        self.check_newest(incarnation)

    def check_newest(self, incarnation: int) -> None:
        """Raises SupersededError when a newer gang than ``incarnation`` has claimed the folder."""
        self._refuse_if_newer(incarnation, incarnation)

    def _refuse_if_newer(self, limit: int, incarnation: int) -> None:
        newest = self.newest_incarnation()
        if newest > limit:
            raise SupersededError(
                f"{self.store.uri}: trainer incarnation {newest} has claimed the folder, so incarnation {incarnation} "
                "may not write any more"
            )

    # ----------------------------------------------------------------------------------------------------- steps

    def freeze_step(self, manifest: StepManifest) -> StepManifest:
        """Fix which shards a step consists of, for ever; returns what was fixed first."""
        return self._create_or_read(layout.manifest_key(layout.trajectories_prefix(manifest.step)), manifest)

    def step_manifest(self, step: int) -> StepManifest | None:
        """The frozen shards of a step; None while it is not complete."""
        return self._read(layout.manifest_key(layout.trajectories_prefix(step)), StepManifest)

    def commit_step(self, commit: StepCommit) -> None:
        """Record that a step happened. The same outcome again is a no-op; a replay with another outcome (other weights)
        is written beside the first under its incarnation.

        Raises SupersededError for a gang that is not the newest, also when it was overtaken while it wrote; readers
        then prefer the newer gang's commit of the step.
        """
        self.check_newest(commit.incarnation)
        data = commit.model_dump_json(indent=2).encode()
        try:
            self.store.put_new(layout.step_key(commit.step), data)
        except ObjectExistsError:
            # The prefix finds ...-i2.json too: what counts may be a replay's outcome beside the first.
            standing = self._commits(layout.step_key(commit.step).removesuffix(".json"))[commit.step]
            if standing.outcome() != commit.outcome():
                self._commit_beside(commit, data)
        # Once more: whoever was overtaken while it wrote must not tell the ledger that it has committed.
        self.check_newest(commit.incarnation)

    def _commit_beside(self, commit: StepCommit, data: bytes) -> None:
        key = layout.step_key(commit.step, commit.incarnation)
        try:
            self.store.put_new(key, data)
        except ObjectExistsError as error:
            raise StorageError(
                f"{self.store.uri}: {key!r} exists with another outcome; one incarnation commits a step once"
            ) from error

    def steps(self) -> dict[int, StepCommit]:
        """Committed steps, ascending; of several commits of a step the newest incarnation's."""
        return self._commits(layout.STEPS)

    def _commits(self, prefix: str) -> dict[int, StepCommit]:
        commits: dict[int, StepCommit] = {}
        for key in self.store.list(prefix):
            step = layout.parse_step(key)
            commit = None if step is None else self._read(key, StepCommit)
            if commit is not None and (
                commit.step not in commits or commit.incarnation > commits[commit.step].incarnation
            ):
                commits[commit.step] = commit
        return dict(sorted(commits.items()))

    # --------------------------------------------------------------------------------------------------- folders

    def store_folder(self, prefix: str, local_dir: Path, info: dict[str, Any]) -> Manifest:
        """Store the files below ``local_dir`` under ``prefix``, their manifest last. The same files again are a no-op.

        Raises StorageError when the folder is stored already with other files: a prefix is used once.
        """
        entries = {path.relative_to(local_dir).as_posix(): file_entry(path) for path in _files(local_dir)}
        stored = self.manifest(prefix)
        if stored is None:
            uploaded = {name: self.store.upload(local_dir / name, f"{prefix}/{name}") for name in entries}
            stored = self._create_or_read(layout.manifest_key(prefix), Manifest(files=uploaded, info=info))
        if stored.files != entries:
            raise StorageError(f"{self.store.uri}: {prefix!r} is stored already with other files; use another name")
        return stored

    def fetch_folder(self, prefix: str, local_dir: Path) -> Manifest:
        """Fetch a stored folder; each file is checked against the manifest.

        Raises ObjectMissingError when there is no manifest, CorruptObjectError naming the file that differs.
        """
        manifest = self.manifest(prefix)
        if manifest is None:
            raise ObjectMissingError(f"{self.store.uri}: there is no {layout.manifest_key(prefix)!r}")
        for name, expected in manifest.files.items():
            self.store.download(f"{prefix}/{name}", local_dir / name)
            check_entry(f"{self.store.uri}: {prefix}/{name}", file_entry(local_dir / name), expected)
        return manifest

    def manifest(self, prefix: str) -> Manifest | None:
        """The manifest of a stored folder; None while it is not complete."""
        return self._read(layout.manifest_key(prefix), Manifest)

    # ------------------------------------------------------------------------------------------ single documents

    def data_manifest(self) -> DataManifest | None:
        """What the run trains and is evaluated on; None until the trainer has published it."""
        return self._read(layout.DATA_MANIFEST, DataManifest)

    def write_eval_summary(self, summary: EvalSummary) -> EvalSummary:
        """Record an evaluation, after its tables are stored; returns the one that was recorded first."""
        return self._create_or_read(layout.eval_summary_key(summary.version), summary)

    def eval_summaries(self) -> dict[int, EvalSummary]:
        """Weight version -> its evaluation, ascending."""
        summaries = {}
        for key in self.store.list(layout.EVALUATIONS):
            version = layout.parse_eval_summary(key)
            summary = None if version is None else self._read(key, EvalSummary)
            if version is not None and summary is not None:
                summaries[version] = summary
        return dict(sorted(summaries.items()))

    def write_recovery(self, recovery: Recovery) -> Recovery:
        """Record what a gang recovered; returns what it recorded first."""
        return self._create_or_read(layout.recovery_key(recovery.incarnation), recovery)

    def recoveries(self) -> tuple[Recovery, ...]:
        """What the run's trainer gangs recovered, in their order. A gang that ended before it got further has none."""
        found = []
        for key in self.store.list(layout.RECOVERIES):
            recovery = None if layout.parse_recovery(key) is None else self._read(key, Recovery)
            if recovery is not None:
                found.append(recovery)
        return tuple(sorted(found, key=lambda recovery: recovery.incarnation))

    def write_failed_step(self, failed: FailedStep) -> FailedStep:
        """Record that a gang could not take a step; returns what it recorded first."""
        return self._create_or_read(layout.failed_step_key(failed.step, failed.incarnation), failed)

    def failed_steps(self) -> tuple[FailedStep, ...]:
        """What gangs could not take and none has committed since, by step and gang."""
        found = []
        for key in self.store.list(layout.FAILED_STEPS):
            failed = None if layout.parse_failed_step(key) is None else self._read(key, FailedStep)
            if failed is not None:
                found.append(failed)
        return tuple(sorted(found, key=lambda failed: (failed.step, failed.incarnation)))

    def document(self, key: str, kind: type[R]) -> R | None:
        """A document of another module of ``rz_workers.storage``, read once per process; None when it is not there."""
        return self._read(key, kind)

    def _read(self, key: str, kind: type[R]) -> R | None:
        """Documents never change, so that one read is enough for as long as this process lives."""
        known = self._documents.get(key)
        if isinstance(known, kind):
            return known
        try:
            data = self.store.get(key)
        except ObjectMissingError:
            return None
        try:
            document = kind.model_validate_json(data)
        except ValidationError as error:
            raise CorruptObjectError(f"{self.store.uri}: {key!r} is not a {kind.__name__}: {error}") from error
        self._documents[key] = document
        return document

    def _create_or_read(self, key: str, document: R) -> R:
        try:
            self.store.put_new(key, document.model_dump_json(indent=2).encode())
        except ObjectExistsError:
            stored = self._read(key, type(document))
            # Deleted since (retention): then it is known only that the key was taken.
            if stored is None:
                raise
            return stored
        self._documents[key] = document
        return document


def check_entry(what: str, found: FileEntry, expected: FileEntry) -> None:
    """Raises CorruptObjectError when size or checksum of ``what`` is not the expected one."""
    if found != expected:
        raise CorruptObjectError(
            f"{what}: found {found.size_bytes} bytes with sha256 {found.sha256}, the manifest requires "
            f"{expected.size_bytes} bytes with sha256 {expected.sha256}"
        )


def differences(owner: dict[str, Any], run: dict[str, Any], path: str = "") -> list[str]:
    """Fields in which two nested JSON values differ, as ``section.field: 1 there, 2 here``, in order of the fields."""
    found: list[str] = []
    for name in dict.fromkeys([*owner, *run]):
        there, here = owner.get(name), run.get(name)
        if isinstance(there, dict) and isinstance(here, dict):
            found += differences(there, here, f"{path}{name}.")
        elif there != here:
            found.append(f"{path}{name}: {there!r} there, {here!r} here")
    return found


def _read_owner(store: ObjectStore) -> ResolvedRun:
    where, change = f"{store.uri}/{layout.RUN}", "point storage.uri at an empty folder, or use the version that made it"
    try:
        stored = read_stored_run(store.get(layout.RUN), odd_values=True)
    except UnreadableRunError as error:
        raise UserError(f"{where} is not a run that this version can read: {error}; {change}") from error
    if stored.beyond:
        found = ", ".join(stored.beyond)
        raise UserError(f"{where}: found {found}, which this version does not know; the result depends on it: {change}")
    return stored.run


def _check_owner(store: ObjectStore, owner: ResolvedRun, run: ResolvedRun) -> None:
    same_run = owner.uid == run.uid
    unlike = differences(owner.identity(), run.identity())
    if (same_run and not unlike) or run.spec.storage.adopt:
        return
    who = (
        f"this run with another specification ({'; '.join(unlike[:_DIFFERENCES_SHOWN])})"
        if same_run
        else f"run {owner.namespace}/{owner.name} (uid {owner.uid}), not to {run.namespace}/{run.name} (uid {run.uid})"
        + (f"; they differ in {'; '.join(unlike[:_DIFFERENCES_SHOWN])}" if unlike else "; the specifications are equal")
    )
    raise UserError(
        f"the storage folder {store.uri} belongs to {who}. Point storage.uri at a folder of its own, or set "
        "storage.adopt: true to continue that folder on purpose."
    )


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
