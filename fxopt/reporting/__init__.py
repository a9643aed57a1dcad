"""What renders a `Report`; the numbers are in the report, nothing is computed here that others would need."""

from fxopt.reporting.text import pass_table, refusal_table, size_text, summary, verdict_line

__all__ = ["pass_table", "refusal_table", "size_text", "summary", "verdict_line"]
