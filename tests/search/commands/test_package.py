"""Tests of what the package of a study's student states about the teacher."""

import json
import shutil
from pathlib import Path

import pytest

from minilm_core.errors import UserError
from minilm_core.results.layout import StudyPaths
from reports import load_study
from search.cli.terminal import ExitCode
from search.commands.package import Deployment, package_student
from tests.paths import EARLIER_STUDY
from tests.search.fuzzing import check_ends_well


def package_of_trial(material: Path, *, teacher: str, has_teacher: bool = True, licence: str | None = None) -> Path:
    """Packages trial 0 of the earlier study as if it had that teacher."""
    shutil.copytree(EARLIER_STUDY, material)
    if not has_teacher:
        shutil.rmtree(material / "teacher")
    search_yaml = material / "studies" / "tiny" / "search.yaml"
    text = search_yaml.read_text(encoding="utf-8").replace("ROOT/teacher", teacher).replace("ROOT", str(material))
    search_yaml.write_text(text, encoding="utf-8")
    study = StudyPaths(root=search_yaml.parent)
    deployment = Deployment.choose(study, trial=0, is_picked=False, task=None)
    return package_student(
        deployment, material / "out", licence=licence, has_onnx=False, max_int8_drop=None, overwrite=False
    )


@pytest.mark.parametrize(("teacher", "base_model"), [("someone/tiny", "someone/tiny"), ("ROOT/teacher", None)])
def test_only_a_teacher_of_the_hub_is_the_base_model(tmp_path: Path, teacher: str, base_model: str | None) -> None:
    package = package_of_trial(tmp_path / "material", teacher=teacher)
    provenance = json.loads((package / "provenance.json").read_text(encoding="utf-8"))
    assert provenance["base_model"] == base_model
    assert (f"base_model: {base_model}\n" in (package / "README.md").read_text(encoding="utf-8")) is bool(base_model)


def test_a_student_is_packaged_without_its_teachers_folder_if_the_licence_is_given(tmp_path: Path) -> None:
    package = package_of_trial(tmp_path / "material", teacher="ROOT/teacher", has_teacher=False, licence="mit")
    provenance = json.loads((package / "provenance.json").read_text(encoding="utf-8"))
    assert (provenance["licence"], provenance["base_model"]) == ("mit", None)


def test_a_licence_that_only_the_missing_teacher_states_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a teacher folder must exist"):
        package_of_trial(tmp_path / "material", teacher="ROOT/teacher", has_teacher=False)


@pytest.mark.slow
def test_the_students_on_the_frontier_are_packaged_side_by_side_or_not_at_all(tmp_path: Path) -> None:
    shutil.copytree(EARLIER_STUDY, tmp_path / "material")
    search_yaml = tmp_path / "material" / "studies" / "tiny" / "search.yaml"
    text = search_yaml.read_text(encoding="utf-8").replace("ROOT", str(tmp_path / "material"))
    search_yaml.write_text(text, encoding="utf-8")
    frontier = [student.number for student in load_study(search_yaml.parent).frontier]
    command = ("package", str(search_yaml.parent), "--front", "-o", "front")
    ended = check_ends_well(tmp_path, *command, "--json")
    assert ended.code == ExitCode.DONE
    assert [made["trial"] for made in json.loads(ended.stdout)["packages"]] == frontier
    folders = [tmp_path / "front" / f"trial-{number:04d}" for number in frontier]
    assert all((folder / "SHA256SUMS").is_file() for folder in folders)
    again = check_ends_well(tmp_path, *command)
    assert again.code == ExitCode.USAGE
    assert "must not exist, or be replaced with --overwrite" in again.stderr
