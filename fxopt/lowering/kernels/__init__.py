"""torch's integer kernels (`torch.ops.quantized`), for the targets that run torch: eager and TorchScript."""
