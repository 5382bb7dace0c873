"""Denoising a segment: its conditioning, its stages, and the LoRAs of each."""
