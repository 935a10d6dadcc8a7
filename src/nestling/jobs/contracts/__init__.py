"""Jobs of change contracts: what a model, a run or a governed folder is judged by."""
