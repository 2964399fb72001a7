"""An environment on disk: where it lies, how it is switched, what it records, what is installed in it."""
