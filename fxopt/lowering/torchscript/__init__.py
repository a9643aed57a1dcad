"""The TorchScript target: source text from the graph, compiled and saved; the file loads with torch alone."""
