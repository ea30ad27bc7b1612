"""A file that holds no such function is refused when the run starts, before any model is loaded.

Files of the user's own verifiers, which the trainer reads with the data and stores with them
(``rz_workers.storage.verifier_code``). They are parsed here, never executed: the trainer has credentials.
"""

from __future__ import annotations

import ast

from rz_api.spec import ReasonerZeroRunSpec
from rz_api.verifiers import files_of, own_verifier
from rz_workers.data.files import read_file
from rz_workers.runtime import UserError

LONGEST_FILE = 1 << 20
"""Bytes; the ledger hands it to the reward service in one message."""


def read_files(spec: ReasonerZeroRunSpec) -> dict[str, bytes]:
    """Verifier -> its file, for each that is one. Raises UserError, StorageError when storage does not answer."""
    return {verifier: _read(spec, verifier) for verifier in files_of(spec)}


def _read(spec: ReasonerZeroRunSpec, verifier: str) -> bytes:
    own = own_verifier(verifier)
    assert own is not None, "files are own verifiers"
    code = read_file(own.place, spec.storage.secret_name, f"the verifier {verifier}")
    if len(code) > LONGEST_FILE:
        raise UserError(
            f"{own.place}: found {len(code)} bytes; a verifier's file has at most {LONGEST_FILE}: shorten it"
        )
    try:
        # Bytes, not text: the file may say its own encoding, but the run's folder and its messages have UTF-8.
        code.decode()
        statements = ast.parse(code, own.place).body
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{own.place}: found no Python in UTF-8 ({error}); correct it") from None
    if own.function not in {name for statement in statements for name in _names(statement)}:
        raise UserError(
            f"{own.place}: found no function {own.function}; one at the top level is required: correct the verifier "
            f"{verifier}"
        )
    return code


def _names(statement: ast.stmt) -> list[str]:
    """What a statement at the top level gives a name, as far as can be seen without running it."""
    match statement:
        case ast.FunctionDef() | ast.ClassDef():
            return [statement.name]
        case ast.Assign():
            return [target.id for target in statement.targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.Import() | ast.ImportFrom():
            return [alias.asname or alias.name for alias in statement.names]
    return []
