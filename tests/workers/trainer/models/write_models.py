"""Judges every architecture of the installed transformers and writes docs/models.json and docs/models.md: ``make
models``, half a minute. With ``--vllm FILE``, vllm/model_executor/models/registry.py of the version that
pyproject.toml names, also which of them vLLM has.
"""

import argparse
import ast
import math
import sys
import tempfile
import warnings
from pathlib import Path

import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

sys.path.insert(0, str(Path(__file__).parent))
import conformance

from rz_api import models_doc

ROOT = Path(__file__).parents[4]
VLLM_TABLES = ("_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS", "_TRANSFORMERS_SUPPORTED_MODELS")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vllm", type=Path, help="vLLM's registry.py")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    known = models_doc.read()
    models_doc.write(
        models_doc.Models(
            transformers=transformers.__version__,
            vllm=models_doc.vllm_of(ROOT) if arguments.vllm else known.vllm,
            vllm_classes=classes_of(arguments.vllm) if arguments.vllm else known.vllm_classes,
            models={kind: judged(kind, name) for kind, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()},
        )
    )


def judged(model_type: str, class_name: str) -> models_doc.Model:
    print(f"{model_type} … ", end="", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        found = conformance.judge_type(model_type, Path(folder))
    print(found.verdict)
    # The next power of ten: the digits are the machine's.
    size = None if found.deviation is None else 10.0 ** math.ceil(math.log10(max(found.deviation, 1e-9)))
    return models_doc.Model(
        class_name=class_name, verdict=found.verdict, reason=found.reason, below=size, critic=found.critic_format
    )


def classes_of(registry: Path) -> list[str]:
    """The classes of causal language models that vLLM's registry has and transformers too."""
    tables = {
        target.id: node.value
        for node in ast.parse(registry.read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    names = {key.value for table in VLLM_TABLES for key in tables[table].keys if isinstance(key, ast.Constant)}
    return sorted(names & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()))


if __name__ == "__main__":
    main()
