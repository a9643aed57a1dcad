"""Stages of a plan in a process each, joined by torch.distributed: `torchrun ... -m fxopt.distributed FOLDER`."""
