"""The demo: two trained models through every step of fxopt, in one table."""

from fxopt.demo.run import DemoRow, run_demo

__all__ = ["DemoRow", "run_demo"]
