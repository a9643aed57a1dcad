"""What renders a `Report`; the numbers are in the report, nothing is computed here that others would need."""

from fxopt.reporting.text import (
    change_table,
    explanation,
    pass_table,
    size_text,
    summary,
)
from fxopt.reporting.verification import verify_details

__all__ = ["change_table", "explanation", "pass_table", "size_text", "summary", "verify_details"]
