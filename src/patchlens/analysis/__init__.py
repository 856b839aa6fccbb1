"""What saved records say: each analysis is a function from tables to a `Finding`, numbers first, one figure."""
