"""How good the drafts of each way are on held-out text, and how long they take; a row for each way and number.

python tests/benchmarks/suggest_quality.py pebble heldout.txt --runs superposed:3,branch:3
python tests/benchmarks/suggest_quality.py BUNDLE replies.jsonl --field reply --kept quality.jsonl --plot quality.svg

Prefixes of 64 tokens are spread evenly over every second text (of a single text: over all of it). Without --ngrams
(a store, or the word pebble) one is counted from the other texts. The runs take turns at each prefix, so a busy machine
is slow for all. What is done is kept in --kept, one prefix a line, and is not done again.

hit 5, hit 10: share of prefixes of which one of the k drafts begins with the true next 5 or 10 tokens. nats: mean log
probability of the drafts' tokens under the model; best: of the likeliest draft. distinct: drafts that differ within
their first 5 tokens. ms: median; nucleus draws k texts at top-p 0.9, in one batch. plain: superposed without n-grams.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean, median
from time import perf_counter
from typing import Any

import numpy as np

import skipstone
from skipstone.language_model import LanguageModel
from skipstone.ngrams import vocabulary_of
from skipstone.runtime.engine import Draft, Sequence, open_branches
from skipstone.runtime.sampling import Sampler, SamplingOptions, logprob_of
from skipstone.runtime.suggest import SuggestRequest, suggest
from skipstone.runtime.text import NgramCounts, NgramStore

PREFIX, NEW = 64, 10
LABELS = {"superposed": "superposed with n-grams", "plain": "superposed"}
RUNS = "superposed:3,plain:3,branch:3,beam:3,diverse:3,nucleus:3,branch:1,nucleus:1,branch:2,branch:5,plain:5,beam:5"
KNOWS_ITS_SCORE = ("branch", "beam", "diverse")  # mean log probabilities under the model
Drafts = list[tuple[tuple[int, ...], float | None]]  # with the score where that is what is measured


def texts_in(path: Path, field: str) -> list[str]:
    """Return the field of each line of JSON, or the whole of another file."""
    content = path.read_text(encoding="utf-8")
    if path.suffix != ".jsonl":
        return [content]
    return [json.loads(line)[field] for line in content.splitlines() if line.strip()]


def cases_of(model: LanguageModel, texts: list[str], most: int) -> list[tuple[list[int], tuple[int, ...]]]:
    """Return prefixes, each with the tokens that truly follow."""
    begin, encode = model.runtime.tokenizer.encode(""), model.runtime.tokenizer.encode
    size, windows = PREFIX - len(begin), []
    for text in texts:
        token_ids = encode(text, add_special_tokens=False)
        windows += [token_ids[at : at + size + NEW] for at in range(0, len(token_ids) - size - NEW + 1, size + NEW)]
    places = np.linspace(0, len(windows) - 1, min(most, len(windows))).round().astype(int)
    return [([*begin, *windows[at][:size]], tuple(windows[at][size:])) for at in places]


def store_for(model: LanguageModel, texts: list[str], path: Path | None) -> NgramStore | None:
    """Return the store in a file, or one of texts of the same kind."""
    given = model.suggest_request(ngrams=path).ngrams
    if given is not None or not texts:
        return given
    counts = NgramCounts()
    for text in texts:
        counts.add(model.runtime.tokenizer.encode(text, add_special_tokens=False))
    return counts.store(vocabulary=vocabulary_of(model.runtime.bundle))


def nucleus(sequence: Sequence, request: SuggestRequest, seed: int) -> Drafts:
    """Draw k texts, each by its own seed."""
    prompt, options = list(sequence.token_ids), SamplingOptions(temperature=1.0, top_p=0.9)
    made = Sampler.from_options(options, stop_ids=(), num_prompt_tokens=len(prompt))
    samplers = [Sampler(processors=made.processors, seed=seed + number) for number in range(request.num_drafts)]
    texts: list[list[int]] = [[] for _ in samplers]
    with open_branches(sequence, most=len(texts), steps=NEW - 1) as branches:
        rows = np.repeat(branches.logits, len(texts), axis=0)
        branches.reorder([0] * len(texts))
        for number in range(NEW):
            for sampler, text, row in zip(samplers, texts, rows, strict=True):
                text.append(sampler.choose(row, [*prompt, *text]))
            if number < NEW - 1:
                rows = branches.step([text[-1] for text in texts])
    return [(tuple(text), None) for text in texts]


def runner(model: LanguageModel, run: str, store: NgramStore | None) -> Callable[[Sequence, int], Drafts]:
    """Return what makes the drafts of a run such as branch:3 behind a sequence, the seed given."""
    way, _, number = run.partition(":")
    ngrams = store if way == "superposed" and store is not None else None
    request = model.suggest_request(num_drafts=int(number), max_new_tokens=NEW, ngrams=ngrams)
    if way == "nucleus":
        return lambda sequence, seed: nucleus(sequence, request, seed)
    method = "superposed" if way == "plain" else way

    def make(sequence: Sequence, seed: int) -> Drafts:
        found = suggest(sequence, request, method=method)
        return [(draft.token_ids, draft.score if way in KNOWS_ITS_SCORE else None) for draft in found]

    return make


def nats_of(sequence: Sequence, draft: tuple[int, ...]) -> float:
    """Return the mean log probability of a draft's tokens under the model."""
    length = len(sequence.token_ids)
    rows = sequence.extend(Draft.chain(draft[:-1], source="draft"))
    nats = fmean(logprob_of(row, token_id) for row, token_id in zip(rows, draft, strict=True))
    sequence.rollback(length)
    return nats


def judged(
    sequence: Sequence, make: Callable[[Sequence, int], Drafts], seed: int, truth: tuple[int, ...]
) -> dict[str, float]:
    start = perf_counter()
    made = make(sequence, seed)
    ms = 1e3 * (perf_counter() - start)
    drafts = [draft for draft, _ in made]
    nats = [nats_of(sequence, draft) if score is None else score for draft, score in made]
    return {
        "hit_5": any(draft[:5] == truth[:5] for draft in drafts),
        "hit_10": truth in drafts,
        "nats": fmean(nats),
        "best": max(nats),
        "distinct": len({draft[:5] for draft in drafts}),
        "ms": ms,
    }


def kept_in(path: Path | None) -> dict[int, dict[str, Any]]:
    """Return what was done before, by the number of the prefix."""
    done: dict[int, dict[str, Any]] = {}
    lines = path.read_text().splitlines() if path is not None and path.exists() else []
    for line in lines:
        record = json.loads(line)
        done.setdefault(record["prefix"], {}).update(record["runs"])
    return done


def work(model: LanguageModel, chosen: argparse.Namespace) -> dict[int, dict[str, Any]]:
    """Run all runs at all prefixes that are not done."""
    texts = texts_in(chosen.texts, chosen.field)
    judging, counted = (texts[::2], texts[1::2]) if len(texts) > 1 else (texts, [])
    cases, store = cases_of(model, judging, chosen.prefixes), store_for(model, counted, chosen.ngrams)
    makers = {run: runner(model, run, store) for run in chosen.runs.split(",")}
    done = kept_in(chosen.kept)
    for turn, number in enumerate(np.random.default_rng(0).permutation(len(cases)).tolist()):
        prefix, truth = cases[number]
        missing = [run for run in makers if run not in done.get(number, {})]
        if not missing:
            continue
        sequence = model.runtime.new_sequence(context_length=PREFIX + 10 * NEW)
        sequence.append(prefix)
        sequence.extend(Draft.empty())
        if turn == 0:  # binds the calls
            for run in missing:
                makers[run](sequence, 0)
        found = {run: judged(sequence, makers[run], 1000 * number, truth) for run in missing}
        done.setdefault(number, {}).update(found)
        if chosen.kept is not None:
            with chosen.kept.open("a") as stream:
                stream.write(json.dumps({"prefix": number, "runs": found}) + "\n")
        print(f"\r{turn + 1} of {len(cases)} prefixes", end="", flush=True)
    print()
    return done


def row_of(records: Iterable[dict[str, float]]) -> dict[str, float]:
    records = list(records)
    columns = {name: fmean(record[name] for record in records) for name in records[0] if name != "ms"}
    return columns | {"ms": median(record["ms"] for record in records), "prefixes": len(records)}


def draw(rows: dict[str, dict[str, float]], path: Path) -> None:
    """Draw hits over time, a line for each way through its numbers of drafts; branch:1 is the greedy pass."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.fonttype"] = "none"  # text as text: a tenth of the size
    figure, axes = pyplot.subplots(figsize=(6.4, 4))
    least = rows["branch:1"]["ms"] if "branch:1" in rows else min(row["ms"] for row in rows.values())
    for way in dict.fromkeys(run.partition(":")[0] for run in rows):
        points = sorted(
            (row["ms"] / least, 100 * row["hit_5"], run) for run, row in rows.items() if run.startswith(f"{way}:")
        )
        times, hits = [time for time, _, _ in points], [hit for _, hit, _ in points]
        axes.plot(times, hits, "o-", label=LABELS.get(way, way))
        for time, hit, run in points:
            axes.annotate(run.partition(":")[2], (time, hit), xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel("time of k drafts, in passes of one")
    axes.set_ylabel("one of k drafts has the next 5 tokens, %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, bbox_inches="tight", dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("texts", type=Path)
    parser.add_argument("--field", default="text", help="of a line of JSON")
    parser.add_argument("--ngrams", type=Path)
    parser.add_argument("--prefixes", type=int, default=300)
    parser.add_argument("--runs", default=RUNS)
    parser.add_argument("--threads", type=int, help="1 beside other work: two that wait for each other take longer")
    parser.add_argument("--kept", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path)
    chosen = parser.parse_args()
    done = work(skipstone.load(chosen.bundle, threads=chosen.threads), chosen)
    runs = chosen.runs.split(",")
    rows = {run: row_of(found[run] for found in done.values() if run in found) for run in runs}
    if chosen.plot is not None:
        draw(rows, chosen.plot)
    if chosen.json:
        print(json.dumps(rows, indent=1))
        return
    print("| way | k | hit 5 | hit 10 | nats | best | distinct | ms |\n|---|---|---|---|---|---|---|---|")
    for run, row in rows.items():
        way, _, number = run.partition(":")
        hits = f"{row['hit_5']:.1%} | {row['hit_10']:.1%} | {row['nats']:.2f} | {row['best']:.2f}"
        print(f"| {way} | {number} | {hits} | {row['distinct']:.2f} | {row['ms']:.1f} |")


if __name__ == "__main__":
    main()
