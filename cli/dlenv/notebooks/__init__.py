"""The course's notebooks: fetched, listed, run, opened."""
