"""How often what a report says of the winner of a search is wrong, before and after allowing for the selection.

python -m tests.benchmarks.selection_rates [--studies 1000]
"""

import argparse

from tests.reports.simulated_studies import SEED_SETTINGS, SETTINGS, Rates, simulated_rates, wrongly_on_front


def main() -> None:
    """Prints one line for each setting."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.selection_rates")
    parser.add_argument("--studies", type=int, default=1000, help="simulated studies of each setting")
    options = parser.parse_args()
    for setting in SETTINGS:
        for pointwise, name in ((True, "one student alone"), (False, "all students at once")):
            show(
                f"{setting.num_students} students, {setting.num_examples} examples, intervals of {name}",
                simulated_rates(setting, options.studies, pointwise=pointwise),
            )
    for setting in SEED_SETTINGS:
        for examples_alone, name in ((True, "examples alone"), (False, "seeds and examples")):
            show(
                f"{setting.num_students} students, {setting.num_seeds} seeds that deviate by {setting.seed_deviation}, "
                f"intervals over {name}",
                simulated_rates(setting, options.studies, examples_alone=examples_alone),
            )
    for scatter in (0.005, 0.02, 0.05):
        for num_students in (8, 40):
            called, wrong = wrongly_on_front(num_students, 1000, options.studies // 5, scatter)
            print(f"scatter {scatter}, {num_students} students: {called} called on the front, {wrong} of them wrongly")


def show(what: str, rates: Rates) -> None:
    """Prints the rates of one setting."""
    print(
        f"{what}: winner missed {rates.winner_missed:.1%}, told apart from an equal {rates.told_apart:.1%}, "
        f"let through {rates.let_through:.1%}",
        flush=True,
    )


if __name__ == "__main__":
    main()
