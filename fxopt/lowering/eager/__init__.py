"""The eager target: a flat generated function over torch's kernels, stored as a graph and plain weights."""
