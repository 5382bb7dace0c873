"""The LTX-2 model: loading, conditioning, denoising."""
