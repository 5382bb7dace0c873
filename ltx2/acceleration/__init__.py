"""Acceleration of the transformer: fused blocks, float8 weights, compilation."""
