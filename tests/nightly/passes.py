"""Every pass of the library over thousands of drawn programs: `python -m tests.nightly.passes --programs 5000`.

What `check_pass` checks, with fresh programs at each run. Figures go to build/passes.jsonl, one line a pass as it ends.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from fxopt.pipeline import Pass
from fxopt.testing import check_pass
from fxopt.testing.check import CheckFailure
from tests.passes.test_every_pass import LEAST_FIRED, LIBRARY, OPTIONS

RESULTS = Path(__file__).parents[2] / "build" / "passes.jsonl"


def checked(item: Pass, programs: int) -> dict[str, object]:
    """What became of one pass: its counts, or how it failed."""
    name, start = item.pass_name(), time.process_time()
    result: dict[str, object] = {"pass": name}
    try:
        result["counts"] = check_pass(
            item, examples=programs, min_fired=LEAST_FIRED.get(name, 0.05), perturb=True
        )
    except (CheckFailure, ExceptionGroup) as failure:
        result["failed"] = str(failure)
    return result | {"seconds": time.process_time() - start}


def main() -> int:
    parser = argparse.ArgumentParser(description="Every pass over drawn programs.")
    parser.add_argument("--programs", type=int, default=5000)
    parser.add_argument("names", nargs="*", default=list(LIBRARY), metavar="PASS")
    options = parser.parse_args()
    torch.set_num_threads(1)
    RESULTS.parent.mkdir(exist_ok=True)
    results = []
    with RESULTS.open("w", encoding="utf-8") as file:
        for name in options.names:
            results.append(checked(LIBRARY[name](**OPTIONS.get(name, {})), options.programs))
            print(json.dumps(results[-1]), flush=True)
            file.write(json.dumps(results[-1]) + "\n")
            file.flush()
    return 1 if any("failed" in r for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
