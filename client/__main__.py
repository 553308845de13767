"""``python -m vanilla.client`` is ``vanilla``."""

from .cli import main

if __name__ == "__main__":
    main()
