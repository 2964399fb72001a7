"""The checks, one module a group; each is a function from facts to a verdict, and has no other effect."""
