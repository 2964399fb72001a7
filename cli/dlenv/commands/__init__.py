"""One module for each command of ``dlenv``, imported when the command is called."""
