"""Tokenizers from older files: the ids are those of sentencepiece and of transformers, and damage is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
import transformers
from hypothesis import assume, given
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2
from tiny_tokenizers import END, byte_level_files, made, trained

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.checkpoints import open_checkpoint
from skipstone.exporters.checkpoints.tokenizer import byte_level_bpe
from skipstone.exporters.checkpoints.tokenizer import files as tokenizer_files
from skipstone.exporters.checkpoints.tokenizer.sentencepiece import SentencePieceModel
from skipstone.runtime.text import Tokenizer

NAMES = ("<s>", "</s>", "<unk>", "<pad>", "<ud>", END)
letters = st.sampled_from(
    [*"abcdefhotuxüï€ерснг雪0145, \t\n▁<>éф🦊", "  ", "the", " fox", "<0x41>", "e\u0301", "👩\u200d🚒"]
)
texts = st.one_of(
    st.lists(letters, max_size=12).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
).filter(lambda text: not any(name in text for name in NAMES))


def changed(data: bytes, change: Callable[[Any], None]) -> bytes:
    message = sentencepiece_model_pb2.ModelProto.FromString(data)
    change(message)
    return bytes(message.SerializeToString())


def write(folder: Path, **files: object) -> Path:
    """Write files by their names, `__` for the point: bytes and texts as they are, anything else as JSON."""
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder


def built(folder: Path, config: Mapping[str, Any] | None = None) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(tokenizer_files.build(folder, config or {}).decode())


# SentencePiece


@pytest.mark.parametrize("squeeze", [False, True], ids=["spaces as they are", "spaces squeezed"])
@pytest.mark.parametrize("prefix", [False, True], ids=["no prefix", "prefix"])
@pytest.mark.parametrize("byte_fallback", [False, True], ids=["unknown", "bytes"])
@given(text=texts)
def test_bpe_gives_the_ids_of_sentencepiece(byte_fallback: bool, prefix: bool, squeeze: bool, text: str) -> None:
    data = trained(byte_fallback=byte_fallback, add_dummy_prefix=prefix, remove_extra_whitespaces=squeeze)
    assert made_once(data).encode(text).ids == reference(data).encode(text)


@pytest.mark.parametrize("squeeze", [False, True], ids=["spaces as they are", "spaces squeezed"])
@pytest.mark.parametrize("prefix", [False, True], ids=["no prefix", "prefix"])
@pytest.mark.parametrize("byte_fallback", [False, True], ids=["unknown", "bytes"])
@given(text=texts)
def test_unigram_gives_the_ids_of_sentencepiece_or_others_as_likely(
    byte_fallback: bool, prefix: bool, squeeze: bool, text: str
) -> None:
    data = trained("unigram", byte_fallback=byte_fallback, add_dummy_prefix=prefix, remove_extra_whitespaces=squeeze)
    ours, theirs = made_once(data).encode(text).ids, reference(data).encode(text)
    if ours != theirs:  # both are sums of rounded numbers
        score = reference(data).get_score
        assert sum(map(score, ours)) == pytest.approx(sum(map(score, theirs)), abs=1e-4)


@cache
def made_once(data: bytes) -> tokenizers.Tokenizer:
    return made(data)


@cache
def reference(data: bytes) -> Any:
    return sentencepiece.SentencePieceProcessor(model_proto=data)


@given(st.lists(st.sampled_from([*"abeht0 \t\n▁ＡＢ１①ﬁⅷ…½é㎞\u3000\u00a0"]), max_size=12).map("".join))
def test_characters_are_replaced_as_the_file_says(text: str) -> None:
    data = trained(normalization_rule_name="nmt_nfkc", remove_extra_whitespaces=True)
    assert made_once(data).encode(text).ids == reference(data).encode(text)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@given(parts=st.lists(st.sampled_from(["<ud>", "\t\t", "a", " ", "the", "▁", "\t", "fox"]), max_size=8))
def test_pieces_that_the_user_defined_are_never_cut(kind: str, parts: list[str]) -> None:
    data = trained(kind, user_defined_symbols=("<ud>", "\t\t"), add_dummy_prefix=False)
    text = "".join(parts)
    assume("\t\t\t" not in text)  # Unigram takes the pair of three that its rounding prefers
    assert made_once(data).encode(text).ids == reference(data).encode(text)


@given(st.lists(st.sampled_from(["a", " ", "  ", "▁", "the", "\n"]), max_size=12).map("".join))
def test_runs_of_spaces_that_are_pieces_are_taken_whole(text: str) -> None:
    runs = tuple("▁" * length for length in range(2, 6))
    data = trained(user_defined_symbols=runs, add_dummy_prefix=False)
    assert made_once(data).encode(text).ids == reference(data).encode(text)


@given(st.text("a\t b", max_size=10))
def test_letters_that_are_no_pieces_still_merge(text: str) -> None:
    def without_tab(message: Any) -> None:
        (tab,) = (piece for piece in message.pieces if piece.piece == "\t")
        tab.piece, tab.score = "\t\t", 1.0

    data = changed(trained(character_coverage=1.0), without_tab)
    assert made_once(data).encode(text).ids == reference(data).encode(text)


@given(texts)
def test_unused_pieces_of_bpe_are_not_used(text: str) -> None:
    def without_last_merge(message: Any) -> None:
        merged = [piece for piece in message.pieces if piece.type == 1 and len(piece.piece) > 1]
        merged[-1].type = 5

    data = changed(trained(), without_last_merge)
    assert made_once(data).encode(text).ids == reference(data).encode(text)


@given(texts)
def test_a_model_that_writes_spaces_as_spaces_gives_the_same_ids(text: str) -> None:
    def unescape(message: Any) -> None:
        message.normalizer_spec.escape_whitespaces = False
        for piece in message.pieces:
            piece.piece = piece.piece.replace("▁", " ")

    assume("▁" not in text)
    data = changed(trained(), unescape)
    assert made_once(data).encode(text).ids == reference(data).encode(text)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@given(text=texts)
def test_decoding_gives_the_text_back(kind: str, text: str) -> None:
    tokenizer = made_once(trained(kind))
    assert tokenizer.decode(tokenizer.encode(text).ids) == text.replace("▁", " ")


def test_control_pieces_are_special_and_user_defined_ones_are_only_added() -> None:
    tokenizer = Tokenizer(made(trained(user_defined_symbols=("<ud>",))))
    assert {tokenizer.piece(token_id) for token_id in tokenizer.special_ids} == {"<unk>", "<s>", "</s>"}
    assert tokenizer.decode(tokenizer.encode("the<s> fox<ud>")) == "the fox<ud>"


@pytest.mark.parametrize("kind", ["word", "char"])
def test_other_algorithms_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    data = trained(kind, byte_fallback=False, vocab_size=40)
    with pytest.raises(UnsupportedModel, match=rf"tokenizer\.model: it is a SentencePiece {kind.title()} model; BPE"):
        built(write(tmp_path, tokenizer__model=data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: setattr(model.trainer_spec, "treat_whitespace_as_suffix", True), "treat_whitespace_as_suffix"),
        (lambda model: setattr(model.denormalizer_spec, "precompiled_charsmap", b"x"), "denormalizer_spec"),
        (lambda model: setattr(model.pieces[-1], "type", 5), "Unigram vocabulary has the unused piece"),
    ],
)
def test_rare_options_are_refused_by_name(tmp_path: Path, change: Callable[[Any], None], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        built(write(tmp_path, tokenizer__model=changed(trained("unigram"), change)))


# The files of a SentencePiece checkpoint


def test_the_first_token_goes_before_a_text_unless_the_settings_say_otherwise(tmp_path: Path) -> None:
    write(tmp_path, tokenizer__model=trained())
    assert built(tmp_path).encode("the fox").tokens == ["<s>", "▁the", "▁fox"]
    write(tmp_path, tokenizer_config__json={"add_bos_token": False, "add_eos_token": True})
    assert built(tmp_path).encode("the fox").tokens == ["▁the", "▁fox", "</s>"]
    assert built(tmp_path).encode("the fox", add_special_tokens=False).tokens == ["▁the", "▁fox"]


@pytest.mark.parametrize("bos", ["<ud>", {"content": "<ud>", "lstrip": False, "__type": "AddedToken"}])
def test_the_settings_name_the_first_token_as_a_text_or_as_an_object(tmp_path: Path, bos: object) -> None:
    data = trained(user_defined_symbols=("<ud>",))
    tokenizer = built(write(tmp_path, tokenizer__model=data, tokenizer_config__json={"bos_token": bos}))
    assert tokenizer.encode("fox").tokens == ["<ud>", "▁fox"]
    assert tokenizer.token_to_id("<ud>") in Tokenizer(tokenizer).special_ids


def test_a_vocabulary_without_a_first_token_adds_none(tmp_path: Path) -> None:
    write(tmp_path, tokenizer__model=trained(bos_id=-1), tokenizer_config__json={"add_bos_token": True})
    assert built(tmp_path).encode("fox").tokens == ["▁fox"]


@pytest.mark.parametrize("legacy", [True, False, None], ids=["legacy", "not legacy", "legacy not said"])
@pytest.mark.parametrize("add_prefix_space", [True, False, None])
def test_llama_files_give_the_ids_of_transformers(
    tmp_path: Path, legacy: bool | None, add_prefix_space: bool | None
) -> None:
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "legacy": legacy,
        "add_prefix_space": add_prefix_space,
        "eos_token": "</s>",
        "added_tokens_decoder": {
            "400": {"content": "<|user|>", "special": True, "rstrip": True, "normalized": False},
            "401": {"content": "[tool]", "special": False, "normalized": False},
        },
    }
    config = {name: value for name, value in config.items() if value is not None}
    write(tmp_path, tokenizer__model=trained(), tokenizer_config__json=config)
    theirs = transformers.LlamaTokenizer.from_pretrained(tmp_path)
    ours = built(tmp_path, {"vocab_size": 402})
    for text in ("the fox", "<|user|>  the fox</s>fox [tool]fox", "fox<s>the[tool]the\n", "</s>the"):
        assert ours.encode(text).ids == theirs.encode(text)
        assert ours.decode(ours.encode(text).ids) == theirs.decode(theirs.encode(text), skip_special_tokens=True)


def test_gemma_files_give_the_ids_of_transformers(tmp_path: Path) -> None:
    runs = tuple("▁" * length for length in range(2, 6))
    data = trained(
        add_dummy_prefix=False,
        user_defined_symbols=("<mask>", "\n", "\n\n", *runs),
        control_symbols=("<start_of_turn>",),
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, bos_piece="<bos>", eos_piece="<eos>",
    )  # fmt: skip
    pieces = SentencePieceModel.parse(data).pieces
    decoder = {
        str(token_id): {"content": piece.text, "special": piece.kind == 3, "normalized": False}
        for token_id, piece in enumerate(pieces)
        if piece.kind in (2, 3, 4)
    }
    config = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True, "added_tokens_decoder": decoder}
    write(tmp_path, tokenizer__model=data, tokenizer_config__json=config)
    theirs, ours = transformers.GemmaTokenizer.from_pretrained(tmp_path), built(tmp_path)
    for text in ("the fox", " the  fox", "<start_of_turn>user\nthe fox\n\n<eos>", "a    b     c", "ü🦊"):
        assert ours.encode(text).ids == theirs.encode(text)


def test_the_settings_rename_a_token_in_its_place(tmp_path: Path) -> None:
    data = trained(user_defined_symbols=("<unused0>",))
    decoder = {"3": {"content": "<|tool|>", "special": True}}
    tokenizer = built(write(tmp_path, tokenizer__model=data, tokenizer_config__json={"added_tokens_decoder": decoder}))
    assert tokenizer.encode("the<|tool|>fox").ids[2] == tokenizer.token_to_id("<|tool|>") == 3
    assert tokenizer.token_to_id("<unused0>") is None


def test_tokens_of_added_tokens_json_are_special_where_another_file_names_them(tmp_path: Path) -> None:
    write(
        tmp_path,
        tokenizer__model=trained(),
        added_tokens__json={"[PAD]": 400, "<think>": 401, "<|a|>": 402},
        special_tokens_map__json={"pad_token": "[PAD]", "additional_special_tokens": [{"content": "<|a|>"}]},
    )
    tokenizer = Tokenizer(built(tmp_path))
    assert tokenizer.special_ids == {0, 1, 2, 400, 402}
    assert tokenizer.encode("<think><|a|>", add_special_tokens=False) == [401, 402]


def test_a_named_token_without_an_id_comes_behind_where_the_model_has_a_row_for_it(tmp_path: Path) -> None:
    write(tmp_path, tokenizer__model=trained(), special_tokens_map__json={"pad_token": "[PAD]", "mask_token": "[M]"})
    assert built(tmp_path, {"vocab_size": 401}).token_to_id("[PAD]") == 400
    assert built(tmp_path, {"text_config": {"vocab_size": 401}}).token_to_id("[M]") is None
    assert built(tmp_path, {"vocab_size": 400}).get_vocab_size() == 400


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_everything_about_characters_and_spaces_is_in_the_file(tmp_path: Path, kind: str) -> None:
    data = trained(kind, normalization_rule_name="nmt_nfkc", remove_extra_whitespaces=True)
    write(tmp_path, tokenizer__model=data, tokenizer_config__json={"add_bos_token": False})
    for text in ("  ﬁne  fox \n", "the<0x41>", "", " ", "ü🦊"):
        assert built(tmp_path).encode(text).ids == reference(data).encode(text)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"added_tokens_decoder": {"402": {"content": "<x>"}}}, "'<x>' has the id 402, the next free one is 400"),
        ({"added_tokens_decoder": {"400": {"content": "<s>"}}}, "'<s>' has two ids, 1 and 400"),
        ({"added_tokens_decoder": {"x": {"content": "<s>"}}}, "should go from ids to objects, found 'x'"),
        ({"added_tokens_decoder": ["<s>"]}, "added_tokens_decoder should be an object, found list"),
        ({"bos_token": 3}, "should be a text, found 3"),
        ({"bos_token": {"lstrip": True}}, "should be a text, found {'lstrip': True}"),
        ({"additional_special_tokens": "<s>"}, "additional_special_tokens should be a list, found str"),
        ({"bos_token": "<nowhere>"}, "'<nowhere>' should go around every text, but is no token"),
        ([], "expected a JSON object, found list"),
        ("{", "not valid JSON"),
    ],
)
def test_damaged_settings_are_named(tmp_path: Path, config: object, message: str) -> None:
    write(tmp_path, tokenizer__model=trained(), tokenizer_config__json=config)
    with pytest.raises(CheckpointError, match=message):
        built(tmp_path, {"vocab_size": 400})


@pytest.mark.parametrize("ids", [{"<x>": "400"}, {"<x>": -1}, {"<x>": None}])
def test_damaged_added_tokens_are_named(tmp_path: Path, ids: object) -> None:
    with pytest.raises(CheckpointError, match=r"added_tokens\.json: '<x>' should have an id"):
        built(write(tmp_path, tokenizer__model=trained(), added_tokens__json=ids))


def test_an_unknown_class_says_what_to_do(tmp_path: Path) -> None:
    write(tmp_path, tokenizer__model=trained(), tokenizer_config__json={"tokenizer_class": "T5Tokenizer"})
    with pytest.raises(UnsupportedModel, match=r"T5Tokenizer is not known, LlamaTokenizer, .*save_pretrained"):
        built(tmp_path)


@pytest.mark.parametrize("data", [b"", b"\xff\x00garbage", b"{}", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_damaged_model_is_named(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: "):
        built(write(tmp_path, tokenizer__model=data))


@given(st.data())
def test_a_model_cut_short_or_with_a_changed_byte_reads_or_is_refused(data: st.DataObject) -> None:
    whole = trained(normalization_rule_name="nmt_nfkc", vocab_size=350)
    place = data.draw(st.integers(0, 6000) | st.integers(0, len(whole) - 1))
    damaged = data.draw(st.sampled_from([whole[:place], whole[:place] + b"\xf7" + whole[place + 1 :]]))
    try:
        SentencePieceModel.parse(damaged)
    except CheckpointError as error:
        assert "SentencePiece" in str(error)


@pytest.mark.parametrize("charsmap", [b"x", b"\xff\xff\xff\xff"])
def test_a_damaged_table_of_characters_is_named(tmp_path: Path, charsmap: bytes) -> None:
    data = changed(trained(), lambda model: setattr(model.normalizer_spec, "precompiled_charsmap", charsmap))
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: damaged"):
        built(write(tmp_path, tokenizer__model=data))


# vocab.json and merges.txt


def write_byte_level(folder: Path, **files: object) -> Path:
    vocab, merges = byte_level_files()
    return write(folder, vocab__json=vocab, merges__txt=merges, **files)


CLASSES = ["GPT2Tokenizer", "CodeGenTokenizer", "GPTNeoXTokenizer", "Qwen2Tokenizer"]


@pytest.fixture(scope="module", params=CLASSES)
def byte_level_pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    config = {
        "tokenizer_class": request.param,
        "unk_token": END,
        "pad_token": END,
        "added_tokens_decoder": {
            "0": {"content": END, "special": True, "normalized": False},
            "320": {"content": "<|im_start|>", "special": True, "normalized": False},
            "321": {"content": "<tool>", "special": False, "normalized": False, "lstrip": True},
        },
    }
    folder = write_byte_level(tmp_path_factory.mktemp("folder"), tokenizer_config__json=config)
    return built(folder), getattr(transformers, request.param).from_pretrained(folder)


@given(text=texts)
def test_byte_level_files_give_the_ids_of_transformers(byte_level_pair: tuple[Any, Any], text: str) -> None:
    ours, theirs = byte_level_pair
    for whole in (text, f"{END}{text}<|im_start|>{text} <tool>{text}"):
        assert ours.encode(whole).ids == theirs.encode(whole)
        assert ours.decode(ours.encode(whole).ids) == theirs.decode(theirs.encode(whole), skip_special_tokens=True)


def test_a_folder_without_a_class_has_the_one_of_its_model(tmp_path: Path) -> None:
    write_byte_level(tmp_path)
    gpt2, qwen2 = (built(tmp_path, {"model_type": name}).encode("cafe\u0301").tokens for name in ("gpt2", "qwen2"))
    assert gpt2 != qwen2
    with pytest.raises(UnsupportedModel, match="does not say which tokenizer"):
        built(tmp_path, {"model_type": "mamba"})


def test_an_unknown_byte_level_class_is_refused(tmp_path: Path) -> None:
    write_byte_level(tmp_path, tokenizer_config__json={"tokenizer_class": "RobertaTokenizer"})
    with pytest.raises(UnsupportedModel, match="RobertaTokenizer is not known, GPT2Tokenizer"):
        built(tmp_path, {"model_type": "gpt2"})


def test_a_prefix_space_goes_with_the_split_of_gpt_2_only(tmp_path: Path) -> None:
    write_byte_level(tmp_path, tokenizer_config__json={"add_prefix_space": True})
    assert built(tmp_path, {"model_type": "gpt2"}).encode("fox").tokens == ["Ġfox"]
    with pytest.raises(UnsupportedModel, match="add_prefix_space"):
        built(tmp_path, {"model_type": "qwen2"})


def test_a_byte_level_vocabulary_adds_its_first_token_only_when_told(tmp_path: Path) -> None:
    write_byte_level(tmp_path)
    assert built(tmp_path, {"model_type": "gpt2"}).encode("fox").tokens[0] != END
    write(tmp_path, tokenizer_config__json={"add_bos_token": True})
    assert built(tmp_path, {"model_type": "gpt2"}).encode("fox").ids[0] == 0


def test_the_end_of_text_is_special_though_no_file_says_so(tmp_path: Path) -> None:
    assert Tokenizer(built(write_byte_level(tmp_path), {"model_type": "gpt2"})).special_ids == {0}


def test_merges_with_windows_line_ends_read_the_same(tmp_path: Path) -> None:
    plain = built(write_byte_level(tmp_path), {"model_type": "gpt2"}).to_str()
    write(tmp_path, merges__txt=byte_level_files()[1].replace("\n", "\r\n"))
    assert built(tmp_path, {"model_type": "gpt2"}).to_str() == plain


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("merges__txt", "#version: 0.2\nt h\nthe\n", r"merges\.txt: line 3 should be two tokens .* found 'the'"),
        ("merges__txt", "a b c\n", r"merges\.txt: line 1 should be two tokens"),
        ("merges__txt", "雪 山\n", r"merges\.txt: damaged"),
        ("merges__txt", b"\xff \xfe\n", r"merges\.txt: damaged"),
        ("vocab__json", "[]", r"vocab\.json: expected a JSON object"),
        ("vocab__json", "{}", r"vocab\.json: expected an object from tokens to ids"),
        ("vocab__json", '{"a": "b"}', r"vocab\.json: expected an object from tokens to ids"),
        ("vocab__json", '{"a": 1, "b": 1}', r"vocab\.json: .* each id once"),
        ("vocab__json", '{"a', r"vocab\.json: not valid JSON"),
    ],
)
def test_a_damaged_vocabulary_is_named(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    write_byte_level(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        built(write(tmp_path, **{name: content}), {"model_type": "gpt2"})


@pytest.mark.parametrize("name", ["vocab__json", "merges__txt"])
def test_a_folder_without_a_whole_tokenizer_names_what_was_looked_for(tmp_path: Path, name: str) -> None:
    write(tmp_path, **{name: "{}"})
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json, no tokenizer\.model, and no vocab\.json with merg"):
        built(tmp_path)


@given(texts)
def test_several_splits_cut_one_after_the_other(text: str) -> None:
    vocab, merges = byte_level_files()
    pairs = [(left, right) for left, _, right in (line.partition(" ") for line in merges.split("\n")[1:-1])]
    digits = byte_level_bpe(json.loads(vocab), pairs, splits=(r"\p{N}", r"[^\d]+"))
    assert digits.decode(digits.encode(text).ids) == text
    assert all(len(token) == 1 for token in digits.encode(text).tokens if token[-1:].isdecimal())


# The checkpoint


def test_an_opened_checkpoint_carries_the_tokenizer_that_was_built(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for file in tiny_checkpoint.iterdir():
        if not file.name.startswith(("tokenizer", "special")):
            (tmp_path / file.name).hardlink_to(file)
    write(tmp_path, tokenizer__model=trained())
    texts = open_checkpoint(tmp_path).texts
    assert tokenizers.Tokenizer.from_buffer(texts["tokenizer.json"]).encode("fox").tokens == ["<s>", "▁fox"]


def test_a_tokenizer_json_goes_before_the_older_files(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for file in tiny_checkpoint.iterdir():
        (tmp_path / file.name).hardlink_to(file)
    write(tmp_path, tokenizer__model=b"not read")
    assert open_checkpoint(tmp_path).texts["tokenizer.json"] == (tiny_checkpoint / "tokenizer.json").read_bytes()


def test_the_template_for_tools_is_taken_out_of_its_folder(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for file in tiny_checkpoint.iterdir():
        (tmp_path / file.name).hardlink_to(file)
    (tmp_path / "additional_chat_templates").mkdir()
    write(tmp_path / "additional_chat_templates", tool_use__jinja="tools", rag__jinja="rag")
    assert open_checkpoint(tmp_path).texts["chat_template_tool_use.jinja"] == b"tools"
