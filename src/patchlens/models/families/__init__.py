"""One file per model family; each answers the few questions of `Adapter`."""
