"""Optimizers compared at equal tuning budgets: the paper's toy, and small networks."""
