"""A package, so that tests share models and helpers: `from tests import zoo`."""
