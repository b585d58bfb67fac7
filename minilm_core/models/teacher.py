"""Finds a teacher in a local folder, an installed package or on the Hub. Only safetensors weights are accepted."""

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minilm_core.errors import UserError, first_line
from minilm_core.paths import located

PACKAGE_PREFIX = "package:"
WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX_FILE = "model.safetensors.index.json"
PICKLED_WEIGHTS_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
HUB_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")
# Some repositories have copies of the weights for other runtimes in these folders.
HUB_FILES_LEFT = ("onnx/*", "openvino/*", "coreml/*")

SECONDS_TO_WAIT = 5.0
"""How long a Hub that is asked only once may take to answer."""

CONFIG_BOOKKEEPING = (
    *("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"),
    *("id2label", "label2id", "num_labels", "problem_type"),
)
"""The keys of config.json about a model's history and about task heads, which are not distilled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherSource:
    """Which teacher is distilled, and which of its layers.

    Raises:
        UserError: if a field breaks its rule.
    """

    model: str
    """A local folder, a Hub id, or `package:MODULE/SUBFOLDER`: a folder inside an installed Python package."""
    revision: str | None = None
    """Branch, tag or commit; only for a Hub id."""
    sha256: str | None = None
    """The required hash of the weights, as 64 hex digits; None: the weights are not checked."""
    layer: int | None = None
    """The distilled layer, counted from 1; None: the last."""

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise UserError(f"a teacher's model must be a folder, a Hub id or {PACKAGE_PREFIX}MODULE/SUBFOLDER, got ''")
        if self.is_in_package and not re.fullmatch(r"[A-Za-z_]\w*(/[^/]+)*", self._inside_package):
            raise UserError(f"a packaged teacher must be written {PACKAGE_PREFIX}MODULE/SUBFOLDER, got {self.model}")
        if self.revision is not None and (self.is_in_package or _must_be_local(self.model)):
            raise UserError(f"revision must be left out unless the teacher is on the Hub, got {self.revision}")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", self.sha256):
            raise UserError(f"sha256 must be 64 hex digits, got {self.sha256}")
        if self.layer is not None and self.layer < 1:
            raise UserError(f"a teacher's layer must be at least 1, got {self.layer}")

    @property
    def is_in_package(self) -> bool:
        """Whether the teacher is inside an installed Python package."""
        return self.model.startswith(PACKAGE_PREFIX)

    @property
    def _inside_package(self) -> str:
        return self.model.removeprefix(PACKAGE_PREFIX)

    def find_locally(self, base: Path) -> Path | None:
        """Returns the folder on this machine, or None for a Hub id; reads no weights and uses no network.

        Raises:
            UserError: if the package or the folder is missing.
        """
        if self.is_in_package:
            return _folder_in_package(self._inside_package)
        folder = located(self.model, base)
        if folder.exists():
            return folder
        if _must_be_local(self.model):
            raise UserError(f"a teacher folder must exist, got {folder}")
        return None


def resolve(source: TeacherSource, base: Path) -> Path:
    """Returns a local folder with the teacher's configuration and weights, downloading them from the Hub if needed.

    Args:
        source: Where the teacher is.
        base: The folder that relative paths start from.

    Raises:
        UserError: if the teacher cannot be found, has no safetensors, or has another hash.
    """
    folder = source.find_locally(base) or _fetch(source)
    weight_files(folder)
    if source.sha256 is not None:
        actual = weights_sha256(folder)
        if actual != source.sha256.lower():
            raise UserError(f"the teacher's weights must have sha256 {source.sha256.lower()}, got {actual}")
    return folder


def resolve_config(source: TeacherSource, base: Path, *, is_patient: bool = True) -> Path:
    """Returns the teacher's config.json, downloading it from the Hub if needed; no weights are downloaded.

    Args:
        source: Where the teacher is.
        base: The folder that relative paths start from.
        is_patient: Whether a Hub that does not answer is asked again, for half a minute.

    Raises:
        UserError: if the teacher cannot be found.
    """
    local = local_config(source, base)
    if local is not None:
        return local
    from huggingface_hub import hf_hub_download

    with _reached(source):
        if not is_patient:
            _ask_once(source)
        return Path(hf_hub_download(source.model, "config.json", revision=source.revision))


def local_config(source: TeacherSource, base: Path) -> Path | None:
    """Returns the config.json of a teacher on this machine, or None for a Hub id.

    Raises:
        UserError: if the package, the folder or the file is missing.
    """
    folder = source.find_locally(base)
    if folder is not None and not (folder / "config.json").is_file():
        raise UserError(f"a teacher folder must hold config.json and {WEIGHTS_FILE}, got {folder}")
    return None if folder is None else folder / "config.json"


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Returns the safetensors files of a model folder in order of name.

    Raises:
        UserError: if the folder lacks its configuration or its weights, or has pickled weights only.
    """
    if (folder / "config.json").is_file():
        if (folder / WEIGHTS_FILE).is_file():
            return (folder / WEIGHTS_FILE,)
        if (folder / WEIGHTS_INDEX_FILE).is_file():
            return _shards(folder)
        if any((folder / name).is_file() for name in PICKLED_WEIGHTS_FILES):
            raise UserError(f"a teacher's weights must be safetensors, because pickled ones can run code, got {folder}")
    raise UserError(f"a teacher folder must hold config.json and {WEIGHTS_FILE}, got {folder}")


def weights_sha256(folder: Path) -> str:
    """Returns the sha256 of a model's weights as hex digits; shards are hashed as one file, in order of name."""
    digest = hashlib.sha256()
    for path in weight_files(folder):
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def read_config(file: Path) -> dict[str, Any]:
    """Reads an encoder's config.json.

    Raises:
        UserError: if it is no JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"a teacher's config.json must be JSON, got {file} ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"a teacher's config.json must be a JSON object, got a {type(content).__name__} in {file}")
    return content


def config_sha256(folder: Path) -> str:
    """Returns the sha256, as hex digits, of the keys of config.json that the model's function depends on.

    The same weights with another number of heads or another activation are another model.

    Raises:
        UserError: if it is no JSON object.
    """
    content = read_config(folder / "config.json")
    hashed = {name: value for name, value in content.items() if name not in CONFIG_BOOKKEEPING}
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()


def _shards(folder: Path) -> tuple[Path, ...]:
    index = folder / WEIGHTS_INDEX_FILE
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"an index of shards must have a weight_map, got none in {index}") from error
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise UserError(
                f"every shard that {WEIGHTS_INDEX_FILE} names must be in its folder, got no {folder / name}"
            )
    return tuple(folder / name for name in names)


def _must_be_local(model: str) -> bool:
    return model.startswith(("./", "../", "/", "~")) or model.count("/") > 1


def _folder_in_package(inside: str) -> Path:
    module, _, subfolder = inside.partition("/")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        hint = module.replace("_", "-")
        raise UserError(f"the teacher's package must be installed (try: pip install {hint}), got {module}")
    root = Path(spec.submodule_search_locations[0]).resolve()
    folder = (root / subfolder).resolve()
    if not folder.is_dir() or not folder.is_relative_to(root):
        raise UserError(f"a packaged teacher must be a folder inside its package, got {folder}")
    return folder


def _fetch(source: TeacherSource) -> Path:
    from huggingface_hub import snapshot_download

    with _reached(source):
        return Path(
            snapshot_download(
                source.model,
                revision=source.revision,
                allow_patterns=list(HUB_FILES),
                ignore_patterns=list(HUB_FILES_LEFT),
            )
        )


def _ask_once(source: TeacherSource) -> None:
    """Raises an error unless the Hub answers, and has the teacher's config.json."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(source.model, "config.json", revision=source.revision), timeout=SECONDS_TO_WAIT)
    except OSError:
        raise
    # The Hub's client has errors of its own, whose names depend on its version.
    except Exception as error:
        raise ConnectionError(first_line(error)) from error


@contextmanager
def _reached(source: TeacherSource) -> Iterator[None]:
    """Turns the errors of a download into one line that names the model."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(
            "a teacher must be a folder that exists or a Hub id that can be reached, "
            f"got {source.model} ({first_line(error)})"
        ) from error
