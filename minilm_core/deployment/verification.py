"""Verifies that a deployment folder is whole and works, in a fresh process without access to the network.

Run as a module, this file is that process: it prints one JSON object a check. The parent never imports torch.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from minilm_core.deployment.layout import PROVENANCE_FILE, REFERENCE_FILE, REQUIRED_FILES, SUMS_FILE, sha256_of
from minilm_core.errors import UserError
from minilm_core.fresh_process import import_path, module_command
from minilm_core.latency.target import Device, fingerprint
from minilm_core.models.families import encoder_architecture

if TYPE_CHECKING:
    from minilm_core.runtimes.exported_model import ExportedModel
    from minilm_core.runtimes.torch_model import PackagedModel

TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """The result of one check."""

    name: str
    is_passed: bool
    detail: str
    """What was found, in one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """The results of all checks in order; a failed check ends the list, because the next ones depend on it."""

    folder: Path
    checks: tuple[Check, ...]

    @property
    def is_ok(self) -> bool:
        """Whether every check passed."""
        return all(check.is_passed for check in self.checks)


class CheckFailedError(Exception):
    """A check found a fault; the message is its one line."""


def verify(folder: Path, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Verification:
    """Checks a deployment folder in a fresh, offline process.

    Raises:
        UserError: if there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"a package to verify must be a folder, got {folder}")
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONPATH": import_path()}
    command = module_command("minilm_core.deployment.verification", str(folder.resolve()))
    try:
        child = subprocess.run(
            command, env={**os.environ, **offline}, capture_output=True, text=True, timeout=timeout_seconds
        )
    except subprocess.TimeoutExpired:
        late = Check(name="process", is_passed=False, detail=f"took longer than {timeout_seconds:g} s")
        return Verification(folder=folder, checks=(late,))
    checks = [Check(**json.loads(line)) for line in child.stdout.splitlines()]
    if child.returncode != 0:
        last_words = (child.stderr.strip().splitlines() or ["no message"])[-1]
        detail = f"ended with exit code {child.returncode}: {last_words}"
        checks.append(Check(name="process", is_passed=False, detail=detail))
    return Verification(folder=folder, checks=tuple(checks))


def run_checks(folder: Path) -> Iterator[Check]:
    """Yields the checks one by one in this process, up to the first that fails."""
    package = _Package(folder)
    for name, check in CHECKS:
        try:
            yield Check(name=name, is_passed=True, detail=check(package))
        # Whatever a library raises over a damaged file is the finding.
        except Exception as error:
            message = (
                str(error) if isinstance(error, (CheckFailedError, UserError)) else f"{type(error).__name__}: {error}"
            )
            yield Check(name=name, is_passed=False, detail=" ".join(message.split()))
            return


class _Package:
    """A deployment folder, whose files are read when a check first needs them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def loaded(self) -> "PackagedModel":
        """The model and its tokenizer."""
        from minilm_core.runtimes.torch_model import load_packaged

        return load_packaged(self.folder)

    @cached_property
    def reference(self) -> dict[str, Any]:
        """The texts, the outputs that the student gave for them, and the tolerance."""
        return self._read(REFERENCE_FILE)

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """The study, machine and software that made the package; empty without the file."""
        return self._read(PROVENANCE_FILE) if self.has(PROVENANCE_FILE) else {}

    @cached_property
    def int8_report(self) -> dict[str, Any]:
        """The report of the int8 model that the package's maker measured; empty without one."""
        from minilm_core.runtimes.onnx_model import PARITY_FILE

        report: dict[str, Any] = self._read(PARITY_FILE).get("int8", {}) if self.has(PARITY_FILE) else {}
        return report

    def has(self, name: str) -> bool:
        """Returns whether the package contains a file."""
        return (self.folder / name).is_file()

    def _read(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        return content


def _check_files(package: _Package) -> str:
    """Compares every file with SHA256SUMS; hidden files, which hubs and systems add, may be unlisted."""
    if not package.has(SUMS_FILE):
        raise CheckFailedError(f"{SUMS_FILE} is missing")
    lines = (package.folder / SUMS_FILE).read_text(encoding="utf-8").splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in (*REQUIRED_FILES, *sums):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise CheckFailedError(f"{SUMS_FILE} names a file outside the folder: {name}")
        if not package.has(name):
            raise CheckFailedError(f"{name} is missing")
        if name not in sums:
            raise CheckFailedError(f"{name} is not listed in {SUMS_FILE}")
        if sha256_of(package.folder / name) != sums[name]:
            raise CheckFailedError(f"{name} has changed: its checksum is not that in {SUMS_FILE}")
    for path in sorted(package.folder.rglob("*")):
        parts = path.relative_to(package.folder).parts
        is_hidden = any(part.startswith(".") for part in parts)
        if path.is_file() and not is_hidden and "/".join(parts) not in {*sums, SUMS_FILE}:
            raise CheckFailedError(f"{'/'.join(parts)} is not listed in {SUMS_FILE}")
    return f"{len(sums)} files match {SUMS_FILE}"


def _check_heads(package: _Package) -> str:
    architecture = encoder_architecture(json.loads((package.folder / "config.json").read_text(encoding="utf-8")))
    return f"{architecture.num_heads} heads divide a hidden size of {architecture.hidden_size}"


def _check_loading(package: _Package) -> str:
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := sorted(map(str, package.loaded.loading_info[kind])):
            raise CheckFailedError(f"model.safetensors has {kind.replace('_', ' ')}: {', '.join(keys)}")
    names = f"{type(package.loaded.model).__name__} and {type(package.loaded.tokenizer).__name__}"
    return f"{names} load offline, and every weight has its parameter"


def _check_tokenizer(package: _Package) -> str:
    from minilm_core.models.tokenizers import check_vocabulary, vocabulary_size

    num_rows = package.loaded.model.get_input_embeddings().weight.shape[0]
    check_vocabulary(package.loaded.tokenizer, num_rows)
    return f"{vocabulary_size(package.loaded.tokenizer)} tokens, {num_rows} embeddings"


def _compare_processors(package: _Package) -> str:
    """Returns the instruction sets of the machine that made the package and of this one; it cannot fail."""
    # Packages of earlier versions recorded the maker's processor in the report of int8 only.
    maker = package.provenance.get("packaged_on") or package.int8_report.get("processor")
    made_with = _instruction_sets(maker["isa"]) if maker else "instruction sets that are not recorded"
    return f"made with {made_with}; verified with {_instruction_sets(fingerprint(Device.CPU).isa)}"


def _instruction_sets(names: Sequence[str]) -> str:
    return ", ".join(names) or "no instruction set that changes matrix products"


def _check_outputs(package: _Package) -> str:
    import torch

    outputs = package.loaded.outputs(package.reference["texts"])
    return _compare(outputs - torch.tensor(package.reference["outputs"]), package.reference)


def _check_onnx(package: _Package) -> str:
    from minilm_core.runtimes.onnx_model import ONNX_FILE, OnnxModel

    if not package.has(ONNX_FILE):
        return "no ONNX in this package"
    return _compare_export(package, OnnxModel(package.folder / ONNX_FILE))


def _check_openvino(package: _Package) -> str:
    from minilm_core.runtimes.onnx_extra import missing_package
    from minilm_core.runtimes.openvino_model import OPENVINO_FILE, OpenVinoModel

    if not package.has(OPENVINO_FILE):
        return "no OpenVINO in this package"
    if find_spec("openvino") is None:
        return f"not checked: {missing_package('openvino')}"
    return _compare_export(package, OpenVinoModel(package.folder / OPENVINO_FILE))


def _compare_export(package: _Package, exported: "ExportedModel") -> str:
    import torch

    outputs = exported.outputs(package.loaded.tokens(package.reference["texts"]))
    return _compare(outputs - torch.tensor(package.reference["outputs"]), package.reference)


def _check_int8(package: _Package) -> str:
    from minilm_core.deployment.quantisation import INT8_FILE, int8_deviation
    from minilm_core.runtimes.onnx_quantisation import can_saturate

    if not package.has(INT8_FILE):
        return "no int8 in this package"
    found = int8_deviation(package.folder, package.loaded, package.reference["texts"])
    recorded = package.int8_report.get("reference")
    # Packages of earlier versions recorded no bound.
    bound = found.default_tolerance if recorded is None else recorded["tolerance"]
    # Written so that NaN fails too.
    if not found.max_abs_difference <= bound:
        raise CheckFailedError(
            f"int8 must be within {bound:.2g} of fp32 on this machine, differs by {found.max_abs_difference:.2g}"
        )
    detail = (
        f"{found.num_texts} sentences within {bound:.2g} of fp32 on this machine "
        f"(largest difference {found.max_abs_difference:.2g})"
    )
    if found.num_agreeing is not None:
        detail += f", {found.num_agreeing} of {found.num_texts} of the same class"
    if can_saturate(package.folder / INT8_FILE):
        detail += "; its products may saturate on an x86-64 processor without VNNI"
    return detail


def _check_sentence_transformers(package: _Package) -> str:
    """Compares the embeddings of the library that an embedding package is made for, if it is installed."""
    import torch

    from minilm_core.models.sentence_files import has_sentence_files

    if not has_sentence_files(package.folder):
        return "no embeddings in this package"
    if find_spec("sentence_transformers") is None:
        return "not checked, because sentence-transformers is not installed: pip install minilm-search[embedding]"
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(package.folder), device="cpu", local_files_only=True)
    # Without the prompt of the package: the reference outputs are those of the texts alone.
    outputs = model.encode(package.reference["texts"], prompt="", convert_to_tensor=True)
    return _compare(outputs - torch.tensor(package.reference["outputs"]), package.reference)


CHECKS: tuple[tuple[str, Callable[[_Package], str]], ...] = (
    ("files", _check_files),
    ("heads", _check_heads),
    ("loading", _check_loading),
    ("tokenizer", _check_tokenizer),
    ("processor", _compare_processors),
    ("outputs", _check_outputs),
    ("sentence-transformers", _check_sentence_transformers),
    ("onnx", _check_onnx),
    ("int8", _check_int8),
    ("openvino", _check_openvino),
)
"""The checks in order, by name. Each returns what it found in one line, or raises."""


def _compare(difference: Any, reference: dict[str, Any]) -> str:
    largest, tolerance = difference.abs().max().item(), reference["tolerance"]
    # Written so that NaN fails too.
    if not largest <= tolerance:
        raise CheckFailedError(f"outputs must be within {tolerance:g} of reference.json, differ by {largest:.2g}")
    return (
        f"{len(reference['texts'])} sentences within {tolerance:g} of reference.json (largest difference {largest:.1g})"
    )


def main() -> None:
    """Checks the folder given as the only argument and prints each check as a line of JSON."""
    results = sys.stdout
    # Libraries may print while they load.
    with contextlib.redirect_stdout(sys.stderr):
        for check in run_checks(Path(sys.argv[1])):
            print(json.dumps(asdict(check)), file=results, flush=True)


if __name__ == "__main__":
    main()
