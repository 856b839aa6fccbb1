"""Studies: models × lenses × layers × images × judges, planned first, resumed anywhere, reported in one folder."""
