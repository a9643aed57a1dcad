"""How near the predicted times of calls are to measured ones: two profiles of a model, and rates against a profile.

    python -m benchmarks.bench_times [--models NAME ...] [--seconds 3] [--rates FILE]

Over calls of 0.5% of the time and more, after O1: rank correlations (Spearman) and ratios of totals. The budgets: 0.95 and
25% from a profile, 0.8 by rates. One thread, so processor time counts; rates of this machine unless a file is given.
"""

import argparse

import torch
from scipy.stats import spearmanr

import fxopt
from fxopt.measure import calibrate, profile
from fxopt.passes.partition import Rates, read_cost, seconds_of
from tests.traced import traced
from tests.zoo import names


def agreement(times: dict[str, float], predicted: dict[str, float]) -> tuple[int, float, float]:
    """Calls of 0.5% of the time and more, the rank correlation over these, and the ratio of the totals."""
    whole = sum(times.values())
    dear = [name for name, seconds in times.items() if seconds >= 0.005 * whole]
    ranks = spearmanr([times[n] for n in dear], [predicted[n] for n in dear]).statistic
    return len(dear), float(ranks), sum(predicted.values()) / whole


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=names())
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rates")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rates = read_cost(options.rates) if options.rates else calibrate()
    assert isinstance(rates, Rates)
    print(
        "| model | calls | whole, ms | profiles | their totals | rates | their total |\n|---|---|---|---|---|---|---|"
    )
    for name in options.models:
        program = fxopt.run_pipeline(traced(name, False), "O1")
        first, other = (profile(program, seconds=options.seconds).seconds for _ in range(2))
        by_rates = {n.name: s for n, s in seconds_of(program, rates).items()}
        count, ranks, total = agreement(first, other)
        _, rated, rated_total = agreement(first, by_rates)
        whole = 1e3 * sum(first.values())
        print(
            f"| {name} | {count} | {whole:.2f} | {ranks:.2f} | {total:.2f} | {rated:.2f} | {rated_total:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
