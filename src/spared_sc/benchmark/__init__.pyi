from ._compare import compare as compare
from ._paper_table import paper_table as paper_table
from ._reference_external import reference_external as reference_external
from ._report import report as report
from ._results import results as results
from ._score import score as score
