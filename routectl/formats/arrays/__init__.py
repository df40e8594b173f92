"""Dumps that are arrays: .npy, .npz and .safetensors."""
