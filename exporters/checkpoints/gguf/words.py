"""How a byte-level vocabulary cuts text into words, by the name that a GGUF file gives.

Source: the table in llama-vocab.cpp of llama.cpp, with the expressions of the original tokenizers beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from skipstone.exporters.checkpoints.tokenizer import GPT2_SPLIT, QWEN2_SPLIT

__all__ = ["WORDS", "Words"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """How one kind of byte-level vocabulary cuts text into words, and what it does where the file does not say."""

    splits: tuple[str, ...] = (GPT2_SPLIT,)
    nfc: bool = False
    ignore_merges: bool = False
    add_bos: bool = False


_CONTRACTION: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LINES: Final = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SIGNS: Final = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_LLAMA3_SPLIT: Final = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_SIGNS}|{_LINES}"
_QWEN35_SPLIT: Final = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_LINES}"
)
_SEED_SPLIT: Final = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_LINES}"
_MINICPM5_SPLIT: Final = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}+|{_SIGNS}|{_LINES}"
_JAIS2_SPACES: Final = "".join(rf"|\s{{{size}}}(?!\S)" for size in (512, 256, 128, 64, 32, 16, 8, 4))
_JAIS2_SPLIT: Final = _LLAMA3_SPLIT.removesuffix(r"|\s+(?!\S)|\s+") + _JAIS2_SPACES + r"|\s{1,2}(?!\S)|\s{1}"

_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_MARKS: Final = rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_LINES}"
_CASED: Final = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")
_TEKKEN_SPLIT: Final = rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}{_MARKS}"
_GPT4O_SPLIT: Final = rf"{_CASED[0]}{_CONTRACTION}?|{_CASED[1]}{_CONTRACTION}?|\p{{N}}{{1,3}}{_MARKS}"

_DEFAULT_SPLITS: Final = (r"[\p{P}$+<=>^~|]+", GPT2_SPLIT, r"\p{N}+", r"[0-9][0-9][0-9]")
_FALCON_SPLITS: Final = (r"[\p{P}$+<=>^~|`]+", GPT2_SPLIT, r"[0-9][0-9][0-9]")
_VIKING_SPLITS: Final = (r" ?[^(\s|.,!?…。，、।۔،)]+", r"\p{N}")
_CJK: Final = "[一-龥ࠀ-一가-퟿]+"
_DEEPSEEK_CODER_SPLITS: Final = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}")
_DEEPSEEK_V3_SPLITS: Final = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_LINES}",
)
_DEEPSEEK_LLM_SPLITS: Final = (
    r"[\r\n]",
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\x{1F7D}ᾀ-ᾴᾶ-ᾼ\x{1FBE}ῂ-ῄῆ-ῌ"
    r"ῐ-\x{1FD3}ῖ-\x{1FDB}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\x{2126}ℨ\x{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
    r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
    r"\s+$",
    _CJK,
    r"\p{N}+",
)

_GPT2: Final = Words()
_LLAMA3: Final = Words(splits=(_LLAMA3_SPLIT,), ignore_merges=True, add_bos=True)
_EACH_DIGIT: Final = Words(splits=(r"\p{N}", GPT2_SPLIT))
_QWEN2: Final = Words(splits=(QWEN2_SPLIT,))
_GPT4O: Final = Words(splits=(_GPT4O_SPLIT,))
_DEEPSEEK_V3: Final = Words(splits=_DEEPSEEK_V3_SPLITS)

WORDS: Final[Mapping[str, Words]] = {
    "default": Words(splits=_DEFAULT_SPLITS),
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "jais", "granite-docling", "gigachat", "a.x-4.0", "mellum"), _GPT2),
    **dict.fromkeys(("exaone4", "trillion", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "modern-bert"), _GPT2),
    "olmo": Words(nfc=True),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral"), _LLAMA3),
    **dict.fromkeys(("midm-2.0", "lfm2", "jina-v5-nano"), _LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), Words(splits=(_LLAMA3_SPLIT,))),
    "jais-2": Words(splits=(_JAIS2_SPLIT,)),
    "minicpm5": Words(splits=(r"\p{N}{1,3}", _MINICPM5_SPLIT), ignore_merges=True),
    "qwen2": Words(splits=(QWEN2_SPLIT,), nfc=True),
    "qwen35": Words(splits=(_QWEN35_SPLIT,), nfc=True),
    **dict.fromkeys(("deepseek-r1-qwen", "megrez", "stablelm2", "kormo", "f2llmv2", "hunyuan", "grok-2"), _QWEN2),
    "solar-open": _QWEN2,
    "seed-coder": Words(splits=(_SEED_SPLIT,)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "codeshell", "minerva-7b", "command-r"), _EACH_DIGIT),
    **dict.fromkeys(("exaone", "mellum2"), _EACH_DIGIT),
    "tekken": Words(splits=(_TEKKEN_SPLIT,), ignore_merges=True, add_bos=True),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"), _GPT4O),
    "falcon": Words(splits=_FALCON_SPLITS),
    "viking": Words(splits=_VIKING_SPLITS),
    "deepseek-llm": Words(splits=_DEEPSEEK_LLM_SPLITS),
    "deepseek-coder": Words(splits=_DEEPSEEK_CODER_SPLITS),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"), _DEEPSEEK_V3),
}
"""By `tokenizer.ggml.pre`."""
