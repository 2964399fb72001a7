"""``python -m dlenv``."""

from dlenv.cli import main

if __name__ == "__main__":
    main()
