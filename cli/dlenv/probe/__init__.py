"""What an environment can do, found out by its own Python in a process of its own."""
