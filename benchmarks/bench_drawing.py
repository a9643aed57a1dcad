"""How fast the test kit draws: programs drawn, typed and run a second of one processor, and the share rejected.

    python benchmarks/bench_drawing.py [--programs 300] [--rounds 3]

The budget: 150 programs a second, under 2% of the draws rejected. The first round is slower: each type of a call
is inferred once a process. Hypothesis also repeats programs with some of their choices changed, and gives up those
that would need more choices than the repeated ones had; they are counted apart, their time is in the figure.
"""

import argparse
import time
from collections import Counter

from hypothesis import Phase, given, settings
from hypothesis.errors import StopTest, UnsatisfiedAssumption

from fxopt.program import Program
from fxopt.testing import programs, strategies
from fxopt.verification import sample_inputs


def measure(count: int) -> tuple[float, Counter[str]]:
    """Seconds of processor time, and how many programs were begun, run, rejected and given up."""
    counts: Counter[str] = Counter()
    build = strategies.build_program

    def counted(*args, **kwargs):  # type: ignore[no-untyped-def]
        counts["begun"] += 1
        try:
            return build(*args, **kwargs)
        except UnsatisfiedAssumption:
            counts["rejected"] += 1
            raise
        except StopTest:  # nothing in the kit filters its draws, which would end in this too
            counts["given up"] += 1
            raise

    @settings(max_examples=count, database=None, deadline=None, phases=[Phase.generate])
    @given(programs())
    def run(program: Program) -> None:
        counts["run"] += 1
        program(*sample_inputs(program.signature, seed=0)[0].tensors)

    strategies.build_program = counted
    start = time.process_time()
    try:
        run()
    finally:
        strategies.build_program = build
    return time.process_time() - start, counts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--programs", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    measure(20)  # imports and the table of ops
    for _ in range(options.rounds):
        seconds, counts = measure(options.programs)
        shares = [f"{counts[what] / counts['begun']:.1%} {what}" for what in ("rejected", "given up")]
        print(f"{counts['run']} programs, {counts['run'] / seconds:.0f} a second; {', '.join(shares)}")


if __name__ == "__main__":
    main()
