"""Work that keeps a deployment healthy: admission, reconciling, sweeping, server checks."""
