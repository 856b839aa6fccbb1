"""How far a lens can be trusted: truth, measures with intervals, baselines."""
