"""`python -m noveltyflow` is the `noveltyflow` command."""

from noveltyflow.cli import main

if __name__ == "__main__":
    main()
