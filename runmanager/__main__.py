"""The `runmanager` command, also as `python -m runmanager`.

Of a launch, the first worker is started before anything else is imported: while it starts, the command line is read.
"""

import sys


def main() -> None:
    """Runs the command."""
    if sys.argv[1:2] == ["launch"]:
        from runmanager.launching.early import start_early

        start_early(sys.argv[2:])
    from runmanager.cli import main as run_command

    run_command()


if __name__ == "__main__":
    main()
