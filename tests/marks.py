"""Parts of pages that are made from figures: each stands between two marks."""

from typing import NamedTuple


class Marks(NamedTuple):
    """The lines around a part, and the page that they are in, for errors."""

    begin: str
    end: str
    page: str

    def put(self, text: str, part: str) -> str:
        """The page's text with a new part, its marks included.

        Raises:
            ValueError: the marks are not there.
        """
        head, _, tail = self._cut(text)
        return head + part + tail

    def shown(self, text: str) -> str:
        """The part that stands there, without its marks.

        Raises:
            ValueError: the marks are not there.
        """
        return self._cut(text)[1].strip()

    def _cut(self, text: str) -> tuple[str, str, str]:
        head, begin, rest = text.partition(self.begin)
        part, end, tail = rest.partition(self.end)
        if not begin or not end:
            raise ValueError(
                f"{self.page} must hold the lines {self.begin!r} and {self.end!r}: put them where the tables belong"
            )
        return head, part, tail
