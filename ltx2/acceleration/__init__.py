"""A faster transformer: fused blocks, float8 weights, compilation."""
