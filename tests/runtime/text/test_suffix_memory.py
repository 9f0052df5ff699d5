"""The suffix memory: texts outlive the process in a bounded file that several processes share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

from skipstone.errors import BundleError, OutputError
from skipstone.runtime.text import SuffixMemory
from skipstone.runtime.text.suffix_index import BOUNDARY
from skipstone.runtime.text.suffix_memory import HEADER_BYTES

CAPACITY = 64
TEXT = [11, 12, 13, 14, 15]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "texts.memory"


def opened(file: Path | None, *, vocabulary: str = "words", capacity: int = CAPACITY) -> SuffixMemory:
    return SuffixMemory(capacity=capacity, file=file, vocabulary=vocabulary)


def known(memory: SuffixMemory) -> list[list[int]]:
    """Return the texts in the index, oldest first; of one that has partly fallen out the rest."""
    end = memory.index.end
    texts: list[list[int]] = []
    for number in range(end - memory.index.capacity, end):
        token = memory.index.following(number, 1)
        if not token:
            texts.append([])
        elif texts:
            texts[-1] += token
        else:
            texts.append(token)
    return [text for text in texts if text]


# In memory


def test_texts_are_remembered_one_after_the_other() -> None:
    memory = opened(None)
    for text in (TEXT, [21, 22]):
        memory.add(text)
    assert known(memory) == [TEXT, [21, 22]]


def test_an_empty_text_is_not_worth_a_boundary() -> None:
    memory = opened(None)
    memory.add([])
    assert memory.index.end == opened(None).index.end


def test_no_guess_runs_from_one_text_into_the_next() -> None:
    memory = opened(None)
    memory.add(TEXT)
    memory.add([21, 22])
    assert memory.index.continuation(TEXT[-4:]) is None
    found = memory.index.continuation(TEXT[:4])
    assert found is not None and found.token_id == TEXT[4]


def test_two_threads_may_add_at_once() -> None:
    memory = opened(None, capacity=8192)
    threads = [
        Thread(target=lambda first=first: [memory.add([first] * 4) for _ in range(200)])  # type: ignore[misc]
        for first in (1, 2, 3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(known(memory)) == [[1] * 4] * 200 + [[2] * 4] * 200 + [[3] * 4] * 200


# In a file


def test_what_was_saved_is_found_by_the_next_process(file: Path) -> None:
    first = opened(file)
    first.add(TEXT)
    first.add([21, 22])
    assert known(opened(file)) == [TEXT, [21, 22]]


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "texts.memory"
    opened(file).add(TEXT)
    assert known(opened(file)) == [TEXT]


def test_two_memories_of_one_file_lose_nothing_of_each_other(file: Path) -> None:
    one, other = opened(file), opened(file)
    one.add([1, 1])
    other.add([2, 2])
    one.add([3, 3])
    assert known(opened(file)) == [[1, 1], [2, 2], [3, 3]]


WRITER = """
import sys
from pathlib import Path
from skipstone.runtime.text.suffix_memory import SuffixMemory

memory = SuffixMemory(capacity=int(sys.argv[3]), file=Path(sys.argv[1]), vocabulary="words")
sys.stdin.readline()
for number in range(150):
    memory.add([int(sys.argv[2])] * 5 + [number])
"""


def write_at_once(file: Path, *, capacity: int) -> None:
    """Let two processes add 150 texts each, [writer] * 5 + [number], to one file."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(file), str(writer), str(capacity)], stdin=subprocess.PIPE, text=True
        )
        for writer in (1, 2)
    ]
    for process in writers:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.close()
    assert [process.wait(timeout=60) for process in writers] == [0, 0]


def test_two_processes_that_write_at_once_lose_no_text(file: Path) -> None:
    write_at_once(file, capacity=4096)
    texts = known(opened(file, capacity=4096))
    for writer in (1, 2):
        assert [text for text in texts if text[0] == writer] == [[writer] * 5 + [number] for number in range(150)]


def test_two_processes_that_write_a_full_file_anew_leave_whole_texts(file: Path) -> None:
    write_at_once(file, capacity=256)
    texts = known(opened(file, capacity=256))
    assert len(texts) >= 256 // 7
    for text in texts[1:]:
        assert len(text) == 6 and text[:5] in ([1] * 5, [2] * 5)
    for writer in (1, 2):
        numbers = [text[5] for text in texts[1:] if text[0] == writer]
        assert numbers == [*range(150)][150 - len(numbers) :]


# Its size


def test_the_file_stays_bounded_and_keeps_the_newest_texts(file: Path) -> None:
    memory = opened(file)
    sizes = set()
    for number in range(100):
        memory.add([number] * 7)
        sizes.add(file.stat().st_size)
        newest = [[kept] * 7 for kept in range(number + 1)][-CAPACITY // 8 :]
        assert known(opened(file)) == newest == known(memory)
    assert max(sizes) < HEADER_BYTES + 4 * (2 * CAPACITY + 8)
    assert len(sizes) > CAPACITY // 8, "mostly appended to, not written anew"


@pytest.mark.parametrize("num_before", [0, 1])
def test_of_a_text_longer_than_the_memory_its_end_is_kept(file: Path, num_before: int) -> None:
    memory = opened(file)
    for _ in range(num_before):
        memory.add(TEXT)
    memory.add([*range(10_000)])
    assert file.stat().st_size <= HEADER_BYTES + 4 * 3 * CAPACITY
    assert known(memory) == known(opened(file)) == [[*range(10_000)][-CAPACITY:]]


def test_a_smaller_memory_reads_the_end_of_a_larger_file(file: Path) -> None:
    larger = opened(file, capacity=1024)
    for number in range(100):
        larger.add([number] * 7)
    assert known(opened(file)) == [[number] * 7 for number in range(92, 100)]


# Damage


@pytest.mark.parametrize("torn", [1, 2, 3])
def test_half_a_number_at_the_end_of_the_file_is_dropped(file: Path, torn: int) -> None:
    opened(file).add(TEXT)
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - torn)
    memory = opened(file)
    assert known(memory) == [TEXT[:-1]]
    memory.add([21, 22])
    assert known(opened(file)) == [TEXT[:-1], [21, 22]]


def test_a_file_of_another_tokenizer_is_refused_and_left_alone(file: Path) -> None:
    opened(file).add(TEXT)
    before = file.read_bytes()
    with pytest.raises(BundleError, match=r"texts\.memory was made with another tokenizer; choose another file"):
        opened(file, vocabulary="other words")
    assert file.read_bytes() == before


def test_a_file_that_another_tokenizer_made_meanwhile_is_left_alone(file: Path) -> None:
    late = opened(file, vocabulary="other words")
    opened(file).add(TEXT)
    with pytest.raises(BundleError, match="was made with another tokenizer"):
        late.add([1, 2, 3])
    assert known(opened(file)) == [TEXT]


@pytest.mark.parametrize("contents", [b"", b"skipstone", b"print('hello')\n" * 9, bytes(500)])
def test_a_file_that_is_no_memory_is_refused_and_left_alone(file: Path, contents: bytes) -> None:
    file.write_bytes(contents)
    with pytest.raises(BundleError, match=r"texts\.memory is not a suffix memory; choose another file"):
        opened(file)
    assert file.read_bytes() == contents


def test_a_file_cut_inside_its_header_is_refused(file: Path) -> None:
    opened(file).add(TEXT)
    file.write_bytes(file.read_bytes()[: HEADER_BYTES - 5])
    with pytest.raises(BundleError):
        opened(file)


# Places that cannot be used


def test_a_place_that_cannot_be_written_is_an_error_before_any_text(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(OutputError, match=r"texts\.memory cannot be used: .*; choose another file"):
        opened(tmp_path / "taken" / "texts.memory")


def test_a_folder_is_no_place_for_a_memory(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be used: Is a directory"):
        opened(tmp_path)


def test_a_text_stays_in_memory_when_its_file_has_become_unusable(file: Path) -> None:
    memory = opened(file)
    file.mkdir()
    with pytest.raises(OutputError):
        memory.add(TEXT)
    assert known(memory) == [TEXT]


def test_boundaries_in_the_file_are_no_tokens(file: Path) -> None:
    opened(file).add(TEXT)
    assert int.from_bytes(file.read_bytes()[HEADER_BYTES:][:4], sys.byteorder) == BOUNDARY
