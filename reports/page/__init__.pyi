from .drawing import PLACES as PLACES
from .drawing import Figure as Figure
from .drawing import finish as finish
from .tables import Column as Column
from .writer import markdown_table as markdown_table
from .writer import write_report as write_report
