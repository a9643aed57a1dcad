"""A trained CNN in integers of 8, 4 and 2 bits: by calibration, by GPTQ, and taught by the float network.

    python examples/quantize_digits.py                        one network
    python examples/quantize_digits.py --folds 5 --seeds 5    accuracy over folds and seeds

Rounded weights train: `distill` and `finetune` run the program as it is, with gradients straight through the rounding.
Scales are fixed when the weights are first rounded; what is trained are the weights behind them.
"""

import argparse
import statistics
import time

from prune_digits import Split, splits, trained

import fxopt

WAYS = {
    "int8": "int8",
    "4 bits": "int8-weights{bits=4}",
    "4 bits, gptq": "int8-weights{bits=4},gptq",
    "2 bits": "int8-weights{bits=2}",
}


def rounded(whole: fxopt.Program, pipeline: str, split: Split) -> fxopt.Program:
    """A network in integers, simulated."""
    needed = pipeline == "int8" or "gptq" in pipeline
    some = [(x,) for x, _ in split.batches()[:8]] if needed else None
    return fxopt.run_pipeline(whole, pipeline, calibration=some)


def taught(
    whole: fxopt.Program, student: fxopt.Program, split: Split, epochs: int, seed: int
) -> fxopt.Program:
    """A rounded network, trained to say what the float one says."""
    return fxopt.distill(
        whole, student, split.batches(), epochs=epochs, learning_rate=1e-3, seed=seed, progress=False
    )  # fmt: skip


def accuracies(split: Split, epochs: int, seed: int) -> dict[str, float]:
    """Of the float network and of each way to round it."""
    whole = trained(split, 2 * epochs, seed)
    found = {"float": split.accuracy(whole)}
    for way, pipeline in WAYS.items():
        student = rounded(whole, pipeline, split)
        found[way] = split.accuracy(student)
        if way == "2 bits":
            found["2 bits, distilled"] = split.accuracy(taught(whole, student, split, epochs, seed))
    return found


def main(epochs: int = 4) -> dict[str, float]:
    """Prints and returns the accuracies of one network."""
    split = splits(5)[0]
    found = accuracies(split, epochs, seed=0)
    print("\n".join(f"{way:20} {value:.2%}" for way, value in found.items()))
    return found


def over_folds(folds: int, seeds: int, epochs: int) -> None:
    """Accuracy of each seed, the mean over the folds; then the median of the seeds."""
    start = time.process_time()
    table = []
    for seed in range(seeds):
        each = [accuracies(split, epochs, seed) for split in splits(folds, seed)]
        table.append({way: statistics.fmean(e[way] for e in each) for way in each[0]})
        print(seed, {way: f"{value:.2%}" for way, value in table[-1].items()}, flush=True)
    whole = statistics.median(row["float"] for row in table)
    for way in table[0]:
        found = statistics.median(row[way] for row in table)
        print(f"{way:20} {found:.2%}, {100 * (whole - found):+.2f} points lost")
    print(f"{time.process_time() - start:.0f} s of processor time")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folds", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=4)
    given = parser.parse_args()
    if given.folds > 1:
        over_folds(given.folds, given.seeds, given.epochs)
    else:
        main(given.epochs)
