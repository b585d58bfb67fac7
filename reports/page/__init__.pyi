from .figures import PLACES as PLACES
from .figures import Figure as Figure
from .figures import finish as finish
from .tables import Column as Column
from .writer import markdown_table as markdown_table
from .writer import write_report as write_report
