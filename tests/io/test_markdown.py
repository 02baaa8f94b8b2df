"""Line breaks in Markdown."""

from __future__ import annotations

from featherglue.io.markdown import wrap_paragraphs


def test_only_paragraphs_are_wrapped() -> None:
    words = " ".join(["word"] * 30)
    kept = [
        f"# {words}",
        f"| {words} |\n|---|\n| {words} |",
        f"![{words}](picture.png)",
        f"> {words}",
        f"- {words}\n  {words}",
        f"```bash\n{words}\n\n{words}\n```",
        f"<!-- {words} -->",
    ]
    text = "\n\n".join([words, *kept, f"*{words}*"]) + "\n"
    wrapped = wrap_paragraphs(text)
    assert wrapped.split() == text.split() and wrapped.endswith("\n")
    assert all(part in wrapped for part in kept)
    first, last = wrapped.split("\n\n")[0], wrapped.split("\n\n")[-1]
    for paragraph in (first, last.rstrip()):
        assert len(paragraph.splitlines()) == 2
        assert max(map(len, paragraph.splitlines())) <= 100
    assert wrap_paragraphs(wrapped) == wrapped


def test_short_lines_of_a_paragraph_are_joined_and_long_words_kept() -> None:
    assert wrap_paragraphs("one\ntwo\n\nthree") == "one two\n\nthree"
    address = f"https://example.org/{'a' * 100}"
    assert wrap_paragraphs("at most 89 % are zero", 10) == "at most\n89 % are\nzero"
    assert wrap_paragraphs(f"see {address} there") == f"see\n{address}\nthere"
