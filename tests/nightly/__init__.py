"""What runs too long for each change: fuzzing, mutants, and the page of their figures. See docs/reliability.md."""
