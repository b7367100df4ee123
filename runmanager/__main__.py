"""`python -m runmanager` is the `runmanager` command."""

from runmanager.cli import main

if __name__ == "__main__":
    main()
