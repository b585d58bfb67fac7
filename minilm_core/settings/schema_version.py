"""The version of the form in which search.yaml is written, and the steps that bring older forms to the present one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from minilm_core.settings.yaml_source import YamlSource, shown

Content = Mapping[str, Any]
Migration = Callable[[Content], Content]


def _from_unversioned(content: Content) -> Content:
    """Version 1 added the version itself, and nothing else."""
    return content


MIGRATIONS: tuple[Migration, ...] = (_from_unversioned,)
"""The step from version 0 to 1, from 1 to 2, and so on.

A file without a version is read as version 0. It may still have the present form, because people write search.yaml
without a version; so a step must leave alone what has the newer form already.
"""

SCHEMA_VERSION = len(MIGRATIONS)
"""The version of the settings that this program writes."""

SCHEMA_VERSION_KEY = "schema_version"


def migrated(source: YamlSource, migrations: Sequence[Migration] = MIGRATIONS) -> YamlSource:
    """Returns the settings of a search.yaml in the present form, without their version.

    Raises:
        UserError: if the version is not a number, or belongs to a newer program.
    """
    present = len(migrations)
    version = source.content.get(SCHEMA_VERSION_KEY, 0)
    if not isinstance(version, int) or isinstance(version, bool) or version < 0:
        rule = f"{SCHEMA_VERSION_KEY} must be a number from 1 to {present}, got {shown(version)}"
        raise source.error((SCHEMA_VERSION_KEY,), rule)
    if version > present:
        rule = f"this search.yaml was written by a newer version (schema {version}); upgrade minilm-search"
        raise source.error((SCHEMA_VERSION_KEY,), rule)
    content: Content = {key: value for key, value in source.content.items() if key != SCHEMA_VERSION_KEY}
    for migrate in migrations[version:]:
        content = migrate(content)
    return replace(source, content=dict(content))
