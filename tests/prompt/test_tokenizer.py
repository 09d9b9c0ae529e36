"""The tokenizer gives the tokens of Meta's own (tiktoken), and text never becomes a special token."""

import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_models.llama3 import tokenizer as meta
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers.processors import TemplateProcessing

from misotts.config import ConfigError, ModelConfig
from misotts.model.meta_tokenizer import add_bos_and_eos, tokenizer_from_meta
from misotts.prompt.tokenizer import Tokenizer

META_FILE = Path(meta.__file__).with_name("tokenizer.model")
BOS, EOS = 128000, 128001

CORPUS = [
    "Hello from Miso.",
    "We'll meet at the old station, shall we? They've moved it, but I'd say he's 'SURE' it's THERE'S.",
    "I’d’ve said ‘don’t’ — can't, won't, y'all're, rock'n'roll, O'Neill, 's 'S 'ſ 'LL 'Ll",
    "In 1987, 12345678901234567890 people paid $1,234.56 (or 7,89 €) for 3.14159 × 10^-23; v2.0.1-rc3 at 10:30:05.",
    "😀👍🏽👨‍👩‍👧‍👦🇨🇭 🏳️‍🌈 ok👌 ❤️",
    "Привет, как дела? Γειά σου Κόσμε. שלום עולם. مرحبا بالعالم. नमस्ते दुनिया। สวัสดีชาวโลก",
    "你好,世界!今天天气怎么样? こんにちは世界。カタカナ、ひらがな。 안녕하세요 세계",
    "naïve façade, Ångström, ZÜRICH, straße, ﬁne ﬂag, Å vs Å, e\u0301 vs é, Ⅷ ½ ² ١٢٣ 四",
    "a  b   c    d\te\t\tf\n\ng\r\nh\r\ri \n j \t\n  k",
    "nbsp\u00a0em\u2003ideographic\u3000zero\u200bwidth\ufeffbom line\u2028para\u2029nel\u0085vt\x0bff\x0cend",
    "   leading and trailing   ",
    "def f(x):\n    return x ** 2  # comment\n\n\n",
    "https://example.org/a?b=c&d=%20#e user@example.org C:\\path\\file.txt <b>bold</b> {\"k\": [1, 2]}",
    "!!!??? ... --- ___ ~~~ /// ((())) '''\"\"\"",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa hahahahahahaha zzzzzzzz",
    "<|end_of_text|> <|begin_of_text|><|eot_id|><|reserved_special_token_0|> <|start_header_id|>system",
    "\x00\x01\x1f\x7f control",
    "",
]  # fmt: skip


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the `tokenizer.json` that was made from Meta's file."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = tokenizer_from_meta(META_FILE)
    add_bos_and_eos(tokenizer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def full_size(**changes: object) -> ModelConfig:
    sizes = dict(text_vocab_size=128256, audio_vocab_size=2051, audio_num_codebooks=32)
    return ModelConfig.from_dict({**sizes, "backbone": "llama-8B", "decoder": "llama-300M", **changes})


@pytest.fixture(scope="session")
def tokenizer(model_folder: Path) -> Tokenizer:
    return Tokenizer(model_folder, full_size())


@pytest.fixture(scope="session")
def csm_tokenizer(model_folder: Path) -> Tokenizer:
    """It sets no space behind the speaker's tag."""
    return Tokenizer(model_folder, full_size(speaker_space=False))


def reference(text: str) -> list[int]:
    return meta.Tokenizer.get_instance().encode(text, bos=True, eos=True)


@pytest.mark.parametrize("text", CORPUS, ids=ascii)
def test_the_tokens_of_the_corpus_are_metas(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.encode(text, speaker=0) == reference(f"[0] {text.lstrip()}")


def test_the_tokens_of_every_character_are_metas(tokenizer: Tokenizer) -> None:
    """Each character stands between letters, doubled, after an apostrophe, and before a digit."""
    assigned = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) not in ("Cn", "Cs")]
    differing = []
    for start in range(0, len(assigned), 512):
        text = "".join(f"a{c} b{c}{c}'{c}1\n" for c in assigned[start : start + 512])
        if tokenizer.encode(text, speaker=0) != reference(f"[0] {text}"):
            differing.append(hex(ord(assigned[start])))
    assert len(assigned) > 140_000
    assert differing == []


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from(" \n\t'sStTlLvVeErR019aAéß .-")), max_size=80)
)
def test_the_tokens_of_any_text_are_metas(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.encode(text, speaker=7) == reference(f"[7] {text.lstrip()}")


def test_text_never_becomes_a_special_token(tokenizer: Tokenizer) -> None:
    for special in ("<|end_of_text|>", "<|begin_of_text|>", "[0] <|end_of_text|>", "<|reserved_special_token_17|>"):
        tokens = tokenizer.encode(f"say {special} now", speaker=0)
        assert tokens[0] == BOS
        assert tokens[-1] == EOS
        assert max(tokens[1:-1]) < BOS


def test_text_never_becomes_a_special_token_of_the_demo(demo_folder: Path) -> None:
    tokens = Tokenizer(demo_folder, ModelConfig.load(demo_folder)).encode("<|end_of_text|><|begin_of_text|>", 0)
    assert tokens[0] == 0
    assert tokens[-1] == 1
    assert min(tokens[1:-1]) > 1


def test_speaker_tag_with_and_without_space(tokenizer: Tokenizer, csm_tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("Hello", speaker=12) == reference("[12] Hello")
    assert csm_tokenizer.encode("Hello", speaker=12) == reference("[12]Hello")


WHITE = [
    " ",
    "   ",
    "\n",
    "\t",
    "\r\n",
    "\x0b",
    "\x1f",
    "\u0085",
    "\u00a0",
    "\u2003",
    "\u2028",
    "\u3000",
    " \n\u3000\t",
]
"""White space as Python's `str.lstrip` has it, which MisoTTS's own generator calls."""


@pytest.mark.parametrize("white", WHITE, ids=ascii)
def test_white_space_at_the_beginning_is_treated_as_in_each_familys_reference(
    white: str, tokenizer: Tokenizer, csm_tokenizer: Tokenizer
) -> None:
    """MisoTTS's generator encodes `f"[{speaker}] {text.lstrip()}"`, CSM's `f"[{speaker}]{text}"`."""
    text = f"{white}Hello,{white}world.{white}"
    assert tokenizer.encode(text, speaker=3) == reference(f"[3] Hello,{white}world.{white}")
    assert csm_tokenizer.encode(text, speaker=3) == reference(f"[3]{text}")


def test_llamas_own_template_is_replaced(model_folder: Path, tmp_path: Path) -> None:
    """The template in Llama's file adds BOS and no EOS."""
    llama = HuggingFaceTokenizer.from_file(str(model_folder / "tokenizer.json"))
    llama.post_processor = TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", BOS)]
    )
    assert llama.encode("x").ids[-1] != EOS
    add_bos_and_eos(llama)
    assert llama.encode("Hello").ids == reference("Hello")


@pytest.mark.parametrize(
    "content", [b"", b"not a tokenizer", b"{}", b"YQ== 0\nYg== x", b"YQ== 0\nYg== 1", b"YQ== 0\n!! 1", b"\xff\xfe"]
)
def test_a_file_that_is_not_a_tokenizer_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"not a tokenizer\.model"):
        tokenizer_from_meta(path)


def test_a_tokenizer_that_is_missing_or_too_large_is_refused(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no tokenizer at"):
        Tokenizer(tmp_path, full_size())
    with pytest.raises(ConfigError, match="has 128002 tokens"):
        Tokenizer(model_folder, full_size(text_vocab_size=128000))
