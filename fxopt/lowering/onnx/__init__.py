"""The ONNX target: own rules from ATen to ONNX, gates, onnxsim as a verified step, and files that run.

`target.OnnxTarget` lowers and opens; `run` runs a file with nothing but numpy and onnxruntime. Nothing is
imported here, so that the runner's process stays free of torch.
"""
