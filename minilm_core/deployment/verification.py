"""Whether a deployment folder is whole and works: checked by a fresh process that may not reach the network.

Run as a module it is that process: it prints one JSON object a check. The parent never imports torch.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from minilm_core.errors import UserError
from minilm_core.fresh_process import import_path, module_command
from minilm_core.latency.table import Device, fingerprint
from minilm_core.models.families import encoder_architecture

if TYPE_CHECKING:
    from minilm_core.runtimes.torch_model import PackagedModel

TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    is_passed: bool
    detail: str
    """One line: what was found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """Everything that was looked at, in order; a failed check ends the list, for the next ones rest on it."""

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
    loaded: list[PackagedModel] = []
    steps: tuple[tuple[str, Callable[[], str]], ...] = (
        ("files", lambda: check_files(folder)),
        ("heads", lambda: _check_heads(folder)),
        ("loading", lambda: _check_loading(folder, loaded)),
        ("tokenizer", lambda: _check_tokenizer(loaded[0])),
        ("processor", lambda: _processors(folder)),
        ("outputs", lambda: _check_outputs(folder, loaded[0])),
        ("onnx", lambda: _check_onnx(folder, loaded[0])),
        ("int8", lambda: _check_int8(folder, loaded[0])),
    )
    for name, step in steps:
        try:
            yield Check(name=name, is_passed=True, detail=step())
        # Whatever a library raises over a damaged file is the finding.
        except Exception as error:
            message = (
                str(error) if isinstance(error, (CheckFailedError, UserError)) else f"{type(error).__name__}: {error}"
            )
            yield Check(name=name, is_passed=False, detail=" ".join(message.split()))
            return


def check_files(folder: Path) -> str:
    """Compares every file with SHA256SUMS; hidden files, which hubs and systems add, may be unlisted.

    Raises:
        CheckFailedError: naming the file that is missing, changed or not listed.
    """
    from minilm_core.deployment.packaging import REQUIRED_FILES, SUMS_FILE, sha256_of

    if not (folder / SUMS_FILE).is_file():
        raise CheckFailedError(f"{SUMS_FILE} is missing")
    lines = (folder / SUMS_FILE).read_text(encoding="utf-8").splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in (*REQUIRED_FILES, *sums):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise CheckFailedError(f"{SUMS_FILE} names a file outside the folder: {name}")
        if not (folder / name).is_file():
            raise CheckFailedError(f"{name} is missing")
        if name not in sums:
            raise CheckFailedError(f"{name} is not listed in {SUMS_FILE}")
        if sha256_of(folder / name) != sums[name]:
            raise CheckFailedError(f"{name} has changed: its checksum is not that in {SUMS_FILE}")
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        is_hidden = any(part.startswith(".") for part in parts)
        if path.is_file() and not is_hidden and "/".join(parts) not in {*sums, SUMS_FILE}:
            raise CheckFailedError(f"{'/'.join(parts)} is not listed in {SUMS_FILE}")
    return f"{len(sums)} files match {SUMS_FILE}"


def _check_heads(folder: Path) -> str:
    architecture = encoder_architecture(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    return f"{architecture.num_heads} heads divide a hidden size of {architecture.hidden_size}"


def _check_loading(folder: Path, loaded: list["PackagedModel"]) -> str:
    from minilm_core.runtimes.torch_model import load_packaged

    packaged = load_packaged(folder)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := sorted(map(str, packaged.loading_info[kind])):
            raise CheckFailedError(f"model.safetensors has {kind.replace('_', ' ')}: {', '.join(keys)}")
    loaded.append(packaged)
    return f"{type(packaged.model).__name__} and {type(packaged.tokenizer).__name__} load offline, no key amiss"


def _check_tokenizer(packaged: "PackagedModel") -> str:
    from minilm_core.models.tokenizers import check_vocabulary, vocabulary_size

    num_rows = packaged.model.get_input_embeddings().weight.shape[0]
    check_vocabulary(packaged.tokenizer, num_rows)
    return f"{vocabulary_size(packaged.tokenizer)} tokens, {num_rows} embeddings"


def _check_outputs(folder: Path, packaged: "PackagedModel") -> str:
    import torch

    reference = _reference(folder)
    outputs = packaged.outputs(reference["texts"])
    return _compare(outputs - torch.tensor(reference["outputs"]), reference)


def _processors(folder: Path) -> str:
    """Returns the instruction sets of the machine that made the package and of this one; no fault can be found here."""
    from minilm_core.deployment.packaging import PROVENANCE_FILE
    from minilm_core.runtimes.onnx_model import PARITY_FILE

    # Packages of earlier versions recorded the maker's processor beside int8 alone.
    beside_int8 = _json(folder / PARITY_FILE).get("int8", {}).get("processor")
    maker = _json(folder / PROVENANCE_FILE).get("packaged_on") or beside_int8
    made_with = _names(maker["isa"]) if maker else "instruction sets that are not recorded"
    return f"made with {made_with}; verified with {_names(fingerprint(Device.CPU).isa)}"


def _names(instruction_sets: Sequence[str]) -> str:
    return ", ".join(instruction_sets) or "no instruction set that changes matrix products"


def _check_onnx(folder: Path, packaged: "PackagedModel") -> str:
    import torch

    from minilm_core.runtimes.onnx_model import ONNX_FILE, OnnxModel

    if not (folder / ONNX_FILE).is_file():
        return "no ONNX in this package"
    reference = _reference(folder)
    outputs = OnnxModel(folder / ONNX_FILE).outputs(packaged.tokens(reference["texts"]))
    return _compare(outputs - torch.tensor(reference["outputs"]), reference)


def _check_int8(folder: Path, packaged: "PackagedModel") -> str:
    from minilm_core.deployment.quantisation import INT8_FILE, can_saturate, int8_deviation
    from minilm_core.runtimes.onnx_model import PARITY_FILE

    if not (folder / INT8_FILE).is_file():
        return "no int8 in this package"
    found = int8_deviation(folder, packaged, _reference(folder)["texts"])
    recorded = _json(folder / PARITY_FILE).get("int8", {}).get("reference")
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
    if can_saturate(folder / INT8_FILE):
        detail += "; its products may saturate on an x86-64 processor without VNNI"
    return detail


def _reference(folder: Path) -> dict[str, Any]:
    from minilm_core.deployment.packaging import REFERENCE_FILE

    content: dict[str, Any] = json.loads((folder / REFERENCE_FILE).read_text(encoding="utf-8"))
    return content


def _json(path: Path) -> dict[str, Any]:
    """Returns what a file of a package holds; nothing where the package has no such file."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content


def _compare(difference: Any, reference: dict[str, Any]) -> str:
    largest, tolerance = difference.abs().max().item(), reference["tolerance"]
    # Written so that NaN fails too.
    if not largest <= tolerance:
        raise CheckFailedError(f"outputs must be within {tolerance:g} of reference.json, differ by {largest:.2g}")
    return (
        f"{len(reference['texts'])} sentences within {tolerance:g} of reference.json (largest difference {largest:.1g})"
    )


def main() -> None:
    """Checks the folder that the command line names, and prints the checks as lines of JSON."""
    results = sys.stdout
    # What a library prints while it loads is not a result.
    with contextlib.redirect_stdout(sys.stderr):
        for check in run_checks(Path(sys.argv[1])):
            print(json.dumps(asdict(check)), file=results, flush=True)


if __name__ == "__main__":
    main()
