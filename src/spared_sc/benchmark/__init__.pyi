from ._compare import compare as compare
from ._reference_external import reference_external as reference_external
from ._results import results as results
from ._score import score as score
