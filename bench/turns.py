"""Sides take turns, so that what the machine does besides hits all alike. A side that fails is not tried again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, TypeVar

from processes import Failed

if TYPE_CHECKING:
    from oneway import Settings

Sample = TypeVar("Sample")


def take_turns(
    title: str, about: dict[str, dict[str, Any]], settings: Settings, measure: Callable[[str], Sample]
) -> dict[str, list[Sample]]:
    """Measure all that *about* describes, round by round; none that is missing. One that fails is missing from then on.

    :return: what *measure* gave for each.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in about}
    for number in range(settings.rounds):
        for name in present(about):
            settings.progress(f"{title}: {about[name]['title']}, round {number + 1} of {settings.rounds}")
            attempt(name, about[name], samples[name], measure)
    return samples


def attempt(name: str, side: dict[str, Any], samples: list[Sample], measure: Callable[[str], Sample]) -> None:
    """Once more; a side that fails has no figures."""
    try:
        samples.append(measure(name))
    except Failed as error:
        side["missing"] = f"failed: {error}"
        samples.clear()


def present(about: dict[str, dict[str, Any]]) -> list[str]:
    """The sides that can be measured."""
    return [name for name, side in about.items() if not side["missing"]]
