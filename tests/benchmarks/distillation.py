"""The speed and memory of one distillation step on the CPU, compared with the peer's.

    python -m tests.benchmarks.distillation OUT.json [--pair 6x384-3x192] [--batch 16x128] [--rounds 3] [--no-memory]

Neither depends on weights or text. The text is random, and so are the weights of a teacher that is not installed.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks.cases import CASES, SHORT, Case
from tests.benchmarks.measure import Rounds, check_losses, measure_case
from tests.benchmarks.peer import PEER_LOSS
from tests.benchmarks.table import render


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints the tables and writes a list of rows."""
    options = parsed(arguments)
    if not PEER_LOSS.is_file():
        raise SystemExit(f"the peer must be installed, got no {PEER_LOSS}; `make bench` installs it")
    for pair in dict.fromkeys(case.pair for case in options.cases):
        print(check_losses(Case(pair=pair, batch=SHORT)), flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for case in options.cases:
            print(f"measuring {case.pair.label} at {case.batch.label}", flush=True)
            rows += measure_case(case, options.rounds, Path(cache), with_memory=options.memory)
    print(f"\n{render(rows)}", end="")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.distillation")
    parser.add_argument("out", type=Path, help="the file for the rows, in JSON")
    parser.add_argument("--pair", choices=sorted({case.pair.label for case in CASES}), help="only this one")
    parser.add_argument("--batch", choices=sorted({case.batch.label for case in CASES}), help="only this one")
    parser.add_argument("--rounds", type=Rounds.exactly, default=Rounds(), help="timed steps of each variant")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="measure speed alone")
    options = parser.parse_args(arguments)
    options.cases = [
        case for case in CASES if options.pair in (None, case.pair.label) and options.batch in (None, case.batch.label)
    ]
    if not options.cases:
        parser.error(f"a pair must be measured at one of its batches, got {options.pair} at {options.batch}")
    return options


if __name__ == "__main__":
    main()
