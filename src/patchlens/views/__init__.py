"""Ways to look at readings: a page, a terminal table, a notebook."""
