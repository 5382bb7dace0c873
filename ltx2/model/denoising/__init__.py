"""Denoising a segment: what the model is told, its stages, and the LoRAs of each."""
