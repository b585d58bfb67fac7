"""Reads a space by name: a preset of this package, or the path of a YAML file."""

from pathlib import Path

from minilm_core.errors import UserError
from minilm_core.paths import located
from minilm_core.settings.schema import build
from minilm_core.settings.yaml_source import read_yaml
from spaces.space import StudentSpace

_FOLDER = Path(__file__).parent


def preset_names() -> tuple[str, ...]:
    """Returns the names of the presets, in alphabetical order."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def load_space(name_or_path: str, base: Path) -> StudentSpace:
    """Reads a preset or a YAML file. A name with a `/` or the ending `.yaml` or `.yml` is a path, relative to `base`.

    Raises:
        UserError: if there is no such preset or file, or the file breaks a rule.
    """
    if "/" in name_or_path or Path(name_or_path).suffix in (".yaml", ".yml"):
        return build(read_yaml(located(name_or_path, base)), StudentSpace)
    if name_or_path not in preset_names():
        raise UserError(
            f"a space must be one of {', '.join(preset_names())} or the path of a YAML file, got {name_or_path!r}"
        )
    return build(read_yaml(_FOLDER / f"{name_or_path}.yaml"), StudentSpace)
