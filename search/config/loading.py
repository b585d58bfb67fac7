"""Reads search.yaml into settings, and writes their resolved form. No torch, no Ray."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minilm_core.settings.schema import build, plain
from minilm_core.settings.schema_version import SCHEMA_VERSION, SCHEMA_VERSION_KEY, migrated
from minilm_core.settings.yaml_source import dump_yaml, read_yaml, with_overrides
from search.config.paths import rooted
from search.config.settings import SearchConfig
from search.config.shorthands import expanded


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedConfig:
    """The contents of a search.yaml, resolved."""

    config: SearchConfig
    base: Path
    """The file's folder. Paths inside the configuration are absolute."""
    sha256: str
    """Hash of the resolved text; equal for searches with the same settings and the same paths."""


def load_config(path: Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Reads a search.yaml and applies `key.path=value` overrides.

    Raises:
        UserError: with one line for each mistake: FILE:LINE: KEY RULE, got VALUE.
    """
    source = with_overrides(migrated(read_yaml(path)), overrides)
    base = path.parent.resolve()
    config = rooted(build(expanded(source, base), SearchConfig), base, source)
    return LoadedConfig(config=config, base=base, sha256=hashlib.sha256(resolved_yaml(config).encode()).hexdigest())


def resolved_yaml(config: SearchConfig) -> str:
    """Returns the whole configuration as YAML, with every default and preset written out and the schema version.

    It loads back to an equal configuration from any folder.
    """
    return dump_yaml({SCHEMA_VERSION_KEY: SCHEMA_VERSION, **plain(config)})
