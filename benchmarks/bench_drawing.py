"""How fast the test kit draws: programs drawn, typed and run a second of one processor, and the share rejected.

    python benchmarks/bench_drawing.py [--programs 300] [--rounds 3]

The budget: 150 programs a second, under 2% of the draws rejected.
"""

import argparse
import time

from hypothesis import Phase, given, settings

from fxopt.program import Program
from fxopt.testing import programs, strategies
from fxopt.verification import sample_inputs


def measure(count: int) -> tuple[float, int, int]:
    """Seconds of processor time, programs run, programs begun."""
    ran = begun = 0
    build = strategies.build_program

    def counted(*args, **kwargs):  # type: ignore[no-untyped-def]
        nonlocal begun
        begun += 1
        return build(*args, **kwargs)

    @settings(max_examples=count, database=None, deadline=None, phases=[Phase.generate])
    @given(programs())
    def run(program: Program) -> None:
        nonlocal ran
        ran += 1
        program(*sample_inputs(program.signature, seed=0)[0].tensors)

    strategies.build_program = counted
    start = time.process_time()
    try:
        run()
    finally:
        strategies.build_program = build
    return time.process_time() - start, ran, begun


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--programs", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    measure(20)  # imports and the table of ops
    for _ in range(options.rounds):
        seconds, ran, begun = measure(options.programs)
        print(f"{ran} programs, {ran / seconds:.0f} a second, {1 - ran / begun:.1%} of {begun} rejected")


if __name__ == "__main__":
    main()
