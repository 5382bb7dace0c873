"""LTX-2 itself: loading, conditioning, denoising."""
