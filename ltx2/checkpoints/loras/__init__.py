"""LoRAs: which are named, their files, and the names of their tensors."""
