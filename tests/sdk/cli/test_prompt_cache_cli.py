"""`--prompt-cache` and its twins in Python: a prompt's beginning is computed once, and texts stay as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import CommandLine
from conftest import MakeBundle, MakeCheckpoint

from skipstone.api import load
from skipstone.errors import BundleError, ConfigError
from skipstone.language_model import LanguageModel

RULES = "Answer each question in one word, and never in two. " * 2
QUESTION, OTHER = "def add(first):", "return first + second"


@pytest.fixture(scope="module")
def bundle(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Path:
    return make_bundle(make_checkpoint(max_position_embeddings=1024), precision="int4")


@pytest.fixture(scope="module")
def loaded(bundle: Path) -> LanguageModel:
    return load(bundle)


def test_the_second_run_reads_what_the_first_has_kept(cli: CommandLine, bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "rules.cache"
    arguments = ("generate", bundle, "-n", "8", "--exact", "-p")
    plain = [cli(*arguments, RULES + end) for end in (QUESTION, OTHER)]
    cached = [cli(*arguments, RULES + end, "--prompt-cache", file) for end in (QUESTION, OTHER)]
    assert [outcome.out for outcome in cached] == [outcome.out for outcome in plain]
    assert f"tokens kept in {file}, " in cached[0].err
    assert "tokens read from" not in cached[0].err
    assert f"tokens read from {file}" in cached[1].err
    assert "kept" not in cached[1].err, "the prompt goes on by less than 256 tokens"


def test_json_has_the_same_text(cli: CommandLine, bundle: Path, tmp_path: Path) -> None:
    arguments = ("generate", bundle, "-n", "8", "--json", "-p", RULES, "--prompt-cache", tmp_path / "rules.cache")
    texts = [json.loads(cli(*arguments).out)["text"] for _ in range(2)]
    assert texts[0] == texts[1]


def test_a_wrong_file_is_refused_in_one_line(cli: CommandLine, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    outcome = cli("generate", bundle, "-p", RULES, "--prompt-cache", tmp_path / "notes.txt")
    assert outcome.code == 2
    assert outcome.err.strip().endswith("notes.txt is no prompt cache; name another file")
    assert (tmp_path / "notes.txt").read_text() == "notes"


def test_samples_take_no_prompt_cache(cli: CommandLine, bundle: Path, tmp_path: Path) -> None:
    outcome = cli("generate", bundle, "-p", "a", "--samples", "2", "--prompt-cache", tmp_path / "file")
    assert outcome.code == 2
    assert "--prompt-cache is for one text" in outcome.err


def test_a_chat_reads_what_stands_before_its_first_turn(cli: CommandLine, bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "rules.cache"
    arguments = ("chat", bundle, "--sampling", "greedy", "-n", "4", "--system", RULES)
    plain = cli(*arguments, stdin="one\ntwo\n")
    talks = [cli(*arguments, "--prompt-cache", file, stdin="one\ntwo\n") for _ in range(2)]
    assert [talk.out for talk in talks] == [plain.out] * 2
    assert talks[0].err.count("tokens kept in") == 1
    assert talks[1].err.count("tokens read from") == 1


def test_the_file_is_renewed_for_a_prompt_that_goes_on_by_256_tokens(loaded: LanguageModel, tmp_path: Path) -> None:
    file, prompt = tmp_path / "file", RULES + QUESTION
    options = {"max_new_tokens": 4, "exact": True}
    loaded.generate(prompt, prompt_cache=file, **options)
    size = file.stat().st_size
    loaded.generate(prompt + " and" * 20, prompt_cache=file, **options)
    assert file.stat().st_size == size
    longer = prompt + " and on and on" * 40
    assert len(loaded.encode(longer)) - len(loaded.encode(prompt)) > 256
    loaded.generate(longer, prompt_cache=file, **options)
    assert file.stat().st_size > size
    cache = loaded.prompt_cache(file)
    text = loaded.generate(longer, prompt_cache=cache, **options)
    assert cache.num_read == len(loaded.encode(longer)) - 2
    assert text.text == loaded.generate(longer, **options).text


@pytest.mark.parametrize("decode", ["plain", "ngram", "auto"])
@pytest.mark.parametrize("complete_words", [False, True])
def test_a_saved_prefix_serves_many_texts(
    loaded: LanguageModel, tmp_path: Path, decode: str, complete_words: bool
) -> None:
    file = tmp_path / "file"
    assert loaded.save_prefix(file, RULES) == file.stat().st_size
    prefix = loaded.load_prefix(file)
    for end in (QUESTION, OTHER, "x" * 600):
        options = {"max_new_tokens": 8, "decode": decode, "complete_words": complete_words}
        text, plain = (loaded.generate(RULES + end, prompt_cache=cache, **options) for cache in (prefix, None))
        assert (text.text, text.token_ids) == (plain.text, plain.token_ids)
        assert complete_words or prefix.num_read > 50
    assert prefix.num_kept == 0, "a loaded prefix is only read"


def test_a_file_that_is_missing_or_for_several_prompts_is_refused(loaded: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        loaded.load_prefix(tmp_path / "missing")
    with pytest.raises(ConfigError, match="one prompt"):
        loaded.generate(["a", "b"], prompt_cache=tmp_path / "file")
    with pytest.raises(ConfigError, match="longer prompt"):
        loaded.save_prefix(tmp_path / "file", "a")


def test_an_empty_file_is_filled(loaded: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    loaded.generate(RULES, prompt_cache=tmp_path / "file", max_new_tokens=2)
    assert loaded.load_prefix(tmp_path / "file").renews is False


@pytest.mark.parametrize("decode", ["self", "skipdecode", "momentum"])
def test_methods_that_leave_layers_out_keep_and_read_whole_rows_only(
    tiny_checkpoint: Path, make_bundle: MakeBundle, tmp_path: Path, decode: str
) -> None:
    model, file = load(make_bundle(tiny_checkpoint, exits="auto", precision="int4")), tmp_path / "file"
    dial = {} if decode == "self" else {"dial": 0.9}
    options = {"decode": decode, "max_new_tokens": 8, **dial}
    plain = [model.generate(RULES + end, **options) for end in (QUESTION, OTHER)]
    for _ in range(2):
        texts = [model.generate(RULES + end, prompt_cache=file, **options) for end in (QUESTION, OTHER)]
        assert [text.token_ids for text in texts] == [text.token_ids for text in plain]
    whole = [model.generate(RULES + end, max_new_tokens=8) for end in (QUESTION, OTHER)]
    texts = [model.generate(RULES + end, prompt_cache=file, max_new_tokens=8) for end in (QUESTION, OTHER)]
    assert [text.token_ids for text in texts] == [text.token_ids for text in whole]


def test_what_is_no_path_or_of_another_model_is_refused(loaded: LanguageModel, bundle: Path, tmp_path: Path) -> None:
    loaded.save_prefix(tmp_path / "file", RULES)
    with pytest.raises(ConfigError, match="another model's"):
        loaded.generate(RULES, prompt_cache=load(bundle).load_prefix(tmp_path / "file"))
    with pytest.raises(ConfigError, match="prompt_cache must be a path"):
        loaded.chat(prompt_cache=5)  # type: ignore[arg-type]
    with pytest.raises(BundleError, match="cannot be read: Is a directory"):
        loaded.generate(RULES, prompt_cache=tmp_path)
