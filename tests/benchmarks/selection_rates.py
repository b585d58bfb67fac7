"""How often what a report says of the winner of a search is wrong, before and after allowing for the selection.

python -m tests.benchmarks.selection_rates [--studies 1000]
"""

import argparse

from tests.reports.simulated_studies import SETTINGS, simulated_rates, wrongly_on_front


def main() -> None:
    """Prints one line for each setting."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.selection_rates")
    parser.add_argument("--studies", type=int, default=1000, help="simulated studies of each setting")
    options = parser.parse_args()
    for setting in SETTINGS:
        for pointwise, name in ((True, "one student alone"), (False, "all students at once")):
            rates = simulated_rates(setting, options.studies, pointwise=pointwise)
            print(
                f"{setting.num_students} students, {setting.num_examples} examples, intervals of {name}: "
                f"winner missed {rates.winner_missed:.1%}, told apart from an equal {rates.told_apart:.1%}, "
                f"let through {rates.let_through:.1%}",
                flush=True,
            )
    for scatter in (0.005, 0.02, 0.05):
        for num_students in (8, 40):
            called, wrong = wrongly_on_front(num_students, 1000, options.studies // 5, scatter)
            print(f"scatter {scatter}, {num_students} students: {called} called on the front, {wrong} of them wrongly")


if __name__ == "__main__":
    main()
