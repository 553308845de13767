"""How a command of the program `vanilla` gives up."""

from __future__ import annotations


class Failed(Exception):
    """One line for people, and the exit status.

    :param text: what went wrong, as the end of a line that starts with the command's name; empty: nothing is said.
    :param status: for the shell.
    """

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status
