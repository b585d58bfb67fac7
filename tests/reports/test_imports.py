import subprocess
import sys

from reports import Study
from tests.paths import ROOT

HEAVY = (
    "torch",
    "transformers",
    "ray",
    "optuna",
    "pandas",
    "pyarrow",
    "scipy",
    "altair",
    "vl_convert",
    "jinja2",
    "spaces",
    "search",
)
SCRIPT = """
import sys
from reports import Requirements, load_study, pick, write_decision
study = load_study(sys.argv[1])
write_decision(study, pick(study, Requirements.parse(within="5%")))
print(*[name for name in sys.argv[2:] if name in sys.modules])
"""


def test_picking_loads_nothing_heavy(full_study: Study) -> None:
    root = ROOT
    command = [sys.executable, "-c", SCRIPT, str(full_study.path), *HEAVY]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
    assert (full_study.path / "decision.json").is_file()
