"""Tables: cells once, for the terminal and for documents."""

from dataclasses import dataclass

from rich.table import Table

LEFT = ("mode", "cache", "server")


@dataclass(frozen=True, slots=True)
class Cells:
    """A table's text."""

    title: str
    header: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

    def rich(self) -> Table:
        table = Table(title=self.title, title_justify="left")
        for name in self.header:
            table.add_column(name, justify="left" if name in LEFT else "right")
        for cells in self.rows:
            table.add_row(*cells)
        return table
