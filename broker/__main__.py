"""``python -m vanilla.broker`` is ``vanilla-broker``."""

from .cli import main

if __name__ == "__main__":
    main()
