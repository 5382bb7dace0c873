"""The right to work on a unit: claiming it, keeping the claim, and what becomes of it when the work fails."""
