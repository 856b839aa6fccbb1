"""The narrow waist to transformers: loading, families, sites, geometry, hooks. Knows no lens and no bank."""
