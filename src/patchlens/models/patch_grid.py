"""Where each visual token lies in the original image: the one owner of geometry.

Order is always (row, column), (top, left, bottom, right); units are pixels of the original upright image.
It does not know how a processor resized the image: the family's adapter says which region the grid covers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from patchlens.errors import OptionError

__all__ = ["PatchGrid"]


@dataclass(frozen=True)
class PatchGrid:
    """Rows × columns of visual tokens over a region of an image.

    Example:
        >>> grid = PatchGrid(rows=2, columns=4, image_size=(100, 300), region=(0.0, 50.0, 100.0, 250.0))
        >>> grid.box(1, 0)
        (50.0, 50.0, 100.0, 100.0)
        >>> grid.locate(75.0, 60.0), grid.locate(75.0, 10.0)
        ((1, 0), None)
    """

    rows: int
    """Visual tokens from top to bottom."""

    columns: int
    """Visual tokens from left to right."""

    image_size: tuple[int, int]
    """(height, width) of the original upright image, in pixels."""

    region: tuple[float, float, float, float]
    """(top, left, bottom, right) that the grid covers: less than the image if cropped, more if padded."""

    def __post_init__(self) -> None:
        top, left, bottom, right = self.region
        if self.rows < 1 or self.columns < 1 or bottom <= top or right <= left:
            raise OptionError(
                f"A patch grid of {self.rows} × {self.columns} over the region {self.region} is empty. It "
                "needs at least one row and one column over a region (top, left, bottom, right) that has an "
                "area."
            )

    @classmethod
    def of_patches(
        cls,
        image_size: tuple[int, int],
        shown: tuple[float, float, float, float],
        seen: tuple[int, int],
        patch_size: int,
    ) -> "PatchGrid":
        """Lay square patches over what the vision encoder sees.

        Args:
            image_size: (height, width) of the original image.
            shown: (top, left, bottom, right) in original pixels that the encoder's input shows.
            seen: (height, width) of the encoder's input. What is left over below and to the right of the last
                whole patch never enters the encoder, and the grid leaves it out.
            patch_size: Side of one patch, in pixels of the encoder's input.
        """
        rows, columns = seen[0] // patch_size, seen[1] // patch_size
        top, left, bottom, right = shown
        region = (
            top,
            left,
            top + (bottom - top) * rows * patch_size / seen[0],
            left + (right - left) * columns * patch_size / seen[1],
        )
        return cls(rows, columns, image_size, region)

    def __len__(self) -> int:
        return self.rows * self.columns

    def box(self, row: int, column: int) -> tuple[float, float, float, float]:
        """Say which pixels a visual token covers.

        Args:
            row: From 0, top to bottom.
            column: From 0, left to right.

        Returns:
            (top, left, bottom, right) in pixels of the original image; may reach outside it after padding.

        Raises:
            OptionError: The grid has no such cell.
        """
        self.index(row, column)
        top, left, bottom, right = self.region
        height, width = (bottom - top) / self.rows, (right - left) / self.columns
        return (
            top + row * height,
            left + column * width,
            top + (row + 1) * height,
            left + (column + 1) * width,
        )

    def index(self, row: int, column: int) -> int:
        """Give the place of a cell in row-major order, from 0.

        Args:
            row: From 0, top to bottom.
            column: From 0, left to right.

        Raises:
            OptionError: The grid has no such cell.
        """
        if not (0 <= row < self.rows and 0 <= column < self.columns):
            raise OptionError(
                f"There is no visual token at row {row}, column {column}: the grid has rows 0 to "
                f"{self.rows - 1} and columns 0 to {self.columns - 1}. Choose a cell among those."
            )
        return row * self.columns + column

    def at(self, index: int) -> tuple[int, int]:
        """Give the (row, column) of the cell that stands at `index` in row-major order.

        Args:
            index: From 0 to `len(grid) - 1`.

        Raises:
            OptionError: The grid has no such cell.
        """
        if not 0 <= index < len(self):
            raise OptionError(
                f"There is no visual token number {index}: the grid of {self.rows} × {self.columns} has "
                f"numbers 0 to {len(self) - 1}. Choose one among those."
            )
        return divmod(index, self.columns)

    def locate(self, y: float, x: float) -> tuple[int, int] | None:
        """Find the cell over a point of the original image.

        Args:
            y: Pixels from the top edge.
            x: Pixels from the left edge.

        Returns:
            (row, column), or None where the model does not see that point.
        """
        top, left, bottom, right = self.region
        if not (top <= y < bottom and left <= x < right):
            return None
        row = int((y - top) / (bottom - top) * self.rows)
        column = int((x - left) / (right - left) * self.columns)
        # The quotient of two close floats may round up to exactly 1.
        return min(row, self.rows - 1), min(column, self.columns - 1)

    def to_json(self) -> dict[str, Any]:
        """Give the grid as plain JSON values."""
        return {
            "rows": self.rows,
            "columns": self.columns,
            "image_size": list(self.image_size),
            "region": list(self.region),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "PatchGrid":
        """Make the grid again from `to_json`.

        Args:
            fields: What `to_json` gave.

        Raises:
            OptionError: Fields are missing or of the wrong kind.
        """
        try:
            height, width = fields["image_size"]
            top, left, bottom, right = fields["region"]
            return cls(
                rows=int(fields["rows"]),
                columns=int(fields["columns"]),
                image_size=(int(height), int(width)),
                region=(float(top), float(left), float(bottom), float(right)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise OptionError(
                f"Cannot read a patch grid from {fields!r}. It needs rows, columns, image_size (height, "
                "width) and region (top, left, bottom, right)."
            ) from error
