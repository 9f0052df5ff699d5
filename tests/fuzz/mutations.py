"""Changes to bytes, JSON, templates and graphs, each a function of a random generator alone."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any, Final

__all__ = ["HOSTILE", "changed_bytes", "changed_json", "changed_template", "written"]

DEEP: Final = "@deep@"  # stands for JSON that is nested 100,000 deep
TOO_LARGE: Final = "@1e999@"
HOSTILE: Final[tuple[Any, ...]] = (
    *(0, -1, 1, 2, 3, 7, 255, 10**5, 10**9, 10**12, 2**31, 2**63, -(2**63), 10**400, 0.0, -0.5, 1e-320, 1e308),
    *(float("nan"), float("inf"), True, False, None, "", "x" * 10**5, "../../etc/passwd", "/etc/passwd", "a\nb\u2028c"),
    *("\ud800", "NaN", "-1", "1e999", "{{ 9**9**9 }}", [], {}, [[]], {"a": {"b": 1}}, [1] * 10**4, DEEP, TOO_LARGE),
)


def changed_bytes(data: bytes, random: Random, *, within: int | None = None) -> bytes:
    """Return bytes with one or a few changes, in the first `within` of them."""
    made = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4, 16))):
        end = max(1, min(len(made), within or len(made)))
        at, count = random.randrange(end), random.choice((1, 1, 2, 4, 8, 64))
        match random.randrange(6):
            case 0:
                made[at : at + 1] = bytes([random.randrange(256)])
            case 1:
                made[at : at + count] = random.randbytes(count)
            case 2:
                del made[at : at + count]
            case 3:
                made[at:at] = random.randbytes(count)
            case 4:
                made[at : at + 8] = random.choice((2**63 - 1, 2**60, 10**9, 2**32, 0)).to_bytes(8, "little")
            case _:
                del made[at:]
    return bytes(made)


def changed_json(data: Any, random: Random, *, times: int = 1) -> Any:
    """Return JSON data with values replaced, removed, doubled or added, anywhere inside."""
    made = copy.deepcopy(data)
    for _ in range(times):
        places = list(_places(made))
        if not places:
            return copy.deepcopy(random.choice(HOSTILE))
        holder, key = random.choice(places)
        match random.randrange(8):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[random.choice(("unheard", "", "x" * 1000, str(key) + "_"))] = copy.deepcopy(holder[key])
            case 2 if isinstance(holder, list):
                holder.insert(key, copy.deepcopy(holder[key]))
            case 3 if places:
                other, at = random.choice(places)
                holder[key] = copy.deepcopy(other[at])
            case 4 if isinstance(holder[key], int | float):
                holder[key] = holder[key] * random.choice((-1, 0, 2, 3, 0.5, 10**6)) + random.choice((0, 1, -1))
            case _:
                holder[key] = copy.deepcopy(random.choice(HOSTILE))
    return made


def _places(value: Any) -> Any:
    if isinstance(value, dict):
        items: Any = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return
    for key, item in items:
        yield value, key
        yield from _places(item)


def written(data: Any) -> bytes:
    """Return JSON data as bytes, with what stands for JSON that no program writes."""
    text = json.dumps(data)
    text = text.replace(f'"{DEEP}"', "[" * 10**5 + "]" * 10**5).replace(f'"{TOO_LARGE}"', "1e999")
    return text.encode("utf-8", "surrogatepass")


SNIPPETS: Final = (
    "{{ 'a' * 3 * 10**9 }}",
    "{{ 9**(9**9) }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(90) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "{{ 'a'|center(10**9) }}",
    "{{ messages|tojson * 10**7 }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ raise_exception('a\\nb' * 10**5) }}",
    "{% include 'x' %}",
    "{{ (messages * 1000)|map(attribute='content')|join }}",
    "{{ messages[0].content[10**30] }}",
    "{{ 1 / 0 }}",
    "{{ range(10**12)|list }}",
    "{% if messages %}",
    "{% endfor %}",
    "{{",
    "{#",
    "{{ x.y.z }}",
    "{{ " + "(" * 400,
    "{{ strftime_now('%' * 10**6) }}",
    "{{ messages|sort(attribute='content')|unique|groupby('role')|list }}",
    "{{ ([messages] * 9999)|string|length }}",
    "{{ 'abc'|batch(2)|map('join')|list }}",
    "{{ dict(a=messages, b=messages)|tojson(indent=4) }}",
)


def changed_template(source: str, random: Random) -> str:
    """Return a chat template with attacks put in, or pieces of it moved, cut or doubled."""
    made = source
    for _ in range(random.choice((1, 1, 2, 3))):
        at = random.randrange(len(made) + 1)
        match random.randrange(4):
            case 0:
                made = made[:at] + made[at + random.randrange(40) :]
            case 1:
                made = made[:at] + made[random.randrange(len(made) + 1) :][:200] + made[at:]
            case _:
                made = made[:at] + random.choice(SNIPPETS) + made[at:]
    return made
