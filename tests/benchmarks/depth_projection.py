"""What exits would bring on a larger model, if its exits agreed as often as those of a small trained one. A projection.

python tests/benchmarks/depth_projection.py SMALL BIG --text FILE --calibrate OTHER [--texts 40] [--rounds 40]

Both bundles have exits at the same shares of their depth. SMALL writes greedy texts behind pieces of FILE and notes
what each exit says along them; BIG is measured, call by call. Then `self` plans and drafts, as it does when it runs,
on what the exits of SMALL said, while the clock is that of BIG. And SMALL writes with each of its exits, calibrated on
OTHER, as loosely as 98 % of the tokens are still its own choice; the clock is again that of BIG. With SMALL as BIG too,
the projection can be compared with what it really does.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from depth_calls import CallTimes, measure
from numpy.typing import NDArray

from skipstone.language_model import LanguageModel
from skipstone.runtime.costs import MOST_BEHIND
from skipstone.runtime.decoding import ModelDrafter, Round
from skipstone.runtime.engine import Model
from skipstone.runtime.methods import AGREEMENTS
from skipstone.runtime.methods.depth import (
    Counts,
    Exit,
    ExitPolicy,
    ExitThresholds,
    GatedExit,
    MidpointStop,
    SelfDrafter,
    calibrate,
    decode_early,
    depth_logits,
    exits_for,
)
from skipstone.runtime.sampling import Likeliest, Sampler

PROMPT_TOKENS, NEW_TOKENS = 96, 128
AGREEMENT = 0.98


@dataclass
class Recorded:
    """One greedy text: its prompt, what follows, and logits [N, V] of each exit for the tokens that follow."""

    prompt: list[int]
    token_ids: list[int]
    logits: dict[int, NDArray[np.float32]]


def record(model: LanguageModel, text: str, count: int) -> list[Recorded]:
    """Return what the exits say along greedy texts behind `count` pieces of a text."""
    token_ids, found = model.encode(text), []
    for start in np.linspace(0, len(token_ids) - PROMPT_TOKENS, count).astype(int):
        prompt = token_ids[start : start + PROMPT_TOKENS]
        new = list(model.generate(model.runtime.tokenizer.decode(prompt), max_new_tokens=NEW_TOKENS).token_ids)
        prompt = model.encode(model.runtime.tokenizer.decode(prompt))
        pieces = list(depth_logits(model.runtime, [*prompt, *new]))
        rows = slice(len(prompt) - 1, -1)
        logits = {depth: np.concatenate([piece[depth] for piece in pieces])[rows] for depth in pieces[0]}
        full = logits.pop(max(logits)).argmax(axis=1)
        found.append(Recorded(prompt, [int(token_id) for token_id in full], logits))
    return found


class RecordedExit:
    """Stands for an exit: gives what the small model's said at a place, and takes as long as the large model's.

    Behind a wrong guess it says what was said behind the right token: such guesses are lost in any case.
    """

    def __init__(self, text: Recorded, depth: int, guess_s: float) -> None:
        self._text, self._depth, self.guess_s = text, depth, guess_s
        self.token_ids: list[int] = []
        self.num_asked = 0

    def follow(self, history: Sequence[int]) -> int:
        self.token_ids, self.num_asked = [*history], 0
        return len(self._text.prompt) + len(self._text.token_ids) - len(history)

    def logits(self) -> NDArray[np.float32]:
        self.num_asked += 1
        return self._text.logits[self._depth][len(self.token_ids) - len(self._text.prompt)][None]

    def take(self, token_id: int) -> None:
        self.token_ids.append(token_id)


class Clock:
    """What the calls of the large model take; exits of the small one count by their share of the depth."""

    def __init__(self, times: CallTimes, depths: Sequence[int]) -> None:
        self._times = times
        self.exits = dict(zip(sorted(depths), sorted(times.exits), strict=True))

    def guess_s(self, depth: int) -> float:
        return self._times.peek[self.exits[depth]]

    def verify_s(self, depth: int | None, num_guesses: int, num_asked: int) -> float:
        """Return the call that verifies: the first stages have seen what was asked, at most all of its rows."""
        if depth is None or not num_asked:
            return float(np.interp(1 + num_guesses, *zip(*self._times.plain.items(), strict=True)))
        kind = self._times.late if num_asked > num_guesses else self._times.verify
        known = {rows: spent for (layers, rows), spent in kind.items() if layers == self.exits[depth]}
        return float(np.interp(num_guesses, *zip(*known.items(), strict=True)))


def self_speed(texts: Sequence[Recorded], clock: Clock, num_layers: int) -> tuple[float, float, float, float]:
    """Return, of all texts drafted by `self`: times plain, tokens a call, share accepted, tokens a call expected.

    What is expected is DEL's: each guess stands with the chance that its exit has shown so far.
    """
    spent = plain = expected = 0.0
    num_calls = num_drafted = num_accepted = 0
    for text in texts:
        exits, asked = {}, {}
        for depth in clock.exits:
            recorded = RecordedExit(text, depth, clock.guess_s(depth))
            asked[depth] = recorded
            picker, share = Likeliest(Sampler(greedy=True)), depth / num_layers
            drafter = ModelDrafter(recorded, picker, name="self", stop=MidpointStop())
            exits[depth] = Exit(
                num_layers=depth, num_stages=1, share=share, guess_share=share, text=recorded, judge=drafter
            )
        drafter, history, place = SelfDrafter([*exits.values()]), [*text.prompt, text.token_ids[0]], 1
        while place < len(text.token_ids):
            for one in asked.values():
                one.num_asked = 0
            draft = drafter.propose(history, limit=len(text.token_ids) - place - 1)
            used = next((depth for depth, one in asked.items() if one.num_asked), None)
            expected += expected_tokens(exits[used].counts, len(draft)) if used else 1.0
            num_asked = asked[used].num_asked if used else 0
            right = 0
            while right < len(draft) and draft.token_ids[right] == text.token_ids[place + right]:
                right += 1
            came = text.token_ids[place : place + right + 1]
            call_s = clock.verify_s(used, len(draft), num_asked)
            spent += call_s + (num_asked * clock.guess_s(used) if used else 0.0)
            plain += len(came) * clock.verify_s(None, 0, 0)
            no_logits = np.zeros((0, 0), np.float32)
            num_peeked = min(num_asked, 1 + len(draft))
            drafter.observe(Round(draft, history[-1], came, [*range(right + 1)], no_logits, call_s, num_peeked))
            history += came
            place += len(came)
            num_calls, num_drafted, num_accepted = num_calls + 1, num_drafted + len(draft), num_accepted + right
    num_tokens = num_calls + num_accepted
    return plain / spent, num_tokens / num_calls, num_accepted / max(num_drafted, 1), expected / num_calls


def expected_tokens(counts: Counts, num_guesses: int) -> float:
    """Return the tokens that a round is expected to give, with one guess of each kind before any was seen."""
    chance = (counts.hits + 1) / (counts.hits + counts.misses + 2)
    return sum(chance**length for length in range(1 + num_guesses))


def exit_speeds(
    model: Model, texts: Sequence[Recorded], calibration: ExitThresholds, clock: Clock
) -> list[tuple[int, float, float, float]]:
    """Return, by exit: its depth in the large model, the share that leaves, the agreement, and times plain.

    The loosest level of the calibration at which what the small model then writes is its own choice on 98 % of tokens.
    """
    found = []
    for depth in clock.exits:
        best = None
        for level in sorted(AGREEMENTS, reverse=True):
            used = [one for one in exits_for(model, calibration, level) if one.num_layers == depth]
            leaves, agrees = zip(*(written(model, text.prompt, used) for text in texts), strict=True)
            agreement = float(np.concatenate(agrees).mean())
            if agreement < AGREEMENT:
                break
            spent = sum(leaving_s(clock, depth, one) for one in leaves)
            plain = sum(map(len, leaves)) * clock.verify_s(None, 0, 0)
            best = clock.exits[depth], float(np.concatenate(leaves).mean()), agreement, plain / spent
        if best is not None:
            found.append(best)
    return found


def written(model: Model, prompt: list[int], used: list[GatedExit]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return, of each token that is written with an exit: whether it left there, and whether it is the full choice."""
    sequence, num_layers = model.new_sequence(), model.manifest.dimensions.num_layers
    sequence.append(prompt)
    policy, choose = ExitPolicy(used, None, num_layers=num_layers), Sampler(greedy=True).choose
    steps = decode_early(sequence, policy=policy, choose=choose, max_new_tokens=NEW_TOKENS, stop_ids=())
    leaves = np.array([step.depth != num_layers for step in steps])
    new = sequence.token_ids[len(prompt) :]
    pieces = [piece[num_layers] for piece in depth_logits(model, sequence.token_ids)]
    return leaves, np.concatenate(pieces)[len(prompt) - 1 : -1].argmax(axis=1) == new


def leaving_s(clock: Clock, depth: int, leaves: NDArray[np.bool_]) -> float:
    """Return what one text takes on the large model: every token asks the exit, the others feed what waits."""
    spent, waiting = 0.0, 0
    for leave in leaves:
        spent += clock.guess_s(depth)
        if leave and waiting < MOST_BEHIND:
            waiting += 1
        else:
            spent, waiting = spent + clock.verify_s(depth, waiting, waiting + 1), 0
    return spent


def judged(texts: Sequence[Recorded], depth: int) -> float:
    """Return how often an exit chooses, along texts, what came."""
    same = [text.logits[depth].argmax(axis=1) == text.token_ids for text in texts]
    return float(np.concatenate(same).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("small")
    parser.add_argument("big")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--calibrate", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    clock_times = measure(Model.open(options.big), options.rounds)
    small = LanguageModel(Model.open(options.small))
    texts = record(small, options.text.read_text(encoding="utf-8"), options.texts)
    clock = Clock(clock_times, list(texts[0].logits))
    num_tokens = sum(len(text.token_ids) for text in texts)
    print(f"projection: the exits of {options.small} along {num_tokens} tokens, the clock of {options.big}")
    for depth, layers in clock.exits.items():
        print(f"exit after {layers} layers: alone as the full model on {judged(texts, depth):.1%} of tokens")
    times, per_call, accepted, expected = self_speed(texts, clock, small.runtime.manifest.dimensions.num_layers)
    print(f"self: {times:.2f} x plain, {per_call:.2f} tokens a call (expected {expected:.2f}), {accepted:.0%} accepted")
    calibration = calibrate(small.runtime, [options.calibrate.read_text(encoding="utf-8")])
    for layers, share, agreement, times in exit_speeds(small.runtime, texts, calibration, clock):
        print(f"exit after {layers} layers: {share:.0%} leave, {agreement:.2%} agree, {times:.2f} x plain")


if __name__ == "__main__":
    main()
