"""Chat templates of strangers: each attack is refused in one line, soon, and with little memory."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from skipstone.errors import ConfigError
from skipstone.runtime.text import ChatTemplate

HELLO = [{"role": "user", "content": "hi"}]
DOUBLING = "{% set ns = namespace(x='ab') %}{% for i in range(90) %}{% set ns.x = BODY %}{% endfor %}{{ ns.x }}"
ATTACKS: dict[str, tuple[str, str]] = {
    "a long text": ("{{ 'a' * 3 * 10**9 }}", "too much text"),
    "a power": ("{{ 9**(9**9) }}", "too large a number"),
    "a product of numbers": ("{{ 2**4000 * 2**4000 }}", "too large a number"),
    "a number of many digits": ("{{ " + "9" * 5000 + " }}", "too many digits"),
    "deep parentheses": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "nested too deeply"),
    "a long sum": ("{{ " + "1+" * 20_000 + "1 }}", "nested too deeply"),
    "deep conditions": ("{% if 1 %}" * 3000 + "{% endif %}" * 3000, "nested too deeply"),
    "25 nested loops": (
        "".join(f"{{% for a{depth} in range(9) %}}" for depth in range(25)) + "x" + "{% endfor %}" * 25,
        "nested too deeply",
    ),
    "loops in loops": (
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
        "takes too long",
    ),
    "calls without end": ("{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}", "calls itself too deeply"),
    "calls that double": (
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "takes too long",
    ),
    "a loop that calls itself": (
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
        "calls itself too deeply",
    ),
    "text that doubles by ~": (DOUBLING.replace("BODY", "ns.x ~ ns.x"), "too much text"),
    "text that doubles by +": (DOUBLING.replace("BODY", "ns.x + ns.x"), "too much text"),
    "text that doubles by format": (DOUBLING.replace("BODY", "'{}{}'.format(ns.x, ns.x)"), "too much text"),
    "text that doubles by join": (DOUBLING.replace("BODY", "[ns.x, ns.x]|join"), "too much text"),
    "a block that doubles": (
        "{% set ns = namespace(x='ab') %}{% for i in range(90) %}{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"
        "{% endfor %}",
        "too much text",
    ),
    "lists that double": (DOUBLING.replace("BODY", "[ns.x, ns.x]"), "too long a list"),
    "mappings that double": (DOUBLING.replace("BODY", "dict(a=ns.x, b=ns.x)"), "too long a list"),
    "namespaces that double": (DOUBLING.replace("BODY", "namespace(a=ns.x, b=ns.x)"), "too long a list"),
    "lists that are multiplied": ("{{ ([1] * 200000) * 200000 }}", "too long a list"),
    "lists that are added up": ("{{ ([range(99999)|list] * 1000)|sum(start=[]) }}", "too long a list"),
    "copies that are kept": (
        "{% set x = 'a' * 7000000 %}{% set ns = namespace(l=[]) %}"
        "{% for i in range(99999) %}{% set ns.l = ns.l + [x[1:]] %}{% endfor %}",
        "too much text",
    ),
    "words by the million": ("{% set x = 'a ' * 3000000 %}{{ x.split()|length }}", "too long a list"),
    "a replacement": ("{% set x = 'a' * 1000000 %}{{ x.replace('a', x) }}", "too much text"),
    "a filter that replaces": ("{% set x = 'a' * 1000000 %}{{ x|replace('a', x) }}", "too much text"),
    "a join": ("{% set x = 'a' * 1000000 %}{{ x.join(range(9999)|map('string')) }}", "too much text"),
    "a filter that joins": ("{% set x = 'a' * 1000000 %}{{ range(9999)|map('string')|join(x) }}", "too much text"),
    "template text in a loop": ("{% for i in range(99999) %}" + "y" * 300_000 + "{% endfor %}", "too much text"),
    "more template than anybody writes": ("x" * 2_000_000, "has 2000000 characters, at most 400000 are read"),
    **{
        f"a wide field by {text}": ("{{ " + text + " }}", "too wide a field")
        for text in (
            "'a'|center(1000000000)",
            "'a'.center(1000000000)",
            "'a'.zfill(1000000000)",
            "'\\t'.expandtabs(1000000000)",
            "'%1000000000d' % 1",
            "'%*d' % (1000000000, 1)",
            "'%1000000000d'|format(1)",
            "'{:1000000000}'.format(1)",
            "'{:{}}'.format(1, 1000000000)",
            "'x'|indent(1000000000)",
            "1.5|round(1000000000)",
            "[1]|tojson(indent=1000000000)",
            "(1).to_bytes(1000000000, 'big')",
            "'ab'|batch(1000000000)|list",
        )
    },
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_in_one_line_soon_and_with_little_memory(name: str) -> None:
    source, message = ATTACKS[name]
    template, start = ChatTemplate(source), time.thread_time()
    with pytest.raises(ConfigError, match=rf"^chat template, line 1: .*{message}.*$") as refused:
        template.render(HELLO)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 700
    assert time.thread_time() - start < 4  # twice the bound, for machines that are busy


def test_a_template_is_not_looked_at_before_a_chat_needs_it() -> None:
    tracemalloc.start()
    ChatTemplate("{{ 'a' * 3 * 10**9 }}{% if %}")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_long_conversation_is_no_attack() -> None:
    source = (
        "{% for message in messages %}{{ '<' ~ message.role ~ '>' + message['content'] | trim }}"
        "{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}"
    )
    messages = [{"role": "user", "content": "word " * 20_000} for _ in range(60)]
    text = ChatTemplate(source).render(messages)
    assert text == "\n".join("<user>" + message["content"].strip() for message in messages)


def test_thousands_of_short_turns_are_no_attack() -> None:
    source = "{% for message in messages[1:] %}{{ message.role }}: {{ message.content|tojson }}{{ '\\n' }}{% endfor %}"
    messages = [{"role": "user", "content": f"turn {number}"} for number in range(5000)]
    assert ChatTemplate(source).render(messages).count("\n") == 4999


def test_two_threads_may_render_one_template() -> None:
    from concurrent.futures import ThreadPoolExecutor

    template = ChatTemplate("{% for n in range(300) %}{{ messages[0].content }}{% endfor %}")
    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(lambda number: template.render([{"role": "user", "content": str(number)}]), range(40)))
    assert texts == [str(number) * 300 for number in range(40)]
